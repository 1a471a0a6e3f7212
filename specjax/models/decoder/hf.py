"""A decoder-only model's settings in Hugging Face's spelling, both ways.

Reads config.json files of transformers 4 (`rope_theta`, `rope_scaling`) and 5
(`rope_parameters`). Both read the files that are written.
"""

from collections.abc import Mapping
import math
from typing import Any

from specjax import validation
from specjax.models.decoder import rope_json
from specjax.models.decoder.config import DecoderConfig
from specjax.models.decoder.config import token_ids
from specjax.models.facts import check_layers

# `model_type` -> names of the architecture, the first of which is written; old
# files of the hub spell the same language model otherwise.
MODEL_TYPES = {
  'llama': ('LlamaForCausalLM',),
  'mistral': ('MistralForCausalLM',),
  'qwen2': ('Qwen2ForCausalLM',),
  'qwen3': ('Qwen3ForCausalLM',),
  'gpt2': ('GPT2LMHeadModel', 'GPT2Model'),
  'bitnet': ('BitNetForCausalLM',),
  'gemma': ('GemmaForCausalLM',),
  'gemma2': ('Gemma2ForCausalLM',),
  'gemma3_text': ('Gemma3ForCausalLM',),
}

# Fields that are checked before anything is computed from them.
_COUNTS = (
  'hidden_size',
  'num_attention_heads',
  'num_hidden_layers',
  'max_position_embeddings',
  'n_embd',
  'n_head',
  'n_layer',
  'n_positions',
)
_KINDS = {
  int: (
    'num_key_value_heads head_dim n_inner sliding_window max_window_layers '
    'sliding_window_pattern'
  ),
  bool: 'use_sliding_window use_bidirectional_attention attention_bias',
  list: 'layer_types',
  dict: 'rope_parameters rope_scaling',
}

_GEMMAS = ('gemma', 'gemma2', 'gemma3_text')
# What transformers leaves out of the text_config of a Gemma 3 with images.
_GEMMA3 = {
  'vocab_size': 262208,
  'hidden_size': 2304,
  'intermediate_size': 9216,
  'num_hidden_layers': 26,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'max_position_embeddings': 131072,
  'bos_token_id': 2,
  'eos_token_id': 1,
  'pad_token_id': 0,
}
# Settings that a config.json with a text_config has outside of it.
_OUTER = (
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'dtype',
  'torch_dtype',
  'quantization_config',
)


def language_part(config: dict) -> dict:
  """The config.json of the language model inside a Gemma 3 with images.

  Args:
    config: any parsed config.json; all others are returned as they are.
  """
  inner = config.get('text_config')
  images = 'Gemma3ForConditionalGeneration'
  if config.get('model_type') != 'gemma3' or not isinstance(inner, dict):
    return config
  if (config.get('architectures') or [images]) != [images]:
    return config
  # The outer values count: exporters set end tokens there and leave the inner
  # ones at their defaults.
  outer = {key: config[key] for key in _OUTER if config.get(key) is not None}
  if {'dtype', 'torch_dtype'} & set(outer):
    inner = inner | {'dtype': None, 'torch_dtype': None}
  return (
    _GEMMA3
    | inner
    | outer
    | {'architectures': ['Gemma3ForCausalLM'], 'model_type': 'gemma3_text'}
  )


def from_hf(config: Mapping[str, Any]) -> DecoderConfig:
  """Reads a Hugging Face config.json, of transformers 4 or 5.

  Raises:
    ValueError: a setting is not supported, or a required one is missing.
  """
  model_type = config['model_type']
  for name in _COUNTS:
    value = config.get(name, 1)
    if type(value) is not int or value < 1:
      raise ValueError(f'{name} must be a positive integer, not {value!r}.')
  for name in ('num_hidden_layers', 'n_layer'):
    check_layers(name, config.get(name, 1))
  validation.json_kinds(config, _KINDS)
  try:
    made = _gpt2(config) if model_type == 'gpt2' else _llama_like(config)
  except KeyError as error:
    raise ValueError(
      f'config.json of this {model_type} model lacks {error.args[0]!r}.'
    ) from None
  made.validate()
  return made


def _gpt2(config) -> DecoderConfig:
  for name, needed in (
    ('scale_attn_weights', True),
    ('scale_attn_by_inverse_layer_idx', False),
    ('add_cross_attention', False),
  ):
    if config.get(name, needed) != needed:
      raise ValueError(
        f'GPT-2 with {name}={config[name]} is not supported; only {needed} is.'
      )
  width, heads = config['n_embd'], config['n_head']
  return DecoderConfig(
    model_type='gpt2',
    vocab_size=config['vocab_size'],
    hidden_size=width,
    intermediate_size=config.get('n_inner') or 4 * width,
    num_hidden_layers=config['n_layer'],
    num_attention_heads=heads,
    num_key_value_heads=heads,
    head_dim=width // heads,
    max_position_embeddings=config['n_positions'],
    hidden_act=config.get('activation_function', 'gelu_new'),
    norm_eps=config.get('layer_norm_epsilon', 1e-5),
    tie_word_embeddings=config.get('tie_word_embeddings', True),
    rope=None,
    layer_norm=True,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    gated=False,
    bos_token_id=config.get('bos_token_id'),
    pad_token_id=config.get('pad_token_id'),
    eos_token_id=token_ids(config.get('eos_token_id')),
  )


def _llama_like(config) -> DecoderConfig:
  kind = config['model_type']
  gemma = kind in _GEMMAS
  width, heads = config['hidden_size'], config['num_attention_heads']
  layers = config['num_hidden_layers']
  bias = config.get('attention_bias', False)
  window, sliding = _windows(config, layers)
  rope, local_rope = rope_json.read(config)
  if config.get('use_bidirectional_attention'):
    raise ValueError(
      f'{kind} with use_bidirectional_attention=true is not supported; only '
      'causal attention is.'
    )
  usual, epsilon = ('relu2', 1e-5) if kind == 'bitnet' else ('silu', 1e-6)
  activation = config.get('hidden_act', usual)
  if gemma:
    activation = config.get('hidden_activation') or 'gelu_pytorch_tanh'
  capped = kind == 'gemma2'
  return DecoderConfig(
    model_type=kind,
    vocab_size=config['vocab_size'],
    hidden_size=width,
    intermediate_size=config['intermediate_size'],
    num_hidden_layers=layers,
    num_attention_heads=heads,
    num_key_value_heads=config.get('num_key_value_heads') or heads,
    head_dim=_head_dim(config),
    max_position_embeddings=_positions(config, rope),
    hidden_act=activation,
    norm_eps=config.get('rms_norm_eps', epsilon),
    # Files leave out what is the default of their own family.
    tie_word_embeddings=config.get('tie_word_embeddings', gemma),
    sliding_window=window,
    sliding_layers=sliding,
    rope=rope,
    local_rope=local_rope,
    norm_offset=1.0 if gemma else 0.0,
    qkv_bias=kind == 'qwen2' or bias,
    out_bias=kind != 'qwen2' and bias,
    mlp_bias=config.get('mlp_bias', False),
    qk_norm=kind in ('qwen3', 'gemma3_text'),
    sub_norm=kind == 'bitnet',
    post_norm=kind in ('gemma2', 'gemma3_text'),
    embed_scale=math.sqrt(width) if gemma else 1.0,
    query_pre_attn_scalar=(
      config.get('query_pre_attn_scalar', 256)
      if kind in ('gemma2', 'gemma3_text')
      else None
    ),
    # Gemma 3 keeps the field but never applies it.
    attn_logit_softcapping=(
      config.get('attn_logit_softcapping', 50.0) if capped else None
    ),
    final_logit_softcapping=config.get(
      'final_logit_softcapping', 30.0 if capped else None
    ),
    bos_token_id=config.get('bos_token_id'),
    pad_token_id=config.get('pad_token_id'),
    eos_token_id=token_ids(config.get('eos_token_id')),
  )


def _head_dim(config) -> int:
  """Width of a head, which config.json may leave out."""
  if config.get('head_dim') is not None:
    return config['head_dim']
  kind = config['model_type']
  if kind in _GEMMAS:
    return 256
  even = config['hidden_size'] // config['num_attention_heads']
  # Heads need not add up to the width: Qwen3-0.6B has 16 x 128 for 1,024.
  return 128 if kind == 'qwen3' else even


def _positions(config, rope) -> int:
  """Most positions; some files state those before stretching."""
  positions = config['max_position_embeddings']
  if rope.kind == 'yarn':
    stretched = rope.factor * rope.original_max_position_embeddings
    validation.between(
      'the stretched context', stretched, 1, validation.LARGEST
    )
    positions = max(positions, int(stretched))
  return positions


def _windows(config, layers):
  """Returns (sliding_window or None, one bool a layer)."""
  kind = config['model_type']
  window = config.get('sliding_window')
  if kind in ('gemma2', 'gemma3_text'):
    window = config.get('sliding_window', 4096)
  # Qwen's files state a window and then switch it off.
  if kind in ('qwen2', 'qwen3') and not config.get('use_sliding_window'):
    window = None
  if window is None or kind in ('llama', 'bitnet', 'gemma'):
    return None, ()
  types = config.get('layer_types')
  if types is not None:
    for name in types:
      if name not in ('sliding_attention', 'full_attention'):
        raise ValueError(
          f'layer type {name!r} is not supported; supported are '
          "'full_attention' and 'sliding_attention'."
        )
    return window, tuple(name == 'sliding_attention' for name in types)
  if kind == 'mistral':
    return window, (True,) * layers
  if kind == 'gemma2':
    # Layers alternate, a windowed one first: [1 0 1 0 ...]
    return window, tuple(i % 2 == 0 for i in range(layers))
  if kind == 'gemma3_text':
    every = config.get('sliding_window_pattern')
    every = 6 if every is None else every
    validation.whole('sliding_window_pattern', every, 1)
    return window, tuple((i + 1) % every != 0 for i in range(layers))
  first = config.get('max_window_layers')
  first = 28 if first is None else first
  return window, tuple(i >= first for i in range(layers))


def to_hf(config: DecoderConfig) -> dict:
  """Returns the config.json of `config`."""
  eos = list(config.eos_token_id)
  made = {
    'architectures': [MODEL_TYPES[config.model_type][0]],
    'model_type': config.model_type,
    'vocab_size': config.vocab_size,
    'tie_word_embeddings': config.tie_word_embeddings,
    'bos_token_id': config.bos_token_id,
    'pad_token_id': config.pad_token_id,
    'eos_token_id': eos[0] if len(eos) == 1 else eos or None,
  }
  if config.model_type == 'gpt2':
    return made | {
      'n_embd': config.hidden_size,
      'n_inner': config.intermediate_size,
      'n_layer': config.num_hidden_layers,
      'n_head': config.num_attention_heads,
      'n_positions': config.max_position_embeddings,
      'activation_function': config.hidden_act,
      'layer_norm_epsilon': config.norm_eps,
    }
  gemma = config.model_type in _GEMMAS
  made |= {
    'hidden_size': config.hidden_size,
    'intermediate_size': config.intermediate_size,
    'num_hidden_layers': config.num_hidden_layers,
    'num_attention_heads': config.num_attention_heads,
    'num_key_value_heads': config.num_key_value_heads,
    'head_dim': config.head_dim,
    'max_position_embeddings': config.max_position_embeddings,
    'hidden_activation' if gemma else 'hidden_act': config.hidden_act,
    'rms_norm_eps': config.norm_eps,
    'attention_bias': config.out_bias,
    'rope_parameters': rope_json.write(config.rope),
    # Beside `rope_parameters`, for readers of transformers 4.
    'rope_theta': config.rope.theta,
  }
  if config.model_type == 'llama':
    made['mlp_bias'] = config.mlp_bias
  if config.local_rope is not None:
    del made['rope_theta']
    made['rope_parameters'] = {
      'full_attention': rope_json.write(config.rope),
      'sliding_attention': rope_json.write(config.local_rope),
    }
  if config.model_type in ('gemma2', 'gemma3_text'):
    made['query_pre_attn_scalar'] = config.query_pre_attn_scalar
    made['attn_logit_softcapping'] = config.attn_logit_softcapping
    made['final_logit_softcapping'] = config.final_logit_softcapping
  return made | _write_windows(config)


def _write_windows(config):
  if config.model_type == 'mistral':
    return {'sliding_window': config.sliding_window}
  if not config.sliding_layers:
    return {}
  return {
    'sliding_window': config.sliding_window,
    'use_sliding_window': True,
    'layer_types': [
      'sliding_attention' if sliding else 'full_attention'
      for sliding in config.sliding_layers
    ],
  }
