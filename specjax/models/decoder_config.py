"""Settings of the decoder-only family, and their Hugging Face spelling.

One frozen dataclass covers Llama 2/3, Mistral, Qwen2, Qwen3, GPT-2, BitNet and
Gemma 1/2/3: a family is nothing but a set of switches.
"""

import dataclasses
import math
from typing import Any, Mapping, Optional

from specjax.models.layers import ACTIVATIONS, Rope

ARCHITECTURES = {
  'llama': 'LlamaForCausalLM',
  'mistral': 'MistralForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'gpt2': 'GPT2LMHeadModel',
  'bitnet': 'BitNetForCausalLM',
  'gemma': 'GemmaForCausalLM',
  'gemma2': 'Gemma2ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
}

_GEMMAS = ('gemma', 'gemma2', 'gemma3_text')
_ROPE_KINDS = ('default', 'linear', 'llama3')


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Settings of a decoder-only model. Hashable, so it can be a cache key.

  Attributes:
    model_type: Hugging Face's name of the family; it fixes tensor names.
    vocab_size, hidden_size, intermediate_size, num_hidden_layers,
      num_attention_heads, num_key_value_heads, head_dim, hidden_act,
      max_position_embeddings, tie_word_embeddings, query_pre_attn_scalar,
      attn_logit_softcapping, final_logit_softcapping: as in Hugging Face.
    norm_eps: epsilon of every norm.
    sliding_window: positions a windowed layer looks back, itself included.
    sliding_layers: for each layer, whether it is windowed.
    rope: rotary settings, or None for learned positions.
    local_rope: rotary settings of windowed layers, where they differ.
    layer_norm: layer norm with a bias instead of RMS norm (GPT-2).
    norm_offset: 1 where the norms' weights are stored minus one (Gemma).
    qkv_bias, out_bias, mlp_bias: which projections have a bias.
    gated: whether the feed-forward has a gate.
    qk_norm: RMS norm of each query and key head (Qwen3, Gemma 3).
    sub_norm: norms before the two output projections (BitNet).
    post_norm: norms after attention and feed-forward (Gemma 2, 3).
    embed_scale: multiplies the embeddings (Gemma).
    bos_token_id, pad_token_id: int or None; eos_token_id: tuple of int.
    dropout_rate: of embeddings, attention weights and residual branches.
    dtype: compute dtype, 'float32' or 'bfloat16'; softmax, norms and logits
      are float32 always.
    remat: recompute each layer in the backward pass instead of storing it.
  """

  vocab_size: int
  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  num_key_value_heads: int
  head_dim: int
  max_position_embeddings: int
  model_type: str = 'llama'
  hidden_act: str = 'silu'
  norm_eps: float = 1e-5
  tie_word_embeddings: bool = False
  sliding_window: Optional[int] = None
  sliding_layers: tuple = ()
  rope: Optional[Rope] = Rope()
  local_rope: Optional[Rope] = None
  layer_norm: bool = False
  norm_offset: float = 0.0
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  gated: bool = True
  qk_norm: bool = False
  sub_norm: bool = False
  post_norm: bool = False
  embed_scale: float = 1.0
  query_pre_attn_scalar: Optional[float] = None
  attn_logit_softcapping: Optional[float] = None
  final_logit_softcapping: Optional[float] = None
  bos_token_id: Optional[int] = None
  pad_token_id: Optional[int] = None
  eos_token_id: tuple = ()
  dropout_rate: float = 0.0
  dtype: str = 'float32'
  remat: bool = False

  @property
  def num_layers(self) -> int:
    return self.num_hidden_layers

  def is_sliding(self, layer: int) -> bool:
    """Whether `layer` looks back only `sliding_window` positions."""
    return bool(self.sliding_layers) and self.sliding_layers[layer]

  def validate(self):
    """Raises ValueError, naming the field, if the settings make no model."""
    for name in (
      'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers',
      'num_attention_heads', 'num_key_value_heads', 'head_dim',
      'max_position_embeddings',
    ):  # fmt: skip
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, not {value!r}.')
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(
        f'num_attention_heads ({self.num_attention_heads}) must be a multiple '
        f'of num_key_value_heads ({self.num_key_value_heads}).'
      )
    if self.rope is not None and self.head_dim % 2:
      raise ValueError(
        f'head_dim must be even for rotary positions, not {self.head_dim}.'
      )
    if self.hidden_act not in ACTIVATIONS:
      raise ValueError(
        f'activation {self.hidden_act!r} is not supported; supported are '
        f'{", ".join(sorted(ACTIVATIONS))}.'
      )
    if self.sliding_layers:
      if len(self.sliding_layers) != self.num_hidden_layers:
        raise ValueError(
          f'layer_types has {len(self.sliding_layers)} entries for '
          f'{self.num_hidden_layers} layers.'
        )
      if any(self.sliding_layers) and not (self.sliding_window or 0) > 0:
        raise ValueError(
          'sliding_window must be a positive integer where layers are '
          f'windowed, not {self.sliding_window!r}.'
        )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
        f'dropout_rate must be in [0, 1), not {self.dropout_rate}.'
      )
    if self.dtype not in ('float32', 'bfloat16'):
      raise ValueError(
        f"dtype must be 'float32' or 'bfloat16', not {self.dtype!r}."
      )


def from_hf(config: Mapping[str, Any]) -> DecoderConfig:
  """Reads a Hugging Face config.json, of transformers 4 or 5.

  Raises:
    ValueError: a setting that this library does not compute is asked for, or
      one that it needs is missing.
  """
  model_type = config['model_type']
  try:
    made = _gpt2(config) if model_type == 'gpt2' else _llama_like(config)
  except KeyError as error:
    raise ValueError(
      f'config.json of this {model_type} model lacks {error.args[0]!r}.'
    ) from None
  made.validate()
  return made


def ids(value) -> tuple:
  """Returns end ids as a tuple, from None, an int or a list."""
  if value is None:
    return ()
  return tuple(value) if isinstance(value, (list, tuple)) else (value,)


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
    eos_token_id=ids(config.get('eos_token_id')),
  )


def _llama_like(config) -> DecoderConfig:
  kind = config['model_type']
  gemma = kind in _GEMMAS
  width, heads = config['hidden_size'], config['num_attention_heads']
  layers = config['num_hidden_layers']
  head_dim = config.get('head_dim')
  if head_dim is None:
    head_dim = {'qwen3': 128, 'gemma': 256, 'gemma2': 256}.get(kind)
    head_dim = head_dim or (256 if gemma else width // heads)
  bias = config.get('attention_bias', False)
  window, sliding = _windows(config, layers)
  rope, local_rope = _ropes(config)
  if config.get('use_bidirectional_attention'):
    raise ValueError(
      f'{kind} with use_bidirectional_attention=true is not supported; only '
      'causal attention is.'
    )
  activation = config.get('hidden_act', 'silu')
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
    head_dim=head_dim,
    max_position_embeddings=config['max_position_embeddings'],
    hidden_act=activation,
    norm_eps=config.get('rms_norm_eps', 1e-6),
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
    eos_token_id=ids(config.get('eos_token_id')),
  )


def _windows(config, layers):
  """Returns (sliding_window or None, one bool a layer)."""
  kind = config['model_type']
  window = config.get('sliding_window')
  if kind in ('gemma2', 'gemma3_text'):
    window = config.get('sliding_window', 4096)
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
    return window, tuple(i % 2 == 0 for i in range(layers))
  if kind == 'gemma3_text':
    every = config.get('sliding_window_pattern', 6)
    return window, tuple((i + 1) % every != 0 for i in range(layers))
  first = config.get('max_window_layers', 28)
  return window, tuple(i >= first for i in range(layers))


def _ropes(config):
  """Returns the rotary settings of (full layers, windowed layers or None)."""
  kind = config['model_type']
  given = config.get('rope_parameters')
  if kind == 'gemma3_text':
    given = given or {}
    full = given.get('full_attention') or config.get('rope_scaling') or {}
    local = given.get('sliding_attention') or {}
    return (
      _rope(full, config.get('rope_theta', 1e6), config),
      _rope(local, config.get('rope_local_base_freq', 1e4), config),
    )
  settings = given or config.get('rope_scaling') or {}
  theta = config.get('rope_theta', 5e5 if kind == 'bitnet' else 1e4)
  return _rope(settings, theta, config), None


def _rope(settings, theta, config) -> Rope:
  kind = settings.get('rope_type') or settings.get('type') or 'default'
  if kind not in _ROPE_KINDS:
    raise ValueError(
      f'rope type {kind!r} is not supported; supported are '
      f'{", ".join(_ROPE_KINDS)}.'
    )
  if settings.get('partial_rotary_factor', 1.0) != 1.0:
    raise ValueError(
      'partial_rotary_factor is not supported; only 1.0 is, not '
      f'{settings["partial_rotary_factor"]}.'
    )
  rope = Rope(theta=float(settings.get('rope_theta') or theta), kind=kind)
  if kind == 'default':
    return rope
  rope = dataclasses.replace(rope, factor=float(settings['factor']))
  if kind == 'linear':
    return rope
  return dataclasses.replace(
    rope,
    low_freq_factor=float(settings['low_freq_factor']),
    high_freq_factor=float(settings['high_freq_factor']),
    original_max_position_embeddings=int(
      settings.get('original_max_position_embeddings')
      or config['max_position_embeddings']
    ),
  )
