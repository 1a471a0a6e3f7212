"""Advice from a few measurements: which drafter, verifier and K, if any.

Nothing is swept. Costs are timed part by part at each batch size; acceptance by
draft slot is counted in one run of the longest draft for each drafter and
verifier. Slots before the K-th do not depend on K, so one run serves all of
them, and the cost model does the rest.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp

from specjax.benchmark import config as config_lib
from specjax.benchmark import cost_model
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark import runner
from specjax.benchmark import table
from specjax.inference import timing

# Prompts on which acceptance is counted.
PROMPTS = 100
# A predicted gain below this is lost in the loop's own costs.
WORTHWHILE = 1.05
SAMPLED_RULES = ('sampling', 'block', 'coupled', 'match')


class Choice(NamedTuple):
  """A way to decode and its best draft length."""

  drafter: str
  verifier: str
  num_draft: int
  round: cost_model.Round


def plan(
  request: request_lib.BenchmarkRequest, log_fn: request_lib.LogFn
) -> str:
  """Measures and advises.

  Args:
    request: target, drafters, prompts and `BenchmarkConfig`; peers are not
      used. A chosen `num_draft` holds the only lengths considered, `verifier`
      the only rules, and `num_prompts` the number of prompts.
    log_fn: callback with a line of progress.

  Returns:
    The advice, some lines of text.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  setup, rules, lengths = _prepared(request, log_fn)
  config = setup.config
  lines = [
    f'Plan for {request.target} on {jax.devices()[0].device_kind}, '
    f'{config.dtype}, from {len(setup.prompts)} prompts.'
  ]
  for temperature in config.temperature:
    temperature = float(temperature)
    rates = _acceptance(setup, temperature, rules, log_fn)
    lines += ['', f'Temperature {temperature:g}', '  acceptance by draft slot']
    lines += [
      f'    {name}, {verifier}: '
      + ' '.join(f'{rate:.2f}' for rate in found.rates)
      + (f', drafting in {found.share:.0%} of the rounds' * (found.share < 1))
      for (name, verifier), found in rates.items()
    ]
    for batch_size in config.batch_size:
      log_fn(f'timing the parts at batch {batch_size}')
      costs, step_ms = _costs(setup, temperature, batch_size)
      lines += advise(rates, costs, step_ms, batch_size, lengths)
  return table.wrapped('\n'.join(lines))


def _prepared(request, log_fn):
  """(`Setup`, the rules and the lengths considered; () for all)."""
  config, chosen = request.config, _chosen(request)
  if config.tree != ('',):
    raise ValueError('--plan judges chains; leave tree out.')
  if config.refill:
    raise ValueError('--plan times whole batches; leave refill at false.')
  lengths = config.num_draft if 'num_draft' in chosen else ()
  rules = config.verifier if 'verifier' in chosen else ()
  longest = max(lengths, default=config.max_draft)
  config = dataclasses.replace(
    config,
    num_draft=(longest,),
    max_draft=longest,
    num_prompts=config.num_prompts if 'num_prompts' in chosen else PROMPTS,
  )
  setup = request_lib.prepare(request._replace(config=config, peers=()), log_fn)
  if not setup.sources:
    raise ValueError('--plan needs at least one --drafter to judge.')
  longest = _longest(setup.sources, longest, log_fn)
  if lengths and min(lengths) > longest:
    raise ValueError(
      f'num_draft is {min(lengths)} at least, but some drafter was made to '
      f'draft at most {longest} tokens at once; lower num_draft.'
    )
  config = dataclasses.replace(setup.config, max_draft=longest)
  return setup._replace(config=config), rules, lengths


def _chosen(request: request_lib.BenchmarkRequest) -> set[str]:
  """Names of the settings that the user chose, or that are not the defaults."""
  config, usual = request.config, config_lib.BenchmarkConfig()
  names = ('num_draft', 'num_prompts', 'verifier')
  differ = {x for x in names if getattr(config, x) != getattr(usual, x)}
  return differ | set(request.given)


def _longest(sources, wanted: int, log_fn) -> int:
  """The longest draft that every drafter was made for."""
  longest = min([wanted, *filter(None, map(request_lib.most_draft, sources))])
  if longest < wanted:
    log_fn(
      f'drafts of {longest} tokens at most: no more than that is what some '
      f'drafter was made for (max_draft is {wanted})'
    )
  return longest


def _rules(plan, temperature: float) -> Sequence[str]:
  """Rules worth comparing for a drafter."""
  if temperature == 0:
    return ('greedy',)
  if plan.auto_verifier:
    return (plan.auto_verifier,)
  return SAMPLED_RULES[:3] if plan.has_log_probs else SAMPLED_RULES[3:]


def _acceptance(setup, temperature, rules, log_fn) -> dict:
  """{(drafter, verifier): `cost_model.Acceptance`}, of the longest draft."""
  config = setup.config
  budget, longest = config.max_new_tokens, config.max_draft
  # Acceptance does not depend on the batch size, so the largest, which takes
  # the least time, counts it.
  batch_size = min(max(config.batch_size), len(setup.prompts))
  batches = setup.batches(temperature, batch_size)
  scripts, rates, cases = None, {}, []
  for source in setup.sources:
    auto = setup.case(source, temperature, batch_size, num_draft=longest)
    for rule in rules or _rules(auto.assembled.plan, temperature):
      log_fn(f'counting acceptance of {source.name}, {rule}')
      case = setup.case(
        source, temperature, batch_size, num_draft=longest, verifier=rule
      )
      if case.assembled.plan.reads_script and scripts is None:
        plain = setup.plain(temperature, batch_size)
        scripts = [
          runner.continuation(made, config)
          for made in plain.decode(batches, budget)
        ]
      made = case.decode(batches, budget, scripts)
      rates[source.name, case.verifier] = rows_lib.acceptance(
        case, rows_lib.counts_of(case, made), by_slot=True
      )
      cases.append(case._replace(params=None))
  for note in setup.notes(cases):
    warnings.warn(note, stacklevel=2)
  return rates


def _costs(setup, temperature, batch_size):
  """Times blocks of every width, and drafts of one and of most tokens.

  Returns:
    ({drafter's name: `cost_model.RoundCosts`}, milliseconds of a step).
  """
  config = setup.config
  batch = setup.batches(temperature, batch_size)[0]
  most = config.max_draft
  width = batch.prompt.tokens.shape[1]
  script = jnp.zeros((batch_size, config.max_new_tokens), jnp.int32)
  timers, owners, room = [], [], width + config.max_new_tokens + most + 2
  for source in setup.sources:
    # Two lengths: drafting costs a line in K, or nothing more for one pass.
    for count in sorted({1, most}):
      case = setup.case(source, temperature, batch_size, num_draft=count)
      params = case.params_for(script)
      state = measure_lib.start_state(case, params, batch, config, room)
      timers.append(timing.propose_timer(case.recipe, params, state))
      owners.append((source.name, count))
  for width in range(1, most + 2):
    timers.append(
      timing.extend_timer(case.recipe, params, state.cache, batch_size, width)
    )
  # By turns, so that a slow moment of the machine slows every part.
  times = timing.interleaved(timers)
  # times [drafts .., width 1, width 2, ..]: a step is the block of one token
  step, *_ = blocks = times[len(owners) :]
  drafts = {}
  for (name, count), ms in zip(owners, times, strict=False):
    drafts.setdefault(name, {})[count] = ms
  return {
    name: cost_model.in_steps(step, dict(enumerate(blocks, 1)), found)
    for name, found in drafts.items()
  }, step


def choices(
  rates: dict, costs: dict, batch_size: int, lengths: Sequence[int] = ()
) -> list[Choice]:
  """The best K of every drafter and verifier, best first.

  Args:
    rates: acceptance, {(drafter, verifier): `cost_model.Acceptance`}.
    costs: costs of a round, {drafter: `cost_model.RoundCosts`}.
    batch_size: number of rows that share a round.
    lengths: draft lengths considered; () for all that were timed.
  """
  found = []
  for (name, verifier), accepted in rates.items():
    most = max(costs[name].blocks) - 1
    best = cost_model.best(
      costs[name], accepted, most, batch_size, lengths=lengths
    )
    found.append(Choice(name, verifier, *best))
  return sorted(found, key=lambda choice: -choice.round.speedup)


def advise(
  rates: dict,
  costs: dict,
  step_ms: float,
  batch_size: int,
  lengths: Sequence[int] = (),
) -> list[str]:
  """Lines of advice for one batch size.

  Args:
    rates: acceptance, as `choices` takes it.
    costs: costs of a round, as `choices` takes them.
    step_ms: milliseconds of a step.
    batch_size: number of rows that share a round.
    lengths: draft lengths, as in `choices`.
  """
  ranked = choices(rates, costs, batch_size, lengths)
  best = ranked[0]
  blocks = costs[best.drafter].blocks
  lines = [
    f'  batch {batch_size}: a target step takes {step_ms:.2f} ms; blocks of '
    + ', '.join(f'{k}: {cost:.2f}' for k, cost in blocks.items() if k > 1)
    + ' times as long'
  ]
  lines += [
    f'    {name}, {verifier}: best K = {k}, predicted {made.speedup:.2f}x '
    f'({made.tokens:.2f} tokens a round, cost ratio {made.draft / k:.3f}, '
    f'block cost {made.block:.2f})'
    for name, verifier, k, made in ranked
  ]
  if best.round.speedup < WORTHWHILE:
    return lines + [_refusal(best, batch_size)]
  return lines + [
    f'    use --drafter={best.drafter} --config.num_draft={best.num_draft} '
    f'--config.verifier={best.verifier}: {best.round.speedup:.2f} times as '
    'fast as plain decoding, by prediction'
  ]


def _refusal(best: Choice, batch_size: int) -> str:
  made = best.round
  why = (
    'drafting is too dear'
    if made.draft > made.block - 1
    else 'a block costs too much more than a token'
  )
  return (
    f'    speculative decoding will not help at batch {batch_size}: at best '
    f'{made.speedup:.2f}x, for a round of {made.tokens:.2f} tokens costs '
    f'{made.cost:.2f} target steps ({why}); decode plainly'
  )
