"""Facts about a network that all rooms read, whatever its family."""

from typing import Any, NamedTuple

# More layers than any model has; each takes time to describe.
MOST_LAYERS = 10_000


def check_layers(name: str, value: Any) -> None:
  """Raises ValueError for more layers than any model has."""
  if isinstance(value, int) and value > MOST_LAYERS:
    raise ValueError(f'{name} must be at most {MOST_LAYERS}, not {value}.')


class ModelFacts(NamedTuple):
  """Sizes and ids of a network.

  Attributes:
    width: model width D.
    layers: number of layers of the decoder.
    encoder_layers: number of layers of the encoder; 0 for none.
    heads, kv_heads, head_dim: attention heads, key heads, and their width.
    mlp: width of the feed-forward layer.
    activation: function in the feed-forward layer, or of its gate.
    gated: whether the feed-forward layer has a gate.
    vocab_size: rows of the embedding table.
    ties_embeddings: whether the head is the embedding table.
    output_ids: tokens that the head scores; () for all.
    positions: most positions, or None where there is no such limit.
    is_encoder_decoder: whether a prompt is a source for an encoder.
    start_id: the decoder's start token of an encoder-decoder, or None.
    pad_id: padding token, or None.
    eos_ids: end tokens.
    bos_id: token that a text begins with, or None.
    head_scale: factor of the final states before the head.
    embed_scale: factor of the embeddings.
    logit_softcap: soft cap of the final logits, or None.
    max_source_tokens: longest source it was trained for, or None.
    max_draft: most tokens that it drafts at once, or None.
    has_layers: whether it has layers; heads on a target's state have none, and
      what is stated of layers and attention stands for nothing.
  """

  width: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  vocab_size: int
  activation: str = 'relu'
  gated: bool = False
  ties_embeddings: bool = False
  output_ids: tuple[int, ...] = ()
  positions: int | None = None
  is_encoder_decoder: bool = False
  start_id: int | None = None
  pad_id: int | None = None
  eos_ids: tuple[int, ...] = ()
  bos_id: int | None = None
  head_scale: float = 1.0
  embed_scale: float = 1.0
  logit_softcap: float | None = None
  max_source_tokens: int | None = None
  max_draft: int | None = None
  has_layers: bool = True
  encoder_layers: int = 0
