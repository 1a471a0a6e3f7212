"""Measures everything that was asked for."""

import contextlib
import dataclasses
import itertools
from typing import Any, NamedTuple, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import group as group_lib
from specjax.benchmark import limits
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import memory as memory_lib
from specjax.benchmark import parts as parts_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark.peers import runs as peers


class Results(NamedTuple):
  """What was found.

  Attributes:
    rows: dicts, one a measurement; `report.SCHEMA` documents them.
    environment: device, versions and flags.
    runs: (row, batches, what the engine gave for each batch) of each row.
    setup: what was measured; of several values of `quantize`, the last.
    alone: quality of the drafter's own text, where the config asks for it.
  """

  rows: list[dict]
  environment: dict
  runs: list[tuple]
  setup: request_lib.Setup
  alone: Optional[dict] = None


def run(
  request: request_lib.BenchmarkRequest,
  log_fn: request_lib.LogFn = lambda text: None,
) -> Results:
  """Measures every combination of what `request.config` sweeps.

  Args:
    request: what to measure.
    log_fn: called with a line about progress.

  Returns:
    `Results`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  environment = request_lib.describe(request)
  runs, setup = [], None
  for name in request.config.quantize:
    config = dataclasses.replace(request.config, quantize=(name,))
    setup = None  # Frees the models before the next ones come.
    setup = request_lib.prepare(request._replace(config=config), log_fn)
    request.config.check(setup)
    runs += _sweep(request, setup, environment, log_fn)
  rows = [row for row, _, _ in runs]
  if request.config.widths:
    log_fn('measuring how fast memory is read')
    limits.add_bandwidth(rows)
  for row in rows:
    row['environment'] = environment
  results = Results(rows, environment, runs, setup)
  return request.config.finish(results, log_fn)


def _sweep(request, setup, environment, log_fn) -> list[tuple]:
  """Runs of every temperature and batch size of one pair of models."""
  config, runs = setup.config, []
  for temperature, batch_size in itertools.product(
    config.temperature, config.batch_size
  ):
    cases = config.cases(setup, float(temperature), batch_size)
    batches = setup.batches(temperature, batch_size)
    group = group_lib.Group(request, setup, cases, batches, log_fn)
    runs += _measure(group, environment)
  return runs


def _measure(group: group_lib.Group, environment: dict) -> list[tuple]:
  """Runs of a group's cases, of peers and of what the config measures beside.

  Args:
    group: what takes turns.
    environment: of `request.describe`; peers add their versions.
  """
  config, batches = group.config, group.batches

  def room(width: int) -> int:
    return measure_lib.capacity(group.cases, width, config)

  group.log_fn(f'compiling {len(group.cases)} cases')
  plain_engine = measure_lib.engine(group.plain, batches, config, room)
  continuations = [
    continuation(plain_engine.run(i)[1], config) for i in range(len(batches))
  ]
  engines = [plain_engine] + [
    measure_lib.engine(case, batches, config, room, continuations)
    for case in group.cases[1:]
  ]
  with contextlib.ExitStack() as stack:
    others = peers.start(group, stack, environment) + config.beside(group)
    engines += [engine for _, engine in others]
    measured = measure_lib.measure(engines, len(batches), config, group.log_fn)
  plain, by_width, runs = measured[0], {}, []
  for case, found in zip(group.cases, measured):
    group.log_fn(f'timing the parts of {found.engine.label}')
    row = _our_row(group, case, found, plain, continuations, by_width)
    runs.append((row, batches, found.results))
    memory_lib.release_programs()
  for (about, _), found in zip(others, measured[len(group.cases) :]):
    row = peers.row(group, about, found, plain)
    runs.append((row, batches, found.results))
  return runs


def continuation(generation, config) -> jax.Array:
  """Plain new tokens of a batch: int32 [B, max_new_tokens], zeros behind."""
  made = np.zeros((len(generation.num_tokens), config.max_new_tokens), np.int32)
  for row in range(len(made)):
    tokens = check_lib.new_tokens(generation, row)
    made[row, : len(tokens)] = tokens
  return jnp.asarray(made)


def _our_row(
  group: group_lib.Group,
  case: cases_lib.Case,
  found: measure_lib.Measured,
  plain: measure_lib.Measured,
  continuations: Sequence[jax.Array],
  by_width: dict,
) -> dict[str, Any]:
  """A row of one case."""
  config = group.config
  counts = rows_lib.counts_of(case, found.results)
  parts = None
  if config.parts:
    half = int(found.results[0].num_rounds) // 2
    state = found.engine.pause(0, half)
    parts = parts_lib.round_parts(
      case,
      case.params_for(continuations[0]),
      state,
      by_width,
      found.results,
      also=config.widths,
    )
  row = group.fields(case.name, case.verifier, case.num_draft)
  dials = case.assembled.dials()
  row |= {
    'engine': 'specjax',
    'exact': case.exact,
    'beta': int(dials.get('beta', 1)),
    'tau': float(dials.get('tau', 0)),
    'tree': case.tree,
  }
  if case.passes:
    row['passes'] = case.passes
  row |= group.measured(found, plain, case) | rows_lib.drafting(counts)
  row |= rows_lib.time_of_parts(found, parts)
  row |= rows_lib.prediction(case, found, plain, counts, parts,
                             config.max_draft)  # fmt: skip
  row['ms_per_step'] = row['round_ms']
  outcome = _checked(group, case, found, plain) if case.drafts else None
  row |= rows_lib.verdict(outcome)
  if config.widths:
    row |= limits.fields(
      case, group.setup.target, state.cache, group.batches, config
    )
  return row


def _checked(group: group_lib.Group, case: cases_lib.Case, found, plain):
  """Checks a case, or its twin under a rule that gives equal tokens."""
  config, batches = group.config, group.batches
  if check_lib.judged_alike(case) or not case.exact:
    return check_lib.check(case, batches, plain.results, found.results, config)
  twin = group.setup.case(
    case.source,
    case.temperature,
    case.batch_size,
    tree=case.tree,
    num_draft=case.num_draft,
    verifier=check_lib.twin_verifier(case),
  )
  made = twin.decode(batches, config.max_new_tokens)
  outcome = check_lib.check(twin, batches, plain.results, made, config)
  void = check_lib.void(found.results)
  if void:
    return void
  note = f'checked under {twin.verifier}'
  return outcome._replace(note='; '.join(filter(None, (note, outcome.note))))


def failures(rows: Sequence[dict]) -> list[dict]:
  """Rows whose check failed."""
  return [row for row in rows if row.get('check') == check_lib.FAILED]
