"""Drafters that fill all slots at once: the Spec-Drafter, and Blockwise heads.

One pass gives a distribution for each of K slots, given the committed tokens
and not the slots before it. Each token is drawn from its slot's own warped
distribution, which is therefore an honest q for any exact rule; the penalties
of that warp look at committed tokens alone.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
  Stern, Shazeer, Uszkoreit. Blockwise parallel decoding for deep autoregressive
    models. NeurIPS 2018. https://arxiv.org/abs/1811.03115
"""

import functools
from typing import NamedTuple, Union

from flax import struct
import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding import sampling
from specjax.decoding.drafters import drawing
from specjax.models.spec_drafter import blockwise as blockwise_lib
from specjax.models.spec_drafter import modeling as spec_drafter
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig


class SlotSpec(NamedTuple):
  """A drafter network that fills slots, as `assemble.recipe` takes it.

  Attributes:
    config: `SpecDrafterConfig` or `BlockwiseConfig`.
    vocab_size: V of its logits.
  """

  config: Union[SpecDrafterConfig, BlockwiseConfig]
  vocab_size: int


@functools.lru_cache(maxsize=None)
def slot_drafter(
  spec: SlotSpec, num_draft: int, style: drawing.Style
) -> base.Drafter:
  """Makes the drafter of a network.

  Args:
    spec: the network.
    num_draft: K, at least 1.
    style: how to draw.

  Raises:
    ValueError: if there are to be fewer slots than one, or more than the
      network was made for.
  """
  config = spec.config
  validation.at_least('num_draft', num_draft, 1)
  most = min(config.block, getattr(config, 'max_positions', num_draft))
  if num_draft > most:
    raise ValueError(
      f'num_draft is {num_draft}, but this drafter was made to draft at most '
      f'{most} tokens at once; lower num_draft or train one with a larger '
      'block.'
    )
  if isinstance(config, BlockwiseConfig):
    return _blockwise(spec, num_draft, style)
  return _spec_drafter(spec, num_draft, style)


def _spec_drafter(spec, num_draft, style) -> base.Drafter:
  """Its state is the prompt's `Memory`; the round's work is one pass."""
  network = spec_drafter.make_network(spec.config)

  def init(params, prompt, prefilled, *, capacity):
    del prefilled
    return network.prefill(params, prompt, capacity=capacity)

  def propose(params, memory, view):
    context = view.context
    logits, there = network.logits(
      params, memory, context.tokens, context.length, num_draft
    )
    return draw(spec, logits, there, context, style), memory

  def observe(params, memory, observation):
    del params, observation
    return memory

  return base.Drafter(init, propose, observe, num_draft, num_draft)


@struct.dataclass
class LastState:
  """The target's state that predicted the last committed token.

  Attributes:
    state: [B, D].
    known: bool [B], False before the first round.
  """

  state: base.Array
  known: base.Array


def _blockwise(spec, num_draft, style) -> base.Drafter:
  """Heads on the target's last state; the target must return it."""
  heads = blockwise_lib.make_heads(spec.config)
  width = spec.config.d_model

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    batch = prompt.tokens.shape[0]
    state = jnp.zeros((batch, width), spec.config.dtype)
    return LastState(state, jnp.zeros((batch,), bool))

  def propose(params, last, view):
    logits = heads(params, last.state, num_draft)
    there = jnp.broadcast_to(last.known[:, None], logits.shape[:2])
    return draw(spec, logits, there, view.context, style), last

  def observe(params, last, observation):
    del params
    if not observation.hidden:
      raise ValueError(
        "Blockwise heads read the target's last state; make the target with "
        'hidden_layers=(-1,).'
      )
    count = observation.num_tokens
    at = jnp.maximum(count - 1, 0)[:, None, None]
    state = jnp.take_along_axis(observation.hidden[-1], at, axis=1)[:, 0]
    fresh = count > 0
    return LastState(
      jnp.where(fresh[:, None], state.astype(last.state.dtype), last.state),
      fresh | last.known,
    )

  return base.Drafter(init, propose, observe, num_draft, num_draft)


def draw(
  spec: SlotSpec,
  logits: base.Array,
  there: base.Array,
  context: base.Context,
  style: drawing.Style,
) -> base.Draft:
  """Draws every slot on its own.

  Args:
    spec: the network.
    logits: float32 [B, K, V'], of its head.
    there: bool [B, K]; slots behind the first False one are left empty.
    context: committed tokens and controls.
    style: how to draw.
  """
  there = jnp.cumprod(there, axis=1).astype(bool)
  has_history = style.warp.repetition_penalty or style.warp.no_repeat_ngram_size
  if style.noise == 'argmax' and not (
    style.needs_log_probs or has_history or style.only
  ):
    logits, ids = spec_drafter.at_head(spec.config, logits, spec.vocab_size)
    tokens = ids[sampling.argmax(logits)]
    return base.Draft(jnp.where(there, tokens, base.EMPTY))
  logits = spec_drafter.draftable(spec.config, logits, spec.vocab_size)
  draft = drawing.chain(logits, context, style)
  tokens = jnp.where(there, draft.tokens, base.EMPTY)
  if draft.log_probs is None:
    return base.Draft(tokens)
  log_probs = jnp.where(there[..., None], draft.log_probs, -jnp.inf)
  return base.Draft(tokens, log_probs)
