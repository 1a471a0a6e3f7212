"""SpecDec's experiment: slots, rules, drafters and batches, with quality.

What the paper reports, on the models at hand: speed over plain greedy decoding
and over beam search, mean accepted tokens a round, BLEU, and how far outputs
keep to the target's own.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

import time
from typing import Any, Callable, NamedTuple, Optional

import jax
import jax.numpy as jnp

from specjax import base
from specjax import text as text_lib
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import memory
from specjax.benchmark import quality
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.checkpoints import model as model_lib
from specjax.decoding import beam
from specjax.decoding.verifiers.top_candidates import ENTRY as TOP_CANDIDATES
from specjax.inference import assemble
from specjax.inference import verifier_sources
from specjax.models import registry as families

EXACT = (1, 0.0)


class Results(NamedTuple):
  """What was found; the first four are those of `runner.Results`.

  Attributes:
    rows, environment, runs, setup: see there. Rows of batch 1 carry the fields
      of `quality.compare`, and all of them 'label', 'over_greedy' and
      'over_beam' (seconds of that over this row's).
    alone: `quality.compare` of the main drafter without a target.
    sizes: {drafter's name: parameters}.
  """

  rows: list[dict]
  environment: dict
  runs: list[tuple]
  setup: request_lib.Setup
  alone: dict
  sizes: dict


def run(
  request: request_lib.Request, tell: Callable[[str], None] = lambda text: None
) -> Results:
  """Measures; `request.config` is a `SpecDecConfig`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  config = request.config
  setup = request_lib.prepare(request, tell)
  _check(setup, config)
  environment = request_lib.describe(request)
  rows, runs = [], []
  for batch_size in sorted({1, *config.batch_size}):
    cases = wanted_cases(setup, config, batch_size)
    batches = cases_lib.batches(
      setup.prompts, setup.target, config, config.sampling(0.0), batch_size
    )
    beside = []
    if config.num_beams:
      engine, kept = beam_engine(setup.target, config, batches)
      name = f'beam-{config.num_beams}'
      about = runner.fields(request, name, 'search', 0, 0.0, batch_size, setup)
      beside = [(about | {'engine': 'specjax', 'mode': 'beam'}, engine)]
    fresh, fresh_runs = [], []
    runner.measure_cases(
      request, setup, cases, environment, fresh, fresh_runs, tell, beside
    )
    beams = [(fresh[-1], batches, kept)] if beside else []
    _add(fresh, [*fresh_runs, *beams], setup, beams)
    rows += fresh
    runs += fresh_runs
  for row in rows:
    row['environment'] = environment
  tell('decoding with the drafter alone')
  alone = _alone(setup, config, runs[0])
  sizes = {
    s.name: sum(x.size for x in jax.tree.leaves(s.model.params))
    for s in setup.sources
    if s.model is not None
  }
  return Results(rows, environment, runs, setup, alone, sizes)


def label(model: Optional[model_lib.Model], name: str) -> str:
  """What a drafter is, in words of the paper."""
  if model is None or model.config is None:
    return name
  return families.family_of(model.config).label(model.config) or name


def _check(setup, config) -> None:
  """Raises ValueError if there is no drafter, or something does not fit."""
  if not setup.sources:
    raise ValueError('Name at least one --drafter; the first is the main one.')
  if not setup.target.lm.is_encoder_decoder:
    raise ValueError(
      f'This experiment needs an encoder-decoder, but {setup.target.name} is '
      'decoder-only.'
    )
  check_slots(setup.sources[0], config)
  betas = [beta for beta, _ in (config.dial, *config.relaxed)]
  target = assemble.target_of(setup.target)
  TOP_CANDIDATES.check(target, TOP_CANDIDATES.options(beta=max(betas)))


def check_slots(main, config) -> None:
  """Raises ValueError if the main drafter has too few slots for the tables.

  Values of `num_draft` that it cannot fill are left out, but not all of them.
  """
  for field, least in (
    ('table_draft', config.table_draft),
    ('num_draft', min(config.num_draft)),
  ):
    most = _most_draft(main, least)
    if least > most:
      raise ValueError(
        f'{field} is {least}, but {main.name} was made to draft at most {most} '
        f'tokens at once; lower {field}.'
      )


def wanted_cases(setup, config, batch_size: int) -> list[cases_lib.Case]:
  """Plain decoding, then each drafter, K and (beta, tau) that a table needs."""
  main, dial = setup.sources[0], config.dial
  rules = (EXACT, dial)
  wanted = [(main, config.table_draft, pair) for pair in rules]
  if batch_size == 1:
    wanted += [(main, k, pair) for k in config.num_draft for pair in rules]
    wanted += [(main, config.table_draft, pair) for pair in config.relaxed]
    wanted += [
      (subject, config.table_draft, pair)
      for subject in setup.sources[1:]
      for pair in rules
    ]
  cases, seen = [cases_lib.plain(setup.target, config, 0.0, batch_size)], set()
  for subject, num_draft, (beta, tau) in wanted:
    pair = EXACT if beta == 1 else (beta, tau)
    key = subject.name, num_draft, pair
    if key in seen or num_draft > _most_draft(subject, num_draft):
      continue
    seen.add(key)
    cases.append(
      _speculative(setup, config, subject, batch_size, num_draft, pair)
    )
  return cases


def _speculative(
  setup, config, source, batch_size, num_draft, relaxed
) -> cases_lib.Case:
  """A case at temperature 0 with a pair (beta, tau)."""
  settings = config.recipe_settings(0.0, num_draft=num_draft)
  if relaxed != EXACT:
    beta, tau = relaxed
    settings = settings._replace(
      verifier=TOP_CANDIDATES,
      verifiers={TOP_CANDIDATES.name: {'beta': int(beta), 'tau': float(tau)}},
    )
  return _case(setup, config, source, batch_size, settings)


def _case(setup, config, source, batch_size, settings) -> cases_lib.Case:
  return cases_lib.speculative(
    setup.target,
    source,
    settings,
    setup.data,
    temperature=0.0,
    batch_size=batch_size,
    config=config,
  )


def _most_draft(subject, otherwise: int) -> int:
  """Most tokens that a subject drafts at once; `otherwise` without a bound."""
  model = subject.model
  if model is None or model.config is None:
    return otherwise
  return families.facts(model.config).max_draft or otherwise


def beam_engine(target, config, batches):
  """(engine, what it last gave for each batch), in the form of a peer's."""
  spec = beam.BeamSpec(config.num_beams)
  search = beam.compiled(target.lm, spec, config.max_new_tokens)
  kept = [None] * len(batches)

  def call(index: int):
    batch = batches[index]
    rank = jnp.zeros(len(batch.rows), jnp.int32)
    begin = time.perf_counter()
    made = search(target.params, batch.prompt, batch.controls, rank)
    jax.block_until_ready(made)
    seconds = time.perf_counter() - begin
    made = kept[index] = jax.device_get(made)
    tokens = [check_lib.new_tokens(made, i) for i in range(len(batch.rows))]
    peak = memory.peak()
    return measure_lib.Timing(seconds), {
      'tokens': tokens,
      'peak_bytes': peak.bytes,
      'peak_kind': peak.kind,
    }

  one_of_each = {b.prompt.tokens.shape: i for i, b in enumerate(batches)}
  begin = time.perf_counter()
  for index in one_of_each.values():
    call(index)
  seconds = time.perf_counter() - begin
  name = f'beam search, {config.num_beams} beams'
  return measure_lib.Engine(name, call, None, seconds), kept


def outputs(setup, batches, generations) -> list[list[int]]:
  """New tokens of every prompt, the end token left out."""
  rows = [[] for _ in setup.prompts]
  for batch, made in zip(batches, generations):
    for at, number in enumerate(batch.rows):
      tokens = check_lib.new_tokens(made, at)
      rows[number] = [t for t in tokens if t not in setup.target.eos_ids]
  return rows


def _texts(setup, rows) -> list[str]:
  if setup.target.tokenizer is None:
    return [' '.join(map(str, row)) for row in rows]
  return [text_lib.decode(setup.target.tokenizer, row) for row in rows]


def _judge(setup, rows, plain_rows) -> dict[str, Any]:
  return quality.compare(
    rows,
    _texts(setup, rows),
    plain_rows,
    _texts(setup, plain_rows),
    [p.reference for p in setup.prompts],
  )


def _add(rows, runs, setup, beams) -> None:
  """Puts labels, ratios and, at batch 1, quality into the rows."""
  by_name = {s.name: s.model for s in setup.sources}
  plain_rows = outputs(setup, *runs[0][1:])
  for row in rows:
    row['label'] = label(by_name.get(row['drafter']), row['drafter'])
    row['over_greedy'] = rows[0]['seconds'] / row['seconds']
    row['over_beam'] = None
    if beams:
      row['over_beam'] = beams[0][0]['seconds'] / row['seconds']
  if rows[0]['batch_size'] == 1:
    for row, batches, generations in runs:
      made = outputs(setup, batches, generations)
      row |= _judge(setup, made, plain_rows)


def _verify_nothing(context, draft, logits) -> base.Verdict:
  """Everything drafted is kept: the drafter alone."""
  del context
  count = jnp.sum(draft.tokens >= 0, axis=1)
  last = jnp.take_along_axis(
    draft.tokens, jnp.maximum(count - 1, 0)[:, None], axis=1
  )[:, 0]
  # Where nothing can be drafted any more, the row should end: its own token.
  best = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
  return base.Verdict(
    jnp.maximum(count - 1, 0).astype(jnp.int32),
    jnp.where(count > 0, last, best),
  )


def _alone(setup, config, plain_run) -> dict[str, Any]:
  """Quality of the main drafter's own text, block after block."""
  main = setup.sources[0]
  settings = config.recipe_settings(0.0, num_draft=config.table_draft)
  settings = settings._replace(
    verifier=verifier_sources.resolve(base.Verifier(_verify_nothing))
  )
  case = _case(setup, config, main, 1, settings)
  decode = assemble.compiled(case.recipe, config.max_new_tokens)
  _, batches, plain = plain_run
  made = [
    jax.device_get(decode(case.params, batch.prompt, batch.controls))
    for batch in batches
  ]
  return _judge(
    setup, outputs(setup, batches, made), outputs(setup, batches, plain)
  )
