"""The numbers of a decoding run, and why it was faster than plain or not."""

import dataclasses
from typing import Any, Optional, Sequence

import jax
import numpy as np

from specjax import theory
from specjax.decoding import stats
from specjax.inference import costs as costs_lib
from specjax.inference import timing
from specjax.inference.batching import Job
from specjax.inference.generate import Answer


@dataclasses.dataclass(frozen=True)
class StepTimes:
  """Seconds of the parts of a round, and their ratios.

  Attributes:
    target: a target step with one token a row.
    block: the target's pass over a block of K + 1 tokens a row.
    drafter: a drafter step with one token a row; 0 without a model.
  """

  target: float
  block: float
  drafter: float

  @property
  def cost_ratio(self) -> float:
    """c: drafter step over target step."""
    return self.drafter / self.target

  @property
  def block_cost(self) -> float:
    """The block's pass over a target step."""
    return self.block / self.target


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
  return {
    'prompts': len({answer.prompt_index for answer in answers}),
    'answers': len(answers),
    'tokens': total.num_tokens,
    'seconds': seconds,
    'tokens_per_second': total.num_tokens / seconds if seconds else None,
    'compile_seconds': compile_seconds,
    'target_calls': total.num_target_calls,
    'drafted': total.num_drafted,
    'accepted': total.num_accepted,
    'tested': total.num_tested,
    'block_efficiency': total.block_efficiency,
    'acceptance_rate': total.acceptance_rate,
    'draft_acceptance_rate': total.draft_acceptance_rate,
    'mean_acceptance_length': total.mean_acceptance_length,
    'acceptance_by_position': total.acceptance_by_position,
    'accepted_histogram': list(total.accepted_histogram),
  }


def table(found: dict[str, Any]) -> str:
  """The totals as a person reads them."""
  rows = [
    ('prompts', f'{found["prompts"]}'),
    ('tokens', f'{found["tokens"]}'),
    ('tokens/s', _number(found['tokens_per_second'], 1)),
    ('compile seconds', f'{found["compile_seconds"]:.1f}'),
    ('target calls', f'{found["target_calls"]}'),
    ('block efficiency', _number(found['block_efficiency'], 3)),
    ('acceptance rate', _number(found['acceptance_rate'], 3)),
    (
      'by position',
      ' '.join(_number(x, 3) for x in found['acceptance_by_position']) or '-',
    ),
  ]
  return '\n'.join(f'  {name:<17} {value}' for name, value in rows)


def _number(value: Optional[float], digits: int) -> str:
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
  adaptive: bool = False,
  one_pass: bool = False,
  tree: bool = False,
) -> tuple[dict[str, Any], str]:
  """Says what speed the measured parts predict, and what limits it.

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
    (the numbers, a few sentences). The predicted factor is the block
    efficiency over what a round costs in target steps (Leviathan et al. 2023,
    theorem 3.8, with the measured efficiency and the block's real cost).
  """
  alpha = found['acceptance_rate']
  if alpha is None:
    return {}, 'Nothing was drafted, so the speed is that of plain decoding.'
  c, block = times.cost_ratio, times.block_cost
  efficiency = found['block_efficiency']

  def block_cost(gamma: float) -> float:
    return 1 + (block - 1) * gamma / num_draft

  drafted = num_draft
  if adaptive:
    drafted = found['drafted'] / found['target_calls']
  round_cost = block_cost(drafted)
  factor = efficiency / (round_cost + drafted * c)

  parts = {
    'target_step_seconds': times.target,
    'block_seconds': times.block,
    'drafter_step_seconds': times.drafter,
    'cost_ratio': c,
    'block_cost': block,
    'predicted_factor': factor,
  }
  drafting = f'A draft step costs c = {c:.2f} of a target step'
  if one_pass or tree:
    drafting = f'A draft costs {num_draft * c:.2f} of a target step'
    drafting += ' in one pass' * one_pass
  sentences = [
    f'{drafting} and a block of '
    f'{num_draft + 1} costs {block:.2f}; with {drafted:.1f} tokens drafted and '
    f'{efficiency:.2f} emitted a round (acceptance {alpha:.3f}) the predicted '
    f'factor is {factor:.2f}.',
    _reason(factor, efficiency, round_cost, drafted * c),
  ]
  if times.drafter and not adaptive and not tree:
    if one_pass:
      best = theory.best_gamma(
        alpha, num_draft * c, num_draft, block_cost, one_pass=True
      )
    else:
      best = theory.best_gamma(alpha, c, max(num_draft, 8), block_cost)
    parts |= {
      'best_num_draft': best.gamma,
      'best_predicted_factor': best.factor,
    }
    if best.gamma == 0:
      sentences.append('By such costs no num_draft gains with this drafter.')
    elif best.gamma != num_draft:
      sentences.append(
        f'By such costs the best num_draft is {best.gamma}, with '
        f'{best.factor:.2f}.'
      )
  return parts, ' '.join(sentences)


def _reason(factor, efficiency, block, drafting) -> str:
  if factor >= 1:
    return 'A round yields more tokens than it costs target steps: a gain.'
  if efficiency <= block:
    return (
      'That is a loss: too few drafted tokens are accepted to pay even for the '
      'wider block.'
    )
  return (
    'That is a loss: the drafter is too expensive for its acceptance '
    f'({drafting:.2f} target steps of drafting a round).'
  )


def environment() -> dict[str, str]:
  """Device and versions, for `--stats`."""
  device = jax.devices()[0]
  return {
    'device': f'{device.platform} {device.device_kind}',
    'jax': jax.__version__,
    'numpy': np.__version__,
  }
