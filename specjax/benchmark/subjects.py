"""What a benchmark measures beside models: a corpus, and folders for peers."""

import contextlib
import functools
import os
import tempfile
from typing import Optional

import numpy as np

from specjax.checkpoints import hf
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.inference import random_models
from specjax.models.common import quantize

# Tokens of a random sequence in a corpus, its separator included.
_SEQUENCE = 256


def corpus(rows, target: model_lib.Model, config) -> corpus_lib.Corpus:
  """A corpus of the rows given, behind `config.corpus_tokens` random tokens."""
  rng = np.random.default_rng(config.seed)
  filler = rng.integers(
    0, target.lm.vocab_size, (config.corpus_tokens // _SEQUENCE, _SEQUENCE - 1)
  )
  rows = [*filler, *rows]
  size = sum(len(row) + 1 for row in rows)
  return corpus_lib.add(corpus_lib.empty(max(size, 2), ''), rows)


@contextlib.contextmanager
def exported(*loaded: Optional[model_lib.Model]):
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


@functools.lru_cache(maxsize=None)
def _local(name: str) -> str:
  if os.path.isdir(name):
    return os.path.abspath(name)
  import huggingface_hub

  return huggingface_hub.snapshot_download(name, local_files_only=True)
