"""Every field of every config.json with values of every kind."""

import copy
import json

import pytest

from specjax import models
from specjax.checkpoints import hf
from specjax.models.common.rope import Rope
from specjax.models.decoder import hf as decoder_hf
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.speculator.config import ParallelConfig
from tests.helpers.model_configs import CONFIGS

VALUES = (
  *(None, True, False, 0, 7, -1, 10**30, 2.5, 1e308),
  *(float('nan'), float('inf'), '', 'x', [], [1], ['a'], [[1]], [{}], {}),
  {'a': 1},
)
# One id or a list of them; a name or a list of them.
OF_TWO_KINDS = ('eos_token_id', 'architectures')


def _decoder(kind):
  sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2)
  sizes |= dict(num_attention_heads=4, num_key_value_heads=2, head_dim=4)
  sizes |= dict(n_embd=16, n_head=4, n_layer=2, n_positions=32, n_inner=32)
  sizes |= dict(vocab_size=40, max_position_embeddings=32, sliding_window=4)
  sizes |= dict(hidden_act='silu', attention_bias=False, mlp_bias=False)
  sizes |= dict(rms_norm_eps=1e-6, tie_word_embeddings=True, eos_token_id=2)
  sizes |= dict(use_sliding_window=True, bos_token_id=1, pad_token_id=0)
  sizes |= dict(max_window_layers=1, sliding_window_pattern=2)
  rope = {'rope_type': 'yarn', 'factor': 2.0, 'rope_theta': 1e4}
  sizes |= dict(rope_parameters=rope if kind != 'gemma3_text' else {})
  names = decoder_hf.MODEL_TYPES[kind]
  return sizes | {'model_type': kind, 'architectures': [names[0]]}


def _drafters():
  trunk = CONFIGS['decoder']
  return {
    'spec_drafter': SpecDrafterConfig(40, 16, 8, 16, 1, 2, 4),
    'blockwise': BlockwiseConfig(vocab_size=40, d_model=16, d_ff=16, block=3),
    'parallel': ParallelConfig(trunk, 16, 2, acceptance=(0.5, 0.25)),
    't5': models.T5Config(40, 16, 8, 16, 1, 2, 4, decoder_start_token_id=1),
    'layers': models.DecoderConfig(
      *(40, 16, 16, 2, 4, 2, 4, 32),
      sliding_window=4,
      sliding_layers=(True, False),
      rope=Rope(1e4, 'llama3', 8.0, original_max_position_embeddings=16),
      model_type='qwen3',
      qk_norm=True,
    ),
  }


NAMES = (*decoder_hf.MODEL_TYPES, *_drafters())


def _paths(value, path=()):
  for name, inner in value.items():
    yield (*path, name)
    if isinstance(inner, dict):
      yield from _paths(inner, (*path, name))


def _with(raw, path, value):
  made = copy.deepcopy(raw)
  place = made
  for name in path[:-1]:
    place = place[name]
  before, place[path[-1]] = place[path[-1]], value
  return made, before


def _is_of_kind(value, before):
  if isinstance(before, bool) or isinstance(value, bool):
    return type(value) is type(before)
  if isinstance(before, float):
    return isinstance(value, (int, float))
  return isinstance(value, type(before))


@pytest.mark.parametrize('name', NAMES)
def test_a_field_of_another_kind_is_refused_in_one_sentence(name):
  drafters = _drafters()
  raw = hf.config_to_hf(drafters[name]) if name in drafters else _decoder(name)
  raw = json.loads(json.dumps(raw))
  good = hf.parse_config(raw)
  for path in _paths(raw):
    for value in VALUES:
      changed, before = _with(raw, path, value)
      where = path, value
      try:
        made = hf.parse_config(changed)
      except ValueError as error:
        said = str(error)
        assert '\n' not in said and said.endswith('.'), (where, said)
        assert 'must not have' not in said, (where, said)
        continue
      hash(made)
      free = value is None or before is None or path[-1] in OF_TWO_KINDS
      if not free and made != good:
        assert _is_of_kind(value, before), where
