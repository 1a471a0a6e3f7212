"""Settings of the T5 family, and their Hugging Face spelling."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from specjax import validation
from specjax.distributed.mesh import Shards
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.output_ids import check_output_ids
from specjax.models.decoder.config import check_token_ids
from specjax.models.decoder.config import token_ids
from specjax.models.facts import check_layers

# `model_type` -> names of the architecture, the first of which is written; old
# files of the hub spell the same language model otherwise.
MODEL_TYPES = {
  't5': ('T5ForConditionalGeneration', 'T5WithLMHeadModel'),
  'mt5': ('MT5ForConditionalGeneration',),
}


# Fields that are checked before anything is computed from them.
_KINDS = {
  int: 'num_decoder_layers pad_token_id decoder_start_token_id',
  bool: 'tie_word_embeddings scale_decoder_outputs',
  str: 'feed_forward_proj',
  list: 'output_ids',
}


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Settings of T5 1.0, 1.1, Flan-T5, mT5 or ByT5. Hashable.

  Attributes:
    vocab_size, d_model, d_kv, d_ff, num_layers, num_decoder_layers, num_heads,
      relative_attention_num_buckets, relative_attention_max_distance,
      layer_norm_epsilon, dropout_rate, decoder_start_token_id, pad_token_id:
      as in Hugging Face. d_kv * num_heads need not be d_model.
    hidden_act: activation of the feed-forward; see `layers.ACTIVATIONS`.
    gated: whether the feed-forward has a gate.
    tie_word_embeddings: whether the head is the embedding table.
    output_ids: tuple of the token ids that a head of its own scores, in the
      order of its rows, or () for all. A small drafter's head is most of its
      cost; tokens outside have probability 0. No Hugging Face T5 has this.
    scale_decoder_outputs: final states times d_model ** -0.5 before the head.
    eos_token_id: tuple of int.
    model_type: 't5' or 'mt5'; it fixes the architecture's name.
    dtype: compute dtype, 'float32' or 'bfloat16'; softmax, norms and logits
      are float32 always.
    remat: recompute each layer in the backward pass instead of storing it.
    shards: parts into which the network is cut; a device runs one of them.
  """

  vocab_size: int
  d_model: int
  d_kv: int
  d_ff: int
  num_layers: int
  num_decoder_layers: int
  num_heads: int
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  layer_norm_epsilon: float = 1e-6
  hidden_act: str = 'relu'
  gated: bool = False
  tie_word_embeddings: bool = True
  scale_decoder_outputs: bool = True
  dropout_rate: float = 0.0
  decoder_start_token_id: int = 0
  pad_token_id: int | None = 0
  eos_token_id: tuple = (1,)
  model_type: str = 't5'
  dtype: str = 'float32'
  remat: bool = False
  output_ids: tuple = ()
  shards: Shards = Shards()

  def validate(self) -> None:
    """Raises ValueError, naming the field, if the settings make no model."""
    for name in (
      'vocab_size',
      'd_model',
      'd_kv',
      'd_ff',
      'num_layers',
      'num_decoder_layers',
      'num_heads',
      'relative_attention_max_distance',
    ):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be a positive integer, not {value!r}.')
    validation.plain_fields(self)
    for name in ('num_layers', 'num_decoder_layers'):
      check_layers(name, getattr(self, name))
    check_token_ids(self.eos_token_id)
    validation.positive('layer_norm_epsilon', self.layer_norm_epsilon)
    if not 0 <= self.decoder_start_token_id < self.vocab_size:
      raise ValueError(
        f'decoder_start_token_id must be a token id below {self.vocab_size}, '
        f'not {self.decoder_start_token_id}.'
      )
    buckets = self.relative_attention_num_buckets
    # An encoder splits them between both signs, and half of a side is exact.
    if buckets < 4 or buckets % 2:
      raise ValueError(
        'relative_attention_num_buckets must be an even number of at least 4, '
        f'not {buckets}.'
      )
    if self.relative_attention_max_distance <= buckets // 2:
      raise ValueError(
        f'relative_attention_max_distance must exceed {buckets // 2}, half '
        f'the buckets, not {self.relative_attention_max_distance}.'
      )
    if self.hidden_act not in ACTIVATIONS:
      raise ValueError(
        f'activation {self.hidden_act!r} is not supported; supported are '
        f'{", ".join(sorted(ACTIVATIONS))}.'
      )
    check_output_ids(self.output_ids, self.vocab_size, self.tie_word_embeddings)
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(
        f'dropout_rate must be in [0, 1), not {self.dropout_rate}.'
      )
    if self.dtype not in ('float32', 'bfloat16'):
      raise ValueError(
        f"dtype must be 'float32' or 'bfloat16', not {self.dtype!r}."
      )


def from_hf(config: Mapping[str, Any]) -> T5Config:
  """Reads a Hugging Face config.json, of transformers 4 or 5.

  transformers 5 writes `tie_word_embeddings: true` for every T5 and keeps the
  meaning of the old flag in `scale_decoder_outputs`; whether the head is a
  table of its own is then known from the weights alone.

  Args:
    config: the parsed file.

  Raises:
    ValueError: a setting is missing or not supported.
  """
  kind = config['model_type']
  validation.json_kinds(config, _KINDS)
  tied = config.get('tie_word_embeddings', True)
  act = config.get('feed_forward_proj', 'relu' if kind == 't5' else None)
  act = act or 'gated-gelu'
  gated = act.startswith('gated-')
  name = act.removeprefix('gated-')
  # T5 1.1's files mean the tanh approximation by this name.
  if act == 'gated-gelu':
    name = 'gelu_new'
  try:
    made = T5Config(
      vocab_size=config['vocab_size'],
      d_model=config['d_model'],
      d_kv=config['d_kv'],
      d_ff=config['d_ff'],
      num_layers=config['num_layers'],
      num_decoder_layers=(
        # Files from before decoders of another depth leave it out.
        config.get('num_decoder_layers') or config['num_layers']
      ),
      num_heads=config['num_heads'],
      relative_attention_num_buckets=config.get(
        'relative_attention_num_buckets', 32
      ),
      relative_attention_max_distance=config.get(
        'relative_attention_max_distance', 128
      ),
      layer_norm_epsilon=config.get('layer_norm_epsilon', 1e-6),
      hidden_act=name,
      gated=gated,
      tie_word_embeddings=tied,
      scale_decoder_outputs=(
        kind == 't5' and config.get('scale_decoder_outputs', tied)
      ),
      decoder_start_token_id=_start_id(config),
      pad_token_id=config.get('pad_token_id', 0),
      eos_token_id=token_ids(config.get('eos_token_id', 1)),
      model_type=kind,
      output_ids=tuple(config.get('output_ids') or ()),
    )
  except KeyError as error:
    raise ValueError(
      f'config.json of this {kind} model lacks {error.args[0]!r}.'
    ) from None
  made.validate()
  return made


def _start_id(config) -> int:
  for name in ('decoder_start_token_id', 'pad_token_id'):
    if config.get(name) is not None:
      return config[name]
  return 0


def to_hf(config: T5Config) -> dict:
  """Returns the config.json of `config`, read alike by transformers 4 and 5."""
  act = config.hidden_act
  if config.gated:
    act = 'gated-gelu' if act == 'gelu_new' else f'gated-{act}'
  eos = list(config.eos_token_id)
  made = {
    'architectures': [MODEL_TYPES[config.model_type][0]],
    'model_type': config.model_type,
    'is_encoder_decoder': True,
    'vocab_size': config.vocab_size,
    'd_model': config.d_model,
    'd_kv': config.d_kv,
    'd_ff': config.d_ff,
    'num_layers': config.num_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'relative_attention_num_buckets': config.relative_attention_num_buckets,
    'relative_attention_max_distance': config.relative_attention_max_distance,
    'layer_norm_epsilon': config.layer_norm_epsilon,
    'feed_forward_proj': act,
    'dropout_rate': config.dropout_rate,
    'tie_word_embeddings': config.tie_word_embeddings,
    'scale_decoder_outputs': config.scale_decoder_outputs,
    'decoder_start_token_id': config.decoder_start_token_id,
    'pad_token_id': config.pad_token_id,
    'eos_token_id': eos[0] if len(eos) == 1 else eos or None,
  }
  if config.output_ids:
    made['output_ids'] = list(config.output_ids)
  return made
