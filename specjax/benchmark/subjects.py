"""Inputs of a benchmark beside models: a corpus, and folders for peers."""

from collections.abc import Iterator, Sequence
import contextlib
import functools
import os
import tempfile
from typing import Any

import numpy as np

from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.inference import random_models
from specjax.models.common import quantize

# Tokens of a random sequence in a corpus, its separator included.
_SEQUENCE = 256


def corpus(
  rows: Sequence[Sequence[int]], target: model_lib.Model, config: Any
) -> corpus_lib.Corpus:
  """A corpus of the rows given, behind `config.corpus_tokens` random tokens.

  Random tokens match no answer, so their number costs time and brings nothing.
  """
  rng = np.random.default_rng(config.seed)
  filler = rng.integers(
    0, target.lm.vocab_size, (config.corpus_tokens // _SEQUENCE, _SEQUENCE - 1)
  )
  rows = [*filler, *rows]
  size = sum(len(row) + 1 for row in rows)
  return corpus_lib.add(corpus_lib.empty(max(size, 2), ''), rows)


@contextlib.contextmanager
def exported(*loaded: model_lib.Model | None) -> Iterator[list[str | None]]:
  """Folders that a peer can read, of models in the order given.

  A model from a folder is that folder; a shape is written to a temporary one,
  which is removed at the end. None gives None.
  """
  with contextlib.ExitStack() as stack:
    folders = []
    for model in loaded:
      if model is None or not random_models.is_shape(model.name):
        folders.append(None if model is None else _local(model.name))
        continue
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      hf.save_hf(folder, quantize.floats(model.params), model.config)
      folders.append(folder)
    yield folders


@functools.cache
def _local(name: str) -> str:
  return os.path.abspath(loading.folder_of(name))
