"""The Spec-Drafter: an encoder-decoder of its own that fills all slots at once.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

import functools

from specjax import base
from specjax import validation
from specjax.decoding import prefill
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import slots
from specjax.models.common import rows as rows_lib
from specjax.models.spec_drafter import modeling


@functools.cache
def spec_drafter(
  spec: slots.SlotSpec, num_draft: int, style: drawing.Style
) -> base.Drafter:
  """Makes the drafter; its state is the prompt's `Memory`.

  Args:
    spec: the network.
    num_draft: K, at least 1. The round's work is one pass.
    style: way of drawing tokens.

  Raises:
    ValueError: if there are to be fewer slots than one, or more than the
      network was made for.
  """
  config = spec.config
  validation.at_least('num_draft', num_draft, 1)
  slots.check_slots(num_draft, min(config.block, config.max_positions))
  network = modeling.make_network(config)

  def init(params, prompt, prefilled, *, capacity):
    del prefilled
    each = prefill.each_once(prompt)
    each = each.replace(tokens=spec.ids.fed(each.tokens))
    made = network.prefill(params, each, capacity=capacity)
    return prefill.copied(made, prompt)

  def propose(params, memory, view):
    context = view.context
    logits, there = network.logits(
      params,
      memory,
      spec.ids.fed(context.tokens),
      context.length,
      num_draft,
    )
    return slots.draw(spec, logits, there, context, style), memory

  # The encoded source is all the state: every round feeds the last tokens anew,
  # because no slot's keys survive in a network without a causal mask.
  def observe(params, memory, observation):
    del params, observation
    return memory

  return base.Drafter(
    init, propose, observe, num_draft, num_draft, insert=rows_lib.insert
  )


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del options, rows
  config = source.model.config
  return slots.plan(
    target, source, num_draft, min(config.block, config.max_positions)
  )


ENTRY = slots.entry_of(
  'spec_drafter',
  'an encoder-decoder that fills all slots in one pass (SpecDec); T5 targets',
  _plan,
  spec_drafter,
)
