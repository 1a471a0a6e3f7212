"""Settings of the decoder-only family.

One frozen dataclass covers Llama 2/3, Mistral, Qwen2, Qwen3, GPT-2, BitNet and
Gemma 1/2/3: a family is nothing but a set of switches.
"""

import dataclasses
from typing import Any

from specjax import validation
from specjax.distributed.mesh import Shards
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.rope import Rope


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
    qkv_bias, out_bias, mlp_bias: whether these projections have a bias.
    gated: whether the feed-forward has a gate.
    qk_norm: RMS norm of each query and key head (Qwen3, Gemma 3).
    sub_norm: norms before the two output projections (BitNet).
    post_norm: norms after attention and feed-forward (Gemma 2, 3).
    embed_scale: multiplies the embeddings (Gemma).
    bos_token_id, pad_token_id: int or None; eos_token_id: tuple of int.
    dropout_rate: dropout of embeddings, attention weights, residual branches.
    dtype: compute dtype, 'float32' or 'bfloat16'; softmax, norms and logits
      are float32 always.
    remat: recompute each layer in the backward pass instead of storing it.
    shards: parts into which the network is cut; a device runs one of them.
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
  sliding_window: int | None = None
  sliding_layers: tuple = ()
  rope: Rope | None = Rope()
  local_rope: Rope | None = None
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
  query_pre_attn_scalar: float | None = None
  attn_logit_softcapping: float | None = None
  final_logit_softcapping: float | None = None
  bos_token_id: int | None = None
  pad_token_id: int | None = None
  eos_token_id: tuple = ()
  dropout_rate: float = 0.0
  dtype: str = 'float32'
  remat: bool = False
  shards: Shards = Shards()

  @property
  def num_layers(self) -> int:
    return self.num_hidden_layers

  def is_sliding(self, layer: int) -> bool:
    """Whether `layer` looks back only `sliding_window` positions."""
    return bool(self.sliding_layers) and self.sliding_layers[layer]

  def validate(self) -> None:
    """Raises ValueError, naming the field, if the settings make no model."""
    for name in (
      'vocab_size',
      'hidden_size',
      'intermediate_size',
      'num_hidden_layers',
      'num_attention_heads',
      'num_key_value_heads',
      'head_dim',
      'max_position_embeddings',
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, not {value!r}.')
    validation.plain_fields(self)
    check_token_ids(self.eos_token_id)
    validation.positive('norm_eps', self.norm_eps)
    # Query heads share key heads in equal groups: 8 queries on 2 keys are 4
    # each.
    if self.num_attention_heads % self.num_key_value_heads:
      raise ValueError(
        f'num_attention_heads ({self.num_attention_heads}) must be a multiple '
        f'of num_key_value_heads ({self.num_key_value_heads}).'
      )
    # Rotations turn pairs of numbers.
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
      if not all(type(item) is bool for item in self.sliding_layers):
        raise ValueError(
          'sliding_layers must hold true or false for each layer, not '
          f'{self.sliding_layers!r}.'
        )
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


def token_ids(value: Any) -> tuple:
  """Returns end ids as a tuple, from None, an int or a list."""
  if value is None:
    return ()
  return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def check_token_ids(ids: tuple) -> None:
  """Raises ValueError unless end ids, of `token_ids`, are whole numbers."""
  for value in ids:
    if type(value) is not int:
      raise ValueError(
        f'eos_token_id must be a token id or a list of them, not {value!r}.'
      )
