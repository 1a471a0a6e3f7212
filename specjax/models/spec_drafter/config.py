"""Settings of the Spec-Drafter and of its head-based baseline.

Hugging Face has no config of either. Their config.json holds the fields below
under their own names, and the `model_type` of one of the two.
"""

import dataclasses
from typing import Any

from specjax import validation
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.output_ids import check_output_ids
from specjax.models.decoder.config import check_token_ids
from specjax.models.facts import check_layers
from specjax.models.facts import ModelFacts
from specjax.models.t5.config import T5Config


def _check_positive(config, names):
  for name in names:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(f'{name} must be a positive integer, not {value!r}.')


def _check_dtype(config):
  if config.dtype not in ('float32', 'bfloat16'):
    raise ValueError(
      f"dtype must be 'float32' or 'bfloat16', not {config.dtype!r}."
    )


def never_drafted(config: Any) -> tuple:
  """Ids that no slot may hold: padding and the decoder's start token.

  An end token is never among them, even where it pads too.
  """
  # pad 0, start 0, end (1,): (0,); a T5 that pads with its end token 1: (0,)
  banned = {config.pad_token_id, config.decoder_start_token_id}
  return tuple(sorted(banned - {None, *config.eos_token_id}))


# Fields that the T5 layers inside read.
_OF_T5 = (
  'vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads '
  'relative_attention_num_buckets relative_attention_max_distance '
  'layer_norm_epsilon hidden_act gated dropout_rate dtype remat'
).split()


@dataclasses.dataclass(frozen=True)
class SpecDrafterConfig:
  """Settings of a Spec-Drafter. Hashable.

  The encoder is a T5 encoder, so that a T5 target's can be its beginning.

  Attributes:
    vocab_size, d_model, d_kv, d_ff, num_heads, relative_attention_num_buckets,
      relative_attention_max_distance, layer_norm_epsilon, hidden_act, gated,
      dropout_rate, output_ids, dtype, remat: as in `T5Config`.
    num_layers, num_decoder_layers: numbers of layers of encoder and decoder.
    block: most slots that it was trained to fill in one pass.
    window: number of latest verified tokens that the decoder sees.
    max_positions, max_source_positions: rows of the position tables: tokens of
      a target and of a source that it was trained for.
    source_copy: a masked slot holds the source's embeddings, weighted by the
      slot's position; without it one learned vector.
    tie_word_embeddings: whether the head is the embedding table; then states
      are scaled by d_model ** -0.5 before it.
    decoder_start_token_id, pad_token_id, eos_token_id: ids of the target. Start
      and padding are never drafted.
    model_type: names this kind of network in config.json.
  """

  vocab_size: int
  d_model: int
  d_kv: int
  d_ff: int
  num_layers: int
  num_decoder_layers: int
  num_heads: int
  block: int = 25
  window: int = 32
  max_positions: int = 256
  max_source_positions: int = 256
  source_copy: bool = True
  relative_attention_num_buckets: int = 32
  relative_attention_max_distance: int = 128
  layer_norm_epsilon: float = 1e-6
  hidden_act: str = 'relu'
  gated: bool = False
  tie_word_embeddings: bool = True
  dropout_rate: float = 0.0
  output_ids: tuple = ()
  decoder_start_token_id: int = 0
  pad_token_id: int | None = 0
  eos_token_id: tuple = (1,)
  dtype: str = 'float32'
  remat: bool = False
  model_type: str = 'specjax_spec_drafter'

  @property
  def mask_id(self) -> int:
    """The id of a masked slot: outside the vocabulary, so never a token."""
    return self.vocab_size

  def layers(self) -> T5Config:
    """Returns the settings of the T5 layers inside."""
    return T5Config(**{name: getattr(self, name) for name in _OF_T5})

  def validate(self) -> None:
    """Raises ValueError, naming the field, if the settings make no model."""
    _check_positive(
      self, ('block', 'window', 'max_positions', 'max_source_positions')
    )
    validation.plain_fields(self)
    check_token_ids(self.eos_token_id)
    self.layers().validate()
    check_output_ids(self.output_ids, self.vocab_size, self.tie_word_embeddings)


@dataclasses.dataclass(frozen=True)
class BlockwiseConfig:
  """Settings of a head-based drafter on a T5 target's last state. Hashable.

  Attributes:
    vocab_size: rows of the target's embedding table.
    d_model: width of the target's states.
    d_ff: width of each head's hidden layer.
    block: number of heads, the most tokens drafted at once.
    hidden_act: activation of the heads.
    output_ids: tuple of the ids that the projection knows; () for all.
    decoder_start_token_id, pad_token_id, eos_token_id, dtype, model_type: as
      in `SpecDrafterConfig`.
  """

  vocab_size: int
  d_model: int
  d_ff: int
  block: int = 25
  hidden_act: str = 'relu'
  output_ids: tuple = ()
  decoder_start_token_id: int = 0
  pad_token_id: int | None = 0
  eos_token_id: tuple = (1,)
  dtype: str = 'float32'
  model_type: str = 'specjax_blockwise'

  def validate(self) -> None:
    """Raises ValueError, naming the field, if the settings make no model."""
    _check_positive(self, ('vocab_size', 'd_model', 'd_ff', 'block'))
    check_layers('block', self.block)
    validation.plain_fields(self)
    check_token_ids(self.eos_token_id)
    if self.hidden_act not in ACTIVATIONS:
      raise ValueError(
        f'activation {self.hidden_act!r} is not supported; supported are '
        f'{", ".join(sorted(ACTIVATIONS))}.'
      )
    check_output_ids(self.output_ids, self.vocab_size, tied=False)
    _check_dtype(self)


def random_config(
  target: ModelFacts, *, block: int, positions: int, dtype: str
) -> SpecDrafterConfig:
  """SpecDec's drafter of 12 + 2 layers, of a target's own width.

  Args:
    target: facts of an encoder-decoder.
    block: most tokens drafted at once.
    positions: rows of both position tables.
    dtype: compute dtype.
  """
  return SpecDrafterConfig(
    vocab_size=target.vocab_size,
    d_model=target.width,
    d_kv=target.head_dim,
    d_ff=target.mlp,
    # The paper's: the encoder runs once a prompt, the decoder once a round.
    num_layers=12,
    num_decoder_layers=2,
    num_heads=target.heads,
    decoder_start_token_id=target.start_id,
    pad_token_id=target.pad_id,
    eos_token_id=target.eos_ids,
    block=block,
    max_positions=positions,
    max_source_positions=positions,
    hidden_act=target.activation,
    gated=target.gated,
    dtype=dtype,
  )
