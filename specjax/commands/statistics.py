"""Statistics of a decoding run, and an explanation of its speed."""

from collections.abc import Mapping, Sequence
import dataclasses
import platform
from typing import Any

import jax
import jaxlib
import numpy as np

import specjax
from specjax import machine
from specjax.benchmark import cost_model
from specjax.inference import costs as costs_lib
from specjax.inference import paths
from specjax.inference import timing
from specjax.inference.batching import Job
from specjax.inference.generate import Answer


@dataclasses.dataclass(frozen=True)
class StepTimes:
  """Seconds of the parts of a round.

  Attributes:
    target: time of a target step with one token a row.
    block: time of the target's pass over a block of K + 1 tokens a row.
    drafter: time of a drafter step with one token a row; 0 without a model.
  """

  target: float
  block: float
  drafter: float

  def fields(self, num_draft: int) -> dict[str, float]:
    """Fields of `--stats`, for drafts of `num_draft` slots."""
    return {
      'step_ms': 1e3 * self.target,
      'block_ms': 1e3 * self.block,
      'draft_ms': 1e3 * self.drafter * num_draft,
      'cost_ratio': self.drafter / self.target,
      'block_cost': self.block / self.target,
    }

  def costs(self, num_draft: int, one_pass: bool) -> cost_model.RoundCosts:
    """Costs for the cost model; `block` is that of `num_draft` + 1 tokens."""
    return cost_model.in_steps(
      self.target,
      {num_draft + 1: self.block},
      cost_model.draft_times(num_draft * self.drafter, num_draft, one_pass),
    )


def table(found: dict[str, Any]) -> str:
  """The totals as a table for a reader."""
  rows = [
    ('prompts', f'{found["num_prompts"]}'),
    ('tokens', f'{found["num_tokens"]}'),
    ('tokens/s', number(found['tokens_per_second'], 1)),
    ('rows busy', number(found.get('rows_busy'), 3)),
    ('compile seconds', f'{found["compile_seconds"]:.1f}'),
    ('target calls', f'{found["num_target_calls"]}'),
    ('block efficiency', number(found['block_efficiency'], 3)),
    ('acceptance rate', acceptance(found)),
    (
      'by position',
      ' '.join(number(x, 3) for x in found['acceptance_by_position']) or '-',
    ),
  ]
  return '\n'.join(f'  {name:<17} {value}' for name, value in rows)


def acceptance(found: dict[str, Any], *notes: str) -> str:
  """The acceptance rate in words, beside that with loops where they differ.

  Args:
    found: statistics from `summary.summarize`.
    *notes: words to stand beside it.
  """
  # 0.312 (4 draft slots; with loops 0.847: 67% of the tokens)
  rate, raw = found['acceptance_rate'], found['acceptance_rate_with_loops']
  if rate != raw:
    share = f'{found["loop_share"]:.0%} of the tokens'
    notes += (f'with loops {number(raw, 3)}: {share}',)
  return number(rate, 3) + (f' ({"; ".join(notes)})' if notes else '')


def number(value: float | None, digits: int) -> str:
  """A figure rounded to so many digits; '-' for None."""
  return '-' if value is None else f'{value:.{digits}f}'


def same_tokens(left: Sequence[Answer], right: Sequence[Answer]) -> int:
  """Number of answers with the same tokens, as far as both sides go."""
  return sum(a.tokens == b.tokens for a, b in zip(left, right, strict=False))


def measure_steps(job: Job) -> StepTimes:
  """Times the parts of a round, each in a compiled loop of its own.

  Args:
    job: job whose target, drafter, batch size and K are timed, at a typical
      number of committed tokens.

  Returns:
    `StepTimes`.
  """
  assembled, rows = job.assembled, job.batch_size
  width = min((batch.width for batch in job.batches), default=16)
  slots, model_slots = assembled.plan.num_draft, assembled.plan.draft_slots
  state = timing.middle_state(
    assembled.recipe, job.params, rows, width, assembled.dials()
  )
  timers = [
    timing.extend_timer(assembled.recipe, job.params, state.cache, rows, size)
    for size in (1, slots + 1)
  ]
  if model_slots:
    timers.append(costs_lib.model_timer(assembled, state, rows, width))
  elif assembled.source.model is not None:
    timers.append(timing.propose_timer(assembled.recipe, job.params, state))
  step, block, *draft = [ms / 1e3 for ms in timing.interleaved(timers)]
  return StepTimes(step, block, sum(draft) / (model_slots or slots))


def explain(
  found: dict[str, Any],
  times: StepTimes,
  num_draft: int,
  *,
  measured: float | None = None,
  adaptive: bool = False,
  one_pass: bool = False,
  tree: bool = False,
) -> tuple[dict[str, Any], str]:
  """Predicts the speed from the measured parts, and names what limits it.

  Args:
    found: statistics from `summary.summarize`.
    times: times of the parts, from `measure_steps`.
    num_draft: draft length K.
    measured: speed-up over plain decoding, which decides what is called a gain;
      None where only a prediction is known.
    adaptive: whether a round's cost depends on the mean draft, in place of K.
    one_pass: whether one pass proposes all tokens, at the same cost for fewer.
    tree: whether drafts are trees of K nodes; these give no better K.

  Returns:
    (the numbers, a few sentences).
  """
  alpha = found['acceptance_rate']
  if alpha is None:
    return {}, 'Nothing was drafted, so the speed is that of plain decoding.'
  # Example: a step of 10 ms, a drafter step of 2 ms and a block of 5 in 14 ms
  # cost 4 x 0.2 + 1.4 = 2.2 steps; with 3.3 tokens a round the speed-up is 1.5.
  costs, mean = times.costs(num_draft, one_pass), float(num_draft)
  if adaptive:
    mean = found['num_drafted'] / found['num_target_calls']
  made = cost_model.Round(
    found['block_efficiency'], costs.block(mean), costs.draft(mean)
  )
  parts = times.fields(num_draft) | {'predicted_speedup': made.speedup}
  c, block = parts['cost_ratio'], parts['block_cost']
  what = (
    f'costs {num_draft * c:.2f}'
    if one_pass or tree
    else (f'step costs {c:.2f}')
  )
  sentences = [
    f'A draft {what} of a target step{" in one pass" * one_pass} and a block '
    f'of {num_draft + 1} costs {block:.2f}; with {mean:.1f} tokens drafted and '
    f'{made.tokens:.2f} emitted a round (acceptance {alpha:.3f}) the predicted '
    f'speed-up is {made.speedup:.2f}.',
    _reason(made, measured),
  ]
  if times.drafter and not adaptive and not tree:
    # A draft in one pass has no more slots than its network.
    most = num_draft if one_pass else max(num_draft, 8)
    gains = measured is not None and measured >= 1
    best, gain = cost_model.best(
      costs, cost_model.Acceptance([alpha]), most, or_plain=not gains
    )
    parts |= dict(best_num_draft=best, best_predicted_speedup=gain.speedup)
    sentences += _advice(best, gain.speedup) if best != num_draft else []
  return parts, ' '.join(sentences)


def _advice(num_draft: int, speedup: float) -> list[str]:
  """A sentence on a draft length better than the one that ran."""
  if not num_draft:
    return ['By such costs no num_draft gains with this drafter.']
  return [
    f'By such costs the best num_draft is {num_draft}, with {speedup:.2f}.'
  ]


def _reason(made: cost_model.Round, measured: float | None) -> str:
  """Why it is a gain or a loss, by the measured speed-up where it is known."""
  # The measured ratio decides the word: a measured gain is never called a loss.
  predicted_gain = made.speedup >= 1
  if measured is not None and (measured >= 1) != predicted_gain:
    what, verb = ('gain', 'more') if measured >= 1 else ('loss', 'less')
    return (
      f'Measured, it is a {what} ({measured:.2f}): timed alone, the parts of a '
      f'round cost {verb} than in the loop.'
    )
  if predicted_gain:
    return 'A round yields more tokens than it costs target steps: a gain.'
  if made.tokens <= made.block:
    return (
      'That is a loss: too few drafted tokens are accepted to pay even for the '
      'wider block.'
    )
  return (
    'That is a loss: the drafter is too expensive for its acceptance '
    f'({made.draft:.2f} target steps of drafting a round).'
  )


def environment(owners: Mapping[str, str]) -> dict[str, Any]:
  """Machine, versions and digests that decide a text, for `--stats`.

  Args:
    owners: result of `digests.of_owners`, or a note that holds it.
  """
  device = jax.devices()[0]
  return {
    'device': f'{device.platform} {device.device_kind}',
    'processor': machine.processor(),
    'processor_flags': machine.processor_flags(),
    'kernel': paths.XLA.name,
    'versions': {
      'specjax': specjax.__version__,
      'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'numpy': np.__version__,
      'python': platform.python_version(),
    },
    'digests': {
      key: owners[key] for key in ('target', 'tokenizer', 'chat_template')
    },
  }
