"""Advice from a few measurements: which drafter, verifier and K, if any.

Nothing is swept. Costs are timed part by part at each batch size; acceptance by
draft slot is counted in one run of the longest draft for each drafter and
verifier. Slots before the K-th do not depend on K, so one run serves all of
them, and theory does the rest.

References:
  Leviathan et al. 2023, theorem 3.8 and section 3.5 (the best gamma).
"""

import dataclasses
from typing import NamedTuple, Sequence

import jax
import numpy as np

from specjax import theory
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark import runner
from specjax.inference import assemble
from specjax.inference import timing
from specjax.models import registry as families

# Prompts on which acceptance is counted.
PROMPTS = 100
# A predicted gain below this is lost in the loop's own costs.
WORTHWHILE = 1.05
SAMPLED_RULES = ('sampling', 'block', 'coupled', 'match')


class Costs(NamedTuple):
  """Milliseconds at one batch size.

  Attributes:
    step: the target over one token.
    blocks: float [max_draft + 1]; entry K: the target over K + 1 tokens.
    drafts: {drafter's name: float [max_draft + 1]}; entry K: proposing K.
  """

  step: float
  blocks: np.ndarray
  drafts: dict


class Accepted(NamedTuple):
  """What drafts of one drafter and verifier are worth.

  Attributes:
    by_slot: float [max_draft]; accepted over tested.
    share: of a row's rounds, those in which something is drafted.
    adaptive: rounds without a draft run as plain steps.
  """

  by_slot: Sequence[float]
  share: float = 1.0
  adaptive: bool = False

  def tokens(self, k: int) -> float:
    """Mean tokens of a round with drafts of at most k."""
    drafted = theory.expected_tokens_by_position(self.by_slot[:k])
    return 1 + self.share * (drafted - 1)

  def blocks(self, batch_size: int) -> float:
    """Share of a batch's rounds that verify a draft; any row's will do."""
    return 1 - (1 - self.share) ** batch_size if self.adaptive else 1.0


class Choice(NamedTuple):
  """A way to decode and what it should gain."""

  factor: float
  drafter: str
  verifier: str
  num_draft: int
  tokens: float
  c: float
  verify_cost: float


def plan(request: request_lib.Request, tell: request_lib.Tell) -> str:
  """Measures and advises.

  Args:
    request: target, drafters, prompts and `BenchmarkConfig`; peers are not
      used, and `num_draft` and `verifier` are what is looked for.
    tell: is told of progress.

  Returns:
    The advice, some lines of text.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  config = dataclasses.replace(
    request.config,
    num_draft=(request.config.max_draft,),
    num_prompts=PROMPTS,
  )
  setup = request_lib.prepare(request._replace(config=config, peers=()), tell)
  if not setup.sources:
    raise ValueError('--plan needs at least one --drafter to judge.')
  config = dataclasses.replace(
    config, max_draft=_longest(setup.sources, config.max_draft, tell)
  )
  lines = [
    f'Plan for {request.target} on {jax.devices()[0].device_kind}, '
    f'{config.dtype}, from {len(setup.prompts)} prompts.'
  ]
  for temperature in config.temperature:
    temperature = float(temperature)
    rates = _acceptance(setup, config, temperature, tell)
    lines += ['', f'Temperature {temperature:g}', '  acceptance by draft slot']
    lines += [
      f'    {name}, {verifier}: '
      + ' '.join(f'{rate:.2f}' for rate in found.by_slot)
      + (f', drafting in {found.share:.0%} of the rounds' * (found.share < 1))
      for (name, verifier), found in rates.items()
    ]
    for batch_size in config.batch_size:
      tell(f'timing the parts at batch {batch_size}')
      costs = _costs(setup, config, temperature, batch_size)
      lines += advise(rates, costs, batch_size)
  return '\n'.join(lines)


def _longest(sources, wanted: int, tell) -> int:
  """The longest draft that every drafter was made for."""
  made_for = [
    families.facts(source.model.config).max_draft
    for source in sources
    if source.model is not None and source.model.config is not None
  ]
  longest = min([wanted, *(most for most in made_for if most)])
  if longest < wanted:
    tell(
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


def _case(setup, source, config, temperature, batch_size, **settings):
  """A case of one drafter."""
  return cases_lib.speculative(
    setup.target,
    source,
    config.recipe_settings(temperature, **settings),
    setup.data,
    temperature=temperature,
    batch_size=batch_size,
    config=config,
  )


def _acceptance(setup, config, temperature, tell) -> dict:
  """{(drafter, verifier): `Accepted`}, of the longest draft."""
  batch_size = min(max(config.batch_size), len(setup.prompts))
  batches = cases_lib.batches(
    setup.prompts,
    setup.target,
    config,
    config.sampling(temperature),
    batch_size,
  )
  plain = cases_lib.plain(setup.target, config, temperature, batch_size)
  script = None
  rates = {}
  for source in setup.sources:
    auto = _case(
      setup, source, config, temperature, batch_size,
      num_draft=config.max_draft,
    )  # fmt: skip
    for rule in _rules(auto.assembled.plan, temperature):
      tell(f'counting acceptance of {source.name}, {rule}')
      case = _case(
        setup, source, config, temperature, batch_size,
        num_draft=config.max_draft, verifier=rule,
      )  # fmt: skip
      if case.assembled.plan.reads_script and script is None:
        script = [
          runner.continuation(made, config)
          for made in _decode(plain, batches, None, config)
        ]
      made = _decode(case, batches, script, config)
      counts = rows_lib.counts_of(case, made)
      rates[source.name, case.verifier] = Accepted(
        _by_slot(counts),
        counts.num_draft_rounds / max(counts.num_target_calls, 1),
        len(case.recipe.widths) > 1,
      )
  return rates


def _decode(case, batches, script, config) -> list:
  decode = assemble.compiled(case.recipe, config.max_new_tokens)
  return [
    jax.device_get(
      decode(
        case.params_for(script[i] if script else None),
        batch.prompt,
        case.controls(batch),
      )
    )
    for i, batch in enumerate(batches)
  ]


def _by_slot(counts) -> list[float]:
  """Acceptance by slot; one that was never tested takes the rate of all."""
  overall = counts.acceptance_rate or 0.0
  return [
    overall if rate is None else rate for rate in counts.acceptance_by_position
  ]


def _costs(setup, config, temperature, batch_size) -> Costs:
  """Times blocks of every width, and drafts of one and of most tokens."""
  batch = cases_lib.batches(
    setup.prompts[:batch_size],
    setup.target,
    config,
    config.sampling(temperature),
    batch_size,
  )[0]
  lm, most = setup.target.lm, config.max_draft
  width = batch.prompt.tokens.shape[1]
  timers, owners, room = [], [], width + config.max_new_tokens + most + 2
  for source in setup.sources:
    for count in sorted({1, most}):
      case = _case(
        setup, source, config, temperature, batch_size, num_draft=count
      )
      script = np.zeros((batch_size, config.max_new_tokens), np.int32)
      params = case.params_for(jax.numpy.asarray(script))
      state = measure_lib.start_state(case, params, batch, config, room)
      timers.append(
        timing.propose_timer(case.recipe.drafter, params.drafter, state)
      )
      owners.append((source.name, count))
  for width in range(1, most + 2):
    timers.append(
      timing.extend_timer(
        lm, setup.target.params, state.cache, batch_size, width
      )
    )
  times = timing.interleaved(timers)
  blocks = np.maximum.accumulate(times[len(owners) :])
  drafts = {}
  for (name, count), ms in zip(owners, times):
    drafts.setdefault(name, {})[count] = ms
  return Costs(
    float(blocks[0]),
    blocks,
    {
      name: np.interp(range(most + 1), list(found), list(found.values()))
      for name, found in drafts.items()
    },
  )


def choices(rates: dict, costs: Costs, batch_size: int) -> list[Choice]:
  """The best K of every drafter and verifier, best first."""
  found = []
  for (name, verifier), accepted in rates.items():
    best, share = None, accepted.blocks(batch_size)
    for k in range(1, len(costs.blocks)):
      tokens = accepted.tokens(k)
      verify = share * costs.blocks[k] / costs.step + 1 - share
      draft = costs.drafts[name][k]
      factor = tokens / (verify + draft / costs.step)
      made = Choice(
        factor, name, verifier, k, tokens, draft / costs.step / k, verify
      )
      best = made if best is None or factor > best.factor else best
    found.append(best)
  return sorted(found, key=lambda choice: -choice.factor)


def advise(rates: dict, costs: Costs, batch_size: int) -> list[str]:
  """Lines of advice for one batch size."""
  ranked = choices(rates, costs, batch_size)
  best = ranked[0]
  lines = [
    f'  batch {batch_size}: a target step takes {costs.step:.2f} ms; blocks of '
    + ', '.join(
      f'{k + 1}: {ms / costs.step:.2f}'
      for k, ms in enumerate(costs.blocks)
      if k
    )
    + ' times as long'
  ]
  lines += [
    f'    {c.drafter}, {c.verifier}: best K = {c.num_draft}, predicted '
    f'{c.factor:.2f}x ({c.tokens:.2f} tokens a round, c = {c.c:.3f}, block '
    f'cost {c.verify_cost:.2f})'
    for c in ranked
  ]
  if best.factor >= WORTHWHILE:
    lines.append(
      f'    use --drafter={best.drafter} --config.num_draft={best.num_draft} '
      f'--config.verifier={best.verifier}: {best.factor:.2f} times as fast as '
      'plain decoding, by prediction'
    )
    return lines
  return lines + [_refusal(best, batch_size)]


def _refusal(best: Choice, batch_size: int) -> str:
  cost = best.verify_cost + best.num_draft * best.c
  why = (
    'drafting is too dear'
    if best.num_draft * best.c > best.verify_cost - 1
    else 'a block costs too much more than a token'
  )
  return (
    f'    speculative decoding will not help at batch {batch_size}: at best '
    f'{best.factor:.2f}x, for a round of {best.tokens:.2f} tokens costs '
    f'{cost:.2f} target steps ({why}); decode plainly'
  )
