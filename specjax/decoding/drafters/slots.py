"""Drafters that fill all slots at once, each independently.

One pass gives a distribution for each of K slots, given the committed tokens
and not the slots before it. Each token is drawn from its slot's own warped
distribution, which is therefore an honest q for any exact rule; the penalties
of that warp look at committed tokens alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from specjax import base
from specjax.decoding import sampling
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import vocabulary
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import DraftPlan
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.entry import Target
from specjax.models import registry as families
from specjax.models.spec_drafter import modeling as spec_drafter


class SlotSpec(NamedTuple):
  """A drafter network that fills slots.

  Attributes:
    config: config of the network, with `block`, `output_ids` and special ids.
    ids: those that the target and the network know.
  """

  config: Any
  ids: vocabulary.Known


def draw(
  spec: SlotSpec,
  logits: base.Array,
  there: base.Array,
  context: base.Context,
  style: drawing.Style,
) -> base.Draft:
  """Draws every slot independently.

  Args:
    spec: the network.
    logits: float32 [B, K, V'], of its head.
    there: bool [B, K]; slots behind the first False one are left empty.
    context: committed tokens and controls.
    style: way of drawing tokens.
  """
  # there [1 0 1]: [1 0 0]. A chain has no hole, so what follows one is dropped.
  there = jnp.cumprod(there, axis=1).astype(bool)
  both = min(spec.ids.target, spec.ids.drafter)
  # The short way: with nothing to warp, argmax over a reduced head's ids is
  # that over the vocabulary, without spreading [B, K, V'] logits to [B, K, V].
  if style.noise == 'argmax' and not (
    style.needs_log_probs or style.warp.moves_argmax or style.allowed_tokens
  ):
    logits, ids = spec_drafter.at_head(spec.config, logits, both)
    tokens = ids[sampling.argmax(logits)]
    return base.Draft(jnp.where(there, tokens, base.EMPTY))
  logits = spec_drafter.draftable(spec.config, logits, both)
  logits = spec.ids.over_target(logits)
  draft = drawing.chain(logits, context, style)
  tokens = jnp.where(there, draft.tokens, base.EMPTY)
  if draft.log_probs is None:
    return base.Draft(tokens)
  # An empty slot proposes nothing, and rules expect rows of -inf there.
  log_probs = jnp.where(there[..., None], draft.log_probs, -jnp.inf)
  return base.Draft(tokens, log_probs)


def check_target(target: Target, source: Source) -> None:
  """Refuses a network that drafts for another kind of target."""
  config = source.model.config
  if not target.lm.is_encoder_decoder:
    raise ValueError(
      f'A {config.model_type} drafts for encoder-decoders, but the target is '
      'decoder-only.'
    )


def check_slots(num_draft: int, most: int) -> None:
  """Refuses more slots than a network was made for."""
  if num_draft > most:
    raise ValueError(
      f'num_draft is {num_draft}, but this drafter was made to draft at most '
      f'{most} tokens at once; lower num_draft or train one with a larger '
      'block.'
    )


def plan(
  target: Target, source: Source, num_draft: int, most: int
) -> entry.DraftPlan:
  """The plan of a network that fills slots.

  Args:
    target: `entry.Target`.
    source: `entry.Source`.
    num_draft: K.
    most: slots that the network was made for.
  """
  check_target(target, source)
  check_slots(num_draft, most)
  known = vocabulary.of(target, source.model)
  return entry.DraftPlan(
    num_draft,
    num_draft,
    has_log_probs=True,
    one_pass=True,
    max_positions=families.facts(source.model.config).positions,
    max_source_tokens=families.facts(source.model.config).max_source_tokens,
    notes=known.notes(source.name),
    static=known,
  )


def params(
  plan: DraftPlan, target: Target, source: Source, data: DraftData
) -> base.PyTree:
  """The network's own."""
  del plan, target, data
  return source.model.params


def entry_of(
  name: str, summary: str, plan: entry.PlanDraft, make: Callable[..., Any]
) -> entry.DrafterEntry:
  """The entry of a network that fills slots; its family has the same name.

  Args:
    name: name as users write it.
    summary: description.
    plan: function of `entry.PlanDraft`.
    make: (`SlotSpec`, K, style) -> `base.Drafter`.
  """

  def bind(lm, config, plan, style):
    del lm
    return make(SlotSpec(config, plan.static), plan.num_draft, style)

  families = (name,)
  return entry.DrafterEntry(
    name, summary, plan, bind, params, families=families, needs_training=True
  )
