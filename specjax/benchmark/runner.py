"""Runs a benchmark: every case of every group, with its parts and checks."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
from typing import Any, NamedTuple
import warnings

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
from specjax.benchmark import refilled
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark.peers import runs as peers
from specjax.inference import decode_batch

Keep = Callable[[Sequence[dict]], None]


class Results(NamedTuple):
  """Results of a benchmark.

  Attributes:
    rows: dicts, one a measurement; `schema.ResultRow` documents them.
    environment: device, versions and flags.
    runs: (row, batches, outputs of the engine for each batch) of each row.
    setup: models and prompts; of several values of `quantize`, the last.
    alone: quality of the drafter's own text, where the config asks for it.
  """

  rows: list[dict]
  environment: dict
  runs: list[tuple]
  setup: request_lib.Setup
  alone: dict | None = None


def run(
  request: request_lib.BenchmarkRequest,
  log_fn: request_lib.LogFn = lambda text: None,
  keep: Keep = lambda rows: None,
) -> Results:
  """Measures every combination of what `request.config` sweeps.

  Args:
    request: `BenchmarkRequest` to run.
    log_fn: callback with a line of progress.
    keep: callback with all rows known so far, whenever there are more. Rows of
      cases that still take turns have fewer repetitions and no parts yet.

  Returns:
    `Results`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  environment = request_lib.describe(request)
  machine = request_lib.machine(environment)
  runs, setup = [], None

  def seen(more: Sequence[dict]) -> None:
    keep([row | machine for row in (*(row for row, _, _ in runs), *more)])

  for name in request.config.quantize:
    config = dataclasses.replace(request.config, quantize=(name,))
    setup = None  # Frees the models before the next ones come.
    setup = request_lib.prepare(request._replace(config=config), log_fn)
    request.config.check(setup)
    seen(())
    for group in _groups(request, setup, log_fn):
      runs += _measure(group, environment, seen)
      seen(())
  rows = [row for row, _, _ in runs]
  if request.config.widths:
    log_fn('measuring how fast memory is read')
    limits.add_bandwidth(rows)
  for row in rows:
    row |= machine
  results = Results(rows, environment, runs, setup)
  return request.config.finish(results, log_fn)


def _groups(request, setup, log_fn) -> Iterator[group_lib.Group]:
  """Every temperature and batch size of one pair of models."""
  config = setup.config
  for temperature, batch_size in itertools.product(
    config.temperature, config.batch_size
  ):
    cases = config.cases(setup, float(temperature), batch_size)
    if config.refill:
      for case in cases:
        refilled.check(case)
    for note in setup.notes(cases):
      warnings.warn(note, stacklevel=2)
    batches = setup.batches(temperature, batch_size)
    yield group_lib.Group(request, setup, cases, batches, log_fn)


def _measure(group: group_lib.Group, environment: dict, seen: Keep) -> list:
  """Runs of a group's cases, of peers and of further engines of the config.

  Args:
    group: cases that take turns.
    environment: result of `request.describe`; peers add their versions.
    seen: callback with the rows as they are after a repetition.
  """
  with contextlib.ExitStack() as stack:
    group, engines, continuations = _engines(group)
    config, batches = group.config, group.every_batch
    others = peers.start(group, stack, environment) + config.beside(group)
    engines += [engine for _, engine in others]

    def rows_so_far(measured):
      count, plain = len(group.cases), measured[0]
      cases = zip(group.cases, measured, strict=False)
      made = [_row(group, *pair, plain)[0] for pair in cases]
      for (about, _), found in zip(others, measured[count:], strict=True):
        made.append(about | group.measured(found, plain))
      seen(made)

    measured = measure_lib.measure(
      engines,
      len(group.batches),
      config,
      group.log_fn,
      rows_so_far,
      untimed=len(group.looping),
    )
  plain, by_width, runs = measured[0], {}, []
  for case, found in zip(group.cases, measured, strict=False):
    group.log_fn(f'timing the parts of {found.engine.label}, and checking it')
    row = _our_row(group, case, found, plain, continuations, by_width)
    runs.append((row, batches, found.every))
    memory_lib.release_programs()
  for (about, _), found in zip(
    others, measured[len(group.cases) :], strict=True
  ):
    row = peers.row(group, about, found, plain)
    runs.append((row, batches, found.every))
  return runs


def _engines(group: group_lib.Group) -> tuple[group_lib.Group, list, list]:
  """(the group, looping prompts apart; engines; plain continuations)."""
  config, programs = group.config, {}

  def room(width: int) -> int:
    return measure_lib.capacity(group.cases, width, config)

  def compiled(number, batches, script=None, **more):
    case = group.cases[number]
    group.log_fn(f'compiling {number + 1} of {len(group.cases)}: {case.label}')
    if config.refill:
      return refilled.engine(case, batches, group.setup)
    return measure_lib.engine(case, batches, config, room, script, **more)

  def plainly(batches):
    engine = compiled(0, batches, programs=programs)
    return engine, [engine.run(i)[1] for i in range(len(batches))]

  plain, made = plainly(group.batches)
  group = group.without_loops(made)
  if group.looping:
    # What plain decoding answers in these batches: elsewhere, other rows of a
    # batch may round another way.
    again, made = plainly(group.every_batch)
    seconds = plain.compile_seconds + again.compile_seconds
    plain = again._replace(compile_seconds=seconds)
  script = [continuation(generation, config) for generation in made]
  engines = [
    compiled(number, group.every_batch, script)
    for number in range(1, len(group.cases))
  ]
  return group, [plain, *engines], script


def continuation(generation: Any, config: Any) -> jax.Array:
  """Plain new tokens of a batch: int32 [B, max_new_tokens], zeros behind."""
  made = np.zeros((len(generation.num_tokens), config.max_new_tokens), np.int32)
  for row in range(len(made)):
    tokens = decode_batch.new_tokens(generation, row)
    made[row, : len(tokens)] = tokens
  return jnp.asarray(made)


def _row(
  group: group_lib.Group,
  case: cases_lib.Case,
  found: measure_lib.Measured,
  plain: measure_lib.Measured,
) -> tuple[dict[str, Any], rows_lib.Counted]:
  """A row of one case, without parts and check; and the case's counts."""
  dials = case.assembled.dials()
  row = group.fields(case.name, case.verifier, case.num_draft) | {
    'engine': 'specjax',
    'exact': case.exact,
    'beta': int(dials.get('beta', 1)),
    'tau': float(dials.get('tau', 0)),
    'tree': case.tree,
  }
  if case.passes:
    row['passes'] = case.passes
  counts = rows_lib.counted(case, found, group.every_batch)
  row |= group.measured(found, plain, case)
  row['rows_busy'] = rows_lib.busy(found, counts.timed, case.batch_size)
  return row | rows_lib.drafting(counts.timed, counts.every), counts


def _our_row(
  group: group_lib.Group,
  case: cases_lib.Case,
  found: measure_lib.Measured,
  plain: measure_lib.Measured,
  continuations: Sequence[jax.Array],
  by_width: dict,
) -> dict[str, Any]:
  """A row of one case."""
  config, parts = group.config, None
  if config.parts and not config.refill:
    # Parts are timed in the middle: a pass takes longer the fuller the cache
    # is, and the middle stands for the mean.
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
  row, counts = _row(group, case, found, plain)
  row |= rows_lib.time_of_parts(found, parts)
  row |= rows_lib.prediction(
    case, found, plain, counts, parts, config.max_draft
  )
  outcome = _checked(group, case, found, plain) if case.drafts else None
  row |= rows_lib.verdict(outcome)
  if config.widths:
    row |= limits.fields(
      case, group.setup.target, state.cache, group.batches, config
    )
  return row


def _checked(group: group_lib.Group, case: cases_lib.Case, found, plain):
  """Checks a case, or its twin under a rule that gives equal tokens."""
  config, batches = group.config, group.every_batch
  # The rule's noise decides. Keyed by position, the case's own tokens must be
  # plain decoding's; keyed by round, they are other draws of the same law.
  if check_lib.judged_alike(case) or not case.exact:
    return check_lib.check(case, batches, plain.every, found.every, config)
  twin = group.setup.case(
    case.source,
    case.temperature,
    case.batch_size,
    tree=case.tree,
    num_draft=case.num_draft,
    verifier=check_lib.twin_verifier(case),
  )
  if config.refill:
    made = refilled.decode(twin, batches, group.setup)
  else:
    made = twin.decode(batches, config.max_new_tokens)
  outcome = check_lib.check(twin, batches, plain.every, made, config)
  void = check_lib.void(found.every)
  if void:
    return void
  note = f'checked under {twin.verifier}'
  return outcome._replace(note='; '.join(filter(None, (note, outcome.note))))


def failures(rows: Sequence[dict]) -> list[dict]:
  """Rows whose check failed."""
  return [row for row in rows if row.get('check') == check_lib.FAILED]
