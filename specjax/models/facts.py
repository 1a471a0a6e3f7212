"""What other rooms may ask of a network's settings, whatever its family."""

from typing import NamedTuple, Optional


class ModelFacts(NamedTuple):
  """Sizes and ids of a network.

  Attributes:
    width: D.
    layers: of the decoder.
    heads, kv_heads, head_dim: attention heads, key heads, and their width.
    mlp: width of the feed-forward layer.
    activation, gated: of the feed-forward layer, or of its gate.
    vocab_size: rows of the embedding table.
    ties_embeddings: whether the head is the embedding table.
    output_ids: the tokens that a head of its own knows; () for all.
    positions: most positions, or None where there is no such limit.
    is_encoder_decoder: whether a prompt is a source for an encoder.
    start_id: the decoder's start token of an encoder-decoder, or None.
    pad_id: or None.
    eos_ids: end tokens.
    head_scale: final states are multiplied by it before the head.
    embed_scale: embeddings are multiplied by it.
    logit_softcap: of the final logits, or None.
    max_source_tokens: longest source it was trained for, or None.
    max_draft: most tokens that it drafts at once, or None.
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
  positions: Optional[int] = None
  is_encoder_decoder: bool = False
  start_id: Optional[int] = None
  pad_id: Optional[int] = None
  eos_ids: tuple[int, ...] = ()
  head_scale: float = 1.0
  embed_scale: float = 1.0
  logit_softcap: Optional[float] = None
  max_source_tokens: Optional[int] = None
  max_draft: Optional[int] = None
