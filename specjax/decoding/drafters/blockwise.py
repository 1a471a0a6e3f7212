"""Blockwise heads: K heads on the target's last state.

References:
  Stern, Shazeer, Uszkoreit. Blockwise parallel decoding for deep autoregressive
    models. NeurIPS 2018. https://arxiv.org/abs/1811.03115
"""

import functools

from flax import struct
import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import slots
from specjax.models import registry as families
from specjax.models.common import rows as rows_lib
from specjax.models.spec_drafter import blockwise as blockwise_lib


@struct.dataclass
class LastState:
  """The target's state that predicted the last committed token.

  Attributes:
    state: [B, D].
    known: bool [B], False before the first round.
  """

  state: base.Array
  known: base.Array


@functools.cache
def blockwise(
  spec: slots.SlotSpec, num_draft: int, style: drawing.Style
) -> base.Drafter:
  """Makes the drafter; the target must return its last state.

  Args:
    spec: the network.
    num_draft: K, at least 1.
    style: way of drawing tokens.

  Raises:
    ValueError: if there are to be fewer slots than one, or more than heads.
  """
  validation.at_least('num_draft', num_draft, 1)
  slots.check_slots(num_draft, spec.config.block)
  heads = blockwise_lib.make_heads(spec.config)
  width = spec.config.d_model

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    batch = prompt.tokens.shape[0]
    state = jnp.zeros((batch, width), spec.config.dtype)
    return LastState(state, jnp.zeros((batch,), bool))

  def propose(params, last, view):
    # Before the first round no decoder state is known, since prefill runs the
    # encoder alone. Logits are then those of zeros, and no slot counts.
    logits = heads(params, last.state, num_draft)
    there = jnp.broadcast_to(last.known[:, None], logits.shape[:2])
    return slots.draw(spec, logits, there, view.context, style), last

  def observe(params, last, observation):
    del params
    if not observation.hidden:
      raise ValueError(
        "Blockwise heads read the target's last state; make the target with "
        'hidden_layers=(-1,).'
      )
    count = observation.num_tokens
    # Emitted [a b x], count 3: the state that predicted x stands at 2. A
    # finished row has count 0 and keeps its state.
    at = jnp.maximum(count - 1, 0)[:, None, None]
    state = jnp.take_along_axis(observation.hidden[-1], at, axis=1)[:, 0]
    fresh = count > 0
    return LastState(
      jnp.where(fresh[:, None], state.astype(last.state.dtype), last.state),
      fresh | last.known,
    )

  return base.Drafter(
    init, propose, observe, num_draft, num_draft, insert=rows_lib.insert
  )


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del options, rows
  config = source.model.config
  width = families.facts(target.config).width
  if config.d_model != width:
    raise ValueError(
      f'The heads were made for states of width {config.d_model}, but those of '
      f'the target have {width}; train heads for this target.'
    )
  made = slots.plan(target, source, num_draft, config.block)
  # The source is read by the target alone, so the heads do not bound its
  # length.
  return made._replace(max_source_tokens=None, target_hidden_layers=(-1,))


ENTRY = slots.entry_of(
  'blockwise',
  "heads on the target's last state (Blockwise decoding); T5 targets",
  _plan,
  blockwise,
)
