"""Rotary settings in both spellings, decided as transformers 5 decides them."""

import copy
import itertools

import numpy as np
import pytest

from specjax.models.common.rope import rope_frequencies
from specjax.models.decoder import hf
from tests.helpers import torch_reference

HEAD_DIM = 8
LINEAR = {'rope_type': 'linear', 'factor': 2.0}
OLD_LINEAR = {'type': 'linear', 'factor': 4.0}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
YARN = {'rope_type': 'yarn', 'factor': 4.0, 'type': 'linear'}
THETA = {'rope_theta': 100.0}
# Values of each key; None leaves it out.
FLAT = {
  'rope_parameters': (
    None,
    {},
    THETA,
    LINEAR | {'rope_theta': 300.0},
    LLAMA3 | THETA,
    YARN,
    {'full_attention': LINEAR},
  ),
  'rope_scaling': (None, {}, LINEAR, OLD_LINEAR | THETA, LLAMA3, YARN),
  'rope_theta': (None, 50.0),
  'original_max_position_embeddings': (None, 32),
}
BY_LAYER = {
  'rope_parameters': (
    None,
    {'full_attention': LINEAR | THETA, 'sliding_attention': THETA},
    {'full_attention': THETA, 'sliding_attention': LINEAR},
    {'full_attention': YARN, 'sliding_attention': None, 'rope_theta': 3.0},
    {'full_attention': None},
    LINEAR,
  ),
  'rope_scaling': (None, {}, LINEAR, OLD_LINEAR, LLAMA3, YARN),
  'rope_theta': (None, 50.0),
  'rope_local_base_freq': (None, 70.0),
  'layer_types': (torch_reference.MIXED,),
}
# Name, values, and what is refused though transformers, which ignores it, reads
# on.
KINDS = {
  'llama': ('Llama', FLAT, {'full_attention'}),
  'qwen2': ('Qwen2', FLAT, set()),
  'bitnet': ('BitNet', FLAT, {'full_attention'}),
  'gemma3_text': ('Gemma3', BY_LAYER, {'rope_type'}),
}


def theirs(kind, settings):
  """[(frequencies, factor)] for each layer type, or None for a refusal."""
  import transformers

  config_class = transformers.CONFIG_MAPPING[kind]
  module = getattr(transformers.models, kind.removesuffix('_text'))
  rotary = getattr(module, f'modeling_{kind.removesuffix("_text")}')
  rotary = getattr(rotary, f'{KINDS[kind][0]}RotaryEmbedding')
  try:
    made = rotary(config_class(**copy.deepcopy(settings)))
  except (KeyError, TypeError, ValueError, AttributeError):
    return None
  names = ('',)
  if kind == 'gemma3_text':
    names = ('full_attention_', 'sliding_attention_')
  return [
    (
      getattr(made, f'{name}inv_freq').numpy(),
      getattr(made, f'{name}attention_scaling'),
    )
    for name in names
  ]


@pytest.mark.parametrize('kind', KINDS)
def test_both_spellings_are_read_as_transformers_reads_them(kind, torch):
  del torch
  _, choices, ignored = KINDS[kind]
  compared, refused = 0, set()
  for values in itertools.product(*choices.values()):
    named = dict(zip(choices, values, strict=True))
    settings = torch_reference.DECODER | {
      name: value for name, value in named.items() if value is not None
    }
    wanted = theirs(kind, settings)
    try:
      made = hf.from_hf(settings | {'model_type': kind})
    except ValueError:
      if wanted is not None:
        refused.add(next(iter(named['rope_parameters'])))
      continue
    if wanted is None:
      continue
    ours = [made.rope] + [made.local_rope] * (made.local_rope is not None)
    for rope, (frequency, factor) in zip(ours, wanted, strict=True):
      np.testing.assert_allclose(
        rope_frequencies(rope, HEAD_DIM), frequency, rtol=1e-5, err_msg=named
      )
      assert np.isclose(rope.attention_factor, factor), named
    compared += 1
  assert refused == ignored
  assert compared >= 100
