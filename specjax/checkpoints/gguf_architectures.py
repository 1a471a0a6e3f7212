"""The architectures of GGUF, in config.json's words and back.

An entry of `ARCHITECTURES` is all that the other files know of one.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from specjax.checkpoints import gguf_rope
from specjax.checkpoints.gguf_metadata import Metadata


class Architecture(NamedTuple):
  """GGUF's spelling of a kind of model.

  Attributes:
    name: `general.architecture`.
    model_types: kinds of config.json that are written so; the first is read.
    config: metadata -> config.json, without vocabulary and special tokens.
    metadata: config.json -> {name: value}.
    norm_offset: number that GGUF adds to the weights of norms.
    permuted: parts of names of matrices whose rows GGUF orders by pairs.
    turned: parts of names of matrices that are `[in, out]` in safetensors.
  """

  name: str
  model_types: tuple
  config: Callable[[Metadata], dict]
  metadata: Callable[[Mapping[str, Any]], dict]
  norm_offset: float = 0.0
  permuted: tuple = ()
  turned: tuple = ()


def _layers(meta: Metadata) -> dict:
  """Settings of all decoder-only models with rotary positions."""
  if meta.whole('expert_count', 0):
    raise ValueError(
      f'{meta.path} holds a {meta.arch} model with experts '
      f'({meta.key("expert_count")}={meta.whole("expert_count")}), which is '
      'not supported.'
    )
  width, heads = (
    meta.whole('embedding_length'),
    meta.whole('attention.head_count'),
  )
  usual = width // heads if heads else 0
  head_dim = meta.whole('attention.key_length', usual)
  meta.refuse('attention.value_length', head_dim)
  for name in ('clamp_kqv', 'max_alibi_bias', 'scale'):
    meta.refuse(f'attention.{name}', 0)
  return {
    'hidden_size': width,
    'intermediate_size': meta.whole('feed_forward_length'),
    'num_hidden_layers': meta.whole('block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': meta.whole('attention.head_count_kv', heads),
    'head_dim': head_dim,
    'max_position_embeddings': meta.whole('context_length'),
    'rms_norm_eps': meta.number('attention.layer_norm_rms_epsilon'),
    'rope_parameters': gguf_rope.read(meta, head_dim),
    'tie_word_embeddings': 'output.weight' not in meta.tensors,
  }


def _llama(meta: Metadata) -> dict:
  return _layers(meta) | {
    'hidden_act': 'silu',
    'attention_bias': 'blk.0.attn_q.bias' in meta.tensors,
    'mlp_bias': 'blk.0.ffn_up.bias' in meta.tensors,
  }


def _qwen(meta: Metadata) -> dict:
  return _layers(meta) | {'hidden_act': 'silu'}


def _gemma(meta: Metadata) -> dict:
  return _layers(meta) | {'hidden_activation': 'gelu_pytorch_tanh'}


# Layers of the 27B models, whose scores are scaled by width over heads and not
# by the width of a head; as in llama.cpp, since no metadata has it.
_GEMMA2_27B, _GEMMA3_27B = 46, 62


def _scaled(meta: Metadata, layers_of_27b: int) -> dict:
  made = _gemma(meta)
  scalar = made['head_dim']
  if made['num_hidden_layers'] == layers_of_27b:
    scalar = made['hidden_size'] // made['num_attention_heads']
  return made | {'query_pre_attn_scalar': scalar}


def _windows(meta: Metadata, layers: int, every: int) -> list[str]:
  """The kind of each layer."""
  pattern = meta.get('attention.sliding_window_pattern', every)
  if isinstance(pattern, np.ndarray) and len(pattern) == layers:
    sliding = pattern.astype(bool).tolist()
  else:
    every = meta.whole('attention.sliding_window_pattern', every)
    # Of 3 the third looks at all: [1 1 0 1 1 0]; of 0 all are windowed
    sliding = [not every or i % every < every - 1 for i in range(layers)]
  return ['sliding_attention' if x else 'full_attention' for x in sliding]


def _gemma2(meta: Metadata) -> dict:
  made = _scaled(meta, _GEMMA2_27B)
  return made | {
    'attn_logit_softcapping': meta.number('attn_logit_softcapping', 50.0),
    'final_logit_softcapping': meta.number('final_logit_softcapping', 30.0),
    'sliding_window': meta.whole('attention.sliding_window', 4096),
    'layer_types': _windows(meta, made['num_hidden_layers'], 2),
  }


def _gemma3(meta: Metadata) -> dict:
  made = _scaled(meta, _GEMMA3_27B)
  # Full layers have the base and the scaling; windowed ones a base of theirs.
  full = gguf_rope.read(meta, made['head_dim'], 1e6)
  local = meta.number('rope.freq_base_swa', 10000.0)
  made |= {
    'rope_parameters': {
      'full_attention': full,
      'sliding_attention': {'rope_type': 'default', 'rope_theta': local},
    },
    'final_logit_softcapping': meta.number('final_logit_softcapping', None),
    'sliding_window': meta.whole('attention.sliding_window', None),
  }
  types = _windows(meta, made['num_hidden_layers'], 6)
  if not made['sliding_window']:
    types = ['full_attention'] * len(types)
    made['sliding_window'] = made['max_position_embeddings']
  return made | {'layer_types': types}


def _gpt2(meta: Metadata) -> dict:
  width = meta.whole('embedding_length')
  return {
    'n_embd': width,
    'n_inner': meta.whole('feed_forward_length', 4 * width),
    'n_layer': meta.whole('block_count'),
    'n_head': meta.whole('attention.head_count'),
    'n_positions': meta.whole('context_length'),
    'layer_norm_epsilon': meta.number('attention.layer_norm_epsilon'),
    'activation_function': 'gelu_new',
    'tie_word_embeddings': 'output.weight' not in meta.tensors,
  }


def _t5(meta: Metadata) -> dict:
  width, heads = (
    meta.whole('embedding_length'),
    meta.whole('attention.head_count'),
  )
  layers, tied = meta.whole('block_count'), 'output.weight' not in meta.tensors
  gated = 'enc.blk.0.ffn_gate.weight' in meta.tensors
  return {
    'is_encoder_decoder': True,
    'd_model': width,
    'd_kv': meta.whole('attention.key_length', width // heads if heads else 0),
    'd_ff': meta.whole('feed_forward_length'),
    'num_layers': layers,
    'num_decoder_layers': meta.whole('decoder_block_count', layers),
    'num_heads': heads,
    'relative_attention_num_buckets': meta.whole(
      'attention.relative_buckets_count'
    ),
    'relative_attention_max_distance': 128,
    'layer_norm_epsilon': meta.number('attention.layer_norm_rms_epsilon'),
    # As in llama.cpp: no metadata has the activation.
    'feed_forward_proj': 'gated-gelu' if gated else 'relu',
    'tie_word_embeddings': tied,
    'scale_decoder_outputs': tied,
    'decoder_start_token_id': meta.whole('decoder_start_token_id', 0),
    'n_positions': meta.whole('context_length', 512),
  }


def _of_layers(raw: Mapping[str, Any]) -> dict:
  """Metadata of a decoder-only model with rotary positions."""
  rope = raw['rope_parameters']
  return {
    'context_length': raw['max_position_embeddings'],
    'embedding_length': raw['hidden_size'],
    'block_count': raw['num_hidden_layers'],
    'feed_forward_length': raw['intermediate_size'],
    'attention.head_count': raw['num_attention_heads'],
    'attention.head_count_kv': raw['num_key_value_heads'],
    'attention.key_length': raw['head_dim'],
    'attention.value_length': raw['head_dim'],
    'attention.layer_norm_rms_epsilon': raw['rms_norm_eps'],
    'rope.dimension_count': raw['head_dim'],
    'vocab_size': raw['vocab_size'],
    **gguf_rope.write(rope.get('full_attention', rope)),
  }


def _of_gemma(raw: Mapping[str, Any]) -> dict:
  made = _of_layers(raw)
  local = raw['rope_parameters'].get('sliding_attention')
  if local is not None:
    made['rope.freq_base_swa'] = float(local['rope_theta'])
  for key in ('attn_logit_softcapping', 'final_logit_softcapping'):
    if raw.get(key) is not None:
      made[key] = float(raw[key])
  if raw.get('layer_types'):
    made['attention.sliding_window'] = raw['sliding_window']
    made['attention.sliding_window_pattern'] = [
      kind == 'sliding_attention' for kind in raw['layer_types']
    ]
  return made


def _of_gpt2(raw: Mapping[str, Any]) -> dict:
  return {
    'context_length': raw['n_positions'],
    'embedding_length': raw['n_embd'],
    'block_count': raw['n_layer'],
    'feed_forward_length': raw['n_inner'],
    'attention.head_count': raw['n_head'],
    'attention.layer_norm_epsilon': raw['layer_norm_epsilon'],
  }


def _of_t5(raw: Mapping[str, Any]) -> dict:
  return {
    'context_length': 512,
    'embedding_length': raw['d_model'],
    'block_count': raw['num_layers'],
    'decoder_block_count': raw['num_decoder_layers'],
    'feed_forward_length': raw['d_ff'],
    'attention.head_count': raw['num_heads'],
    'attention.key_length': raw['d_kv'],
    'attention.value_length': raw['d_kv'],
    'attention.layer_norm_epsilon': raw['layer_norm_epsilon'],
    'attention.layer_norm_rms_epsilon': raw['layer_norm_epsilon'],
    'attention.relative_buckets_count': raw['relative_attention_num_buckets'],
    'decoder_start_token_id': raw['decoder_start_token_id'],
    'vocab_size': raw['vocab_size'],
  }


_BUILT_IN = (
  # Mistral differs by its windows alone, which GGUF has no place for.
  Architecture(
    'llama',
    ('llama', 'mistral'),
    _llama,
    _of_layers,
    permuted=('attn_q.', 'attn_k.'),
  ),
  Architecture('qwen2', ('qwen2',), _qwen, _of_layers),
  Architecture('qwen3', ('qwen3',), _qwen, _of_layers),
  Architecture('gemma', ('gemma',), _gemma, _of_gemma, norm_offset=1.0),
  Architecture('gemma2', ('gemma2',), _gemma2, _of_gemma, norm_offset=1.0),
  Architecture('gemma3', ('gemma3_text',), _gemma3, _of_gemma, norm_offset=1.0),
  Architecture(
    'gpt2',
    ('gpt2',),
    _gpt2,
    _of_gpt2,
    turned=('attn_qkv.weight', 'attn_output.weight', 'ffn_up.weight')
    + ('ffn_down.weight',),
  ),
  Architecture('t5', ('t5', 'mt5'), _t5, _of_t5),
)
ARCHITECTURES = {one.name: one for one in _BUILT_IN}


def of_metadata(path: str, values: Mapping[str, Any]) -> Architecture:
  """The architecture of a file.

  Args:
    path: the file, for messages.
    values: its metadata.

  Raises:
    ValueError: none that is supported.
  """
  meta = Metadata(path, '', values, {})
  name = meta.text('general.architecture', None)
  kind = meta.text('general.type', 'model')
  if name is None:
    raise ValueError(f'{path} lacks general.architecture in its metadata.')
  if name == 'clip' or kind == 'mmproj':
    raise ValueError(
      f'{path} is a vision projector (mmproj), not a language model: give the '
      'GGUF file of the model that it belongs to.'
    )
  if kind != 'model':
    raise ValueError(f'{path} holds no model, but a {kind} (general.type).')
  if name not in ARCHITECTURES:
    raise ValueError(
      f'{path} holds a model of the architecture {name!r}, which is not '
      f'supported; supported are {", ".join(ARCHITECTURES)}.'
    )
  return ARCHITECTURES[name]


def of_model_type(model_type: str) -> Architecture:
  """The architecture as which a kind of config.json is written.

  Raises:
    ValueError: GGUF has none that is supported.
  """
  for one in _BUILT_IN:
    if model_type in one.model_types:
      return one
  known = [kind for one in _BUILT_IN for kind in one.model_types]
  raise ValueError(
    f'a {model_type} model cannot be written as GGUF; models of the types '
    f'{", ".join(known)} can.'
  )
