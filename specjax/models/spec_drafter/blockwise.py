"""Head-based drafting: K heads on one state of the target.

Head i predicts the i-th token after the one that the state predicted. All heads
share one query into the source, that of the state; the slots of a Spec-Drafter
have a query each. This network is the baseline of that ablation.

References:
  Stern, Shazeer, Uszkoreit. Blockwise parallel decoding for deep autoregressive
    models. NeurIPS 2018. https://arxiv.org/abs/1811.03115
"""

from collections.abc import Callable
import functools

from flax import linen as nn
import jax.numpy as jnp

from specjax.base import Array
from specjax.models.common.layers import ACTIVATIONS
from specjax.models.common.layers import Embedding
from specjax.models.common.layers import Linear
from specjax.models.spec_drafter.config import BlockwiseConfig


class Backs(nn.Module):
  """The ways back of all heads, a `weight` [K * D, F]: row block i is head i's.

  Attributes:
    rows, width: K * D and F.
  """

  MAP = 'weight'

  rows: int
  width: int

  @nn.compact
  def __call__(self):
    std = self.width**-0.5
    shape = (self.rows, self.width)
    return self.param('weight', nn.initializers.normal(std), shape)


class Blockwise(nn.Module):
  """The heads. Parameters: collection 'params' alone."""

  config: BlockwiseConfig

  def setup(self) -> None:
    c = self.config
    self.up = Linear(c.block * c.d_ff, dtype=c.dtype)
    self.down = Backs(c.block * c.d_model, c.d_ff)
    rows = len(c.output_ids) or c.vocab_size
    self.head = Embedding(rows, c.d_model, c.d_model**-0.5, c.dtype)

  def __call__(self, state, num_slots: int):
    """Logits float32 [..., num_slots, V] of states [..., D]."""
    c = self.config
    state = state.astype(c.dtype)
    hidden = ACTIVATIONS[c.hidden_act](self.up(state))
    hidden = hidden.reshape(*state.shape[:-1], c.block, c.d_ff)
    back = self.down().astype(c.dtype)
    # Fewer slots than heads: the first ones, so the matrices of the others are
    # not read.
    back = back.reshape(c.block, c.d_model, c.d_ff)[:num_slots]
    moved = jnp.einsum(
      '...kf,kdf->...kd',
      hidden[..., :num_slots, :],
      back,
      preferred_element_type=jnp.float32,
    )
    return self.head.attend(state[..., None, :] + moved.astype(c.dtype))


@functools.cache
def make_heads(config: BlockwiseConfig) -> Callable[..., Array]:
  """`(params, state [B, D], num_slots) -> float32 [B, num_slots, V']`."""
  config.validate()
  module = Blockwise(config)

  def logits(params, state, num_slots):
    return module.apply({'params': params}, state, num_slots)

  return logits
