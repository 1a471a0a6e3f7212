"""A tiny model's folder, and what is done to it."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax.checkpoints import load as loading
from specjax.models.common import cpu_layout
from tests.helpers.model_configs import CONFIGS

CONFIG = dataclasses.replace(
  CONFIGS['decoder'],
  vocab_size=104,
  model_type='mistral',
  hidden_act='silu',
  sliding_layers=(True, True),
  eos_token_id=(2, 3),
)


def change(folder, name, **fields):
  path = folder / name
  data = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({k: v for k, v in data.items() if v != 'gone'}))


def change_tensors(folder, edit):
  path = folder / 'model.safetensors'
  tensors = safetensors_numpy.load_file(path)
  edit(tensors)
  safetensors_numpy.save_file(tensors, path)


def complaint(folder, kind=ValueError):
  with pytest.raises(kind) as caught:
    loading.load(folder)
  text = str(caught.value)
  assert '\n' not in text and text.endswith('.')
  return text


def assert_same(params, stored):
  """Asserts equal parameters, but for the order of matrices."""
  found = cpu_layout.stored(params)
  jax.tree.map(np.testing.assert_array_equal, found, stored)


def shard(folder):
  """Splits the weights in two files and an index."""
  tensors = safetensors_numpy.load_file(folder / 'model.safetensors')
  os.remove(folder / 'model.safetensors')
  names = sorted(tensors)
  where = {}
  for part, keys in enumerate((names[:5], names[5:])):
    file = f'model-{part + 1:05}-of-00002.safetensors'
    safetensors_numpy.save_file({k: tensors[k] for k in keys}, folder / file)
    where |= dict.fromkeys(keys, file)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  return index, where
