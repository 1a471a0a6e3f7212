"""Batches of sentence pairs."""

import dataclasses

from specjax.training.data import batches as batches_lib
from specjax.training.data import sources as sources_lib


def encode(texts):
  """Words 'wN' to id N + 2, without an end token."""
  return [[int(w[1:]) + 2 for w in t.split()] for t in texts]


def settings(path, **changes):
  return dataclasses.replace(
    sources_lib.DataConfig(
      train=path,
      source_length=24,
      target_length=24,
      batch_rows=4,
      joined_fraction=0.5,
      join_min=2,
      join_max=3,
    ),
    **changes,
  )


def make(path, seed=0, **changes):
  rows = changes.pop('rows', None)
  config = settings(path, **changes)
  source = sources_lib.load_pairs(config, [path], encode, EOS)
  return batches_lib.make_batches(
    config, [source], seed=seed, start_id=0, rows=rows
  )


EOS = 1
