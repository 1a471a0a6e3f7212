"""The numbers of a decoding run, and why it was faster than plain or not."""

import dataclasses
from typing import Any, Optional, Sequence

import jax
import numpy as np

from specjax.benchmark import cost_model
from specjax.decoding import stats
from specjax.inference import costs as costs_lib
from specjax.inference import timing
from specjax.inference.batching import Job
from specjax.inference.generate import Answer


@dataclasses.dataclass(frozen=True)
class StepTimes:
  """Seconds of the parts of a round.

  Attributes:
    target: a target step with one token a row.
    block: the target's pass over a block of K + 1 tokens a row.
    drafter: a drafter step with one token a row; 0 without a model.
  """

  target: float
  block: float
  drafter: float

  def costs(self, num_draft: int, one_pass: bool) -> cost_model.RoundCosts:
    """The same for the cost model; `block` is of `num_draft` + 1 tokens."""
    return cost_model.in_steps(
      self.target,
      {num_draft + 1: self.block},
      cost_model.draft_times(num_draft * self.drafter, num_draft, one_pass),
    )


def numbers(answers: Sequence[Answer], seconds: float, compile_seconds: float):
  """Totals of a run, for the end of it and for `--stats`.

  Args:
    answers: all of them.
    seconds: spent decoding, compilation not included.
    compile_seconds: spent compiling.

  Returns:
    A JSON-able dict; the README defines its fields.
  """
  total = stats.add([answer.counts for answer in answers])
  counts = {
    name.removeprefix('num_'): value for name, value in total.as_dict().items()
  }
  return {
    'prompts': len({answer.prompt_index for answer in answers}),
    'answers': len(answers),
    'tokens': counts.pop('tokens'),
    'seconds': seconds,
    'tokens_per_second': total.num_tokens / seconds if seconds else None,
    'compile_seconds': compile_seconds,
  } | counts


def table(found: dict[str, Any]) -> str:
  """The totals as a person reads them."""
  rows = [
    ('prompts', f'{found["prompts"]}'),
    ('tokens', f'{found["tokens"]}'),
    ('tokens/s', number(found['tokens_per_second'], 1)),
    ('compile seconds', f'{found["compile_seconds"]:.1f}'),
    ('target calls', f'{found["target_calls"]}'),
    ('block efficiency', number(found['block_efficiency'], 3)),
    ('acceptance rate', number(found['acceptance_rate'], 3)),
    (
      'by position',
      ' '.join(number(x, 3) for x in found['acceptance_by_position']) or '-',
    ),
  ]
  return '\n'.join(f'  {name:<17} {value}' for name, value in rows)


def number(value: Optional[float], digits: int) -> str:
  """A figure as a person reads it; '-' for None."""
  return '-' if value is None else f'{value:.{digits}f}'


def same_tokens(left: Sequence[Answer], right: Sequence[Answer]) -> int:
  """How many answers have the same tokens."""
  return sum(a.tokens == b.tokens for a, b in zip(left, right))


def measure_steps(job: Job) -> StepTimes:
  """Times the parts of a round, each in a compiled loop of its own.

  Args:
    job: gives target and drafter, the batch size, K and a typical number of
      committed tokens.

  Returns:
    `StepTimes`.
  """
  assembled, rows = job.assembled, job.batch_size
  width = min((w for _, _, w in job.batches), default=16)
  slots, model_slots = assembled.plan.num_draft, assembled.plan.draft_slots
  state = timing.middle_state(
    assembled.recipe, job.params, rows, width, assembled.dials()
  )
  timers = [
    timing.extend_timer(
      assembled.target.lm, job.params.target, state.cache, rows, size
    )
    for size in (1, slots + 1)
  ]
  if model_slots:
    timers.append(costs_lib.model_timer(assembled, state, rows, width))
  elif assembled.source.model is not None:
    timers.append(
      timing.propose_timer(assembled.recipe.drafter, job.params.drafter, state)
    )
  step, block, *draft = [ms / 1e3 for ms in timing.interleaved(timers)]
  return StepTimes(step, block, sum(draft) / (model_slots or slots))


def explain(
  found: dict[str, Any],
  times: StepTimes,
  num_draft: int,
  *,
  adaptive: bool = False,
  one_pass: bool = False,
  tree: bool = False,
) -> tuple[dict[str, Any], str]:
  """Predicts the speed from the measured parts, and names what limits it.

  Args:
    found: from `numbers`.
    times: from `measure_steps`.
    num_draft: K.
    adaptive: rounds run at the width their draft needs, so that the mean draft
      and not K decides what a round costs.
    one_pass: the drafter proposes all its tokens in one pass, whose cost is
      taken to be the same for fewer of them.
    tree: drafts are trees of K nodes. What a flatter tree or a chain would
      bring cannot be read off their acceptance, so no better K is named.

  Returns:
    (the numbers, a few sentences).
  """
  alpha = found['acceptance_rate']
  if alpha is None:
    return {}, 'Nothing was drafted, so the speed is that of plain decoding.'
  costs = times.costs(num_draft, one_pass)
  mean = found['drafted'] / found['target_calls'] if adaptive else num_draft
  made = cost_model.Round(
    found['block_efficiency'], costs.block(mean), costs.draft(mean)
  )
  c, block = times.drafter / times.target, times.block / times.target
  parts = dict(
    target_step_seconds=times.target,
    block_seconds=times.block,
    drafter_step_seconds=times.drafter,
    cost_ratio=c,
    block_cost=block,
    predicted_factor=made.factor,
  )
  what = f'step costs c = {c:.2f}'
  if one_pass or tree:
    what = f'costs {num_draft * c:.2f}'
  what += ' of a target step' + ' in one pass' * one_pass
  sentences = [
    f'A draft {what} and a block of {num_draft + 1} costs {block:.2f}; with '
    f'{mean:.1f} tokens drafted and {made.tokens:.2f} emitted a round '
    f'(acceptance {alpha:.3f}) the predicted factor is {made.factor:.2f}.',
    _reason(made),
  ]
  if times.drafter and not adaptive and not tree:
    # A draft in one pass has no more slots than its network.
    most = num_draft if one_pass else max(num_draft, 8)
    accepted = cost_model.Acceptance([alpha])
    best, gain = cost_model.best(costs, accepted, most, or_plain=True)
    parts |= dict(best_num_draft=best, best_predicted_factor=gain.factor)
    sentences += _advice(best, gain.factor) if best != num_draft else []
  return parts, ' '.join(sentences)


def _advice(num_draft: int, factor: float) -> list[str]:
  """A sentence on a draft length better than the one that ran."""
  if not num_draft:
    return ['By such costs no num_draft gains with this drafter.']
  return [
    f'By such costs the best num_draft is {num_draft}, with {factor:.2f}.'
  ]


def _reason(made: cost_model.Round) -> str:
  if made.factor >= 1:
    return 'A round yields more tokens than it costs target steps: a gain.'
  if made.tokens <= made.verify:
    return (
      'That is a loss: too few drafted tokens are accepted to pay even for the '
      'wider block.'
    )
  return (
    'That is a loss: the drafter is too expensive for its acceptance '
    f'({made.draft:.2f} target steps of drafting a round).'
  )


def environment() -> dict[str, str]:
  """Device and versions, for `--stats`."""
  device = jax.devices()[0]
  return {
    'device': f'{device.platform} {device.device_kind}',
    'jax': jax.__version__,
    'numpy': np.__version__,
  }
