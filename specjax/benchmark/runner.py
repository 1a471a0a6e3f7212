"""Measures everything that was asked for."""

import contextlib
import dataclasses
from typing import NamedTuple, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from specjax.benchmark import break_even
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import limits
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import memory as memory_lib
from specjax.benchmark import parts as parts_lib
from specjax.benchmark import request as request_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark import subjects as subjects_lib
from specjax.benchmark.peers import engines as peers
from specjax.distributed import transfer
from specjax.inference import assemble


class Results(NamedTuple):
  """What was found.

  Attributes:
    rows: dicts, one a measurement; `report.SCHEMA` documents them.
    environment: device, versions and flags.
    runs: for the explorer: (row, batches, generations) of each of our cases.
    setup: what was measured; of several values of `quantize`, the last.
  """

  rows: list[dict]
  environment: dict
  runs: list[tuple]
  setup: request_lib.Setup


def run(
  request: request_lib.Request,
  tell: request_lib.Tell = lambda text: None,
) -> Results:
  """Measures every combination of what `request.config` sweeps.

  Args:
    request: what to measure.
    tell: is told of progress, a line at a time.

  Returns:
    `Results`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  environment = request_lib.describe(request)
  rows, runs, setup = [], [], None
  for name in request.config.quantize:
    config = dataclasses.replace(request.config, quantize=(name,))
    setup = None  # Frees the models before the next ones come.
    setup = request_lib.prepare(request._replace(config=config), tell)
    _sweep(
      request._replace(config=config), setup, environment, rows, runs, tell
    )
  if request.config.widths:
    tell('measuring how fast memory is read')
    limits.add_bandwidth(rows)
  for row in rows:
    row['environment'] = environment
  return Results(rows, environment, runs, setup)


def _sweep(request, setup, environment, rows, runs, tell) -> None:
  """Measures every temperature and batch size of one pair of models."""
  config = request.config
  for temperature in config.temperature:
    for batch_size in config.batch_size:
      cases = cases_lib.grid(
        setup.target,
        setup.sources,
        config,
        float(temperature),
        batch_size,
        setup.data,
      )
      measure_cases(request, setup, cases, environment, rows, runs, tell)


def measure_cases(
  request, setup, cases, environment, rows, runs, tell, beside=()
) -> None:
  """Measures the cases of one temperature and batch size, and peers.

  Args:
    request: what was asked for.
    setup: what was loaded for it.
    cases: plain decoding first.
    environment: of `request.describe`; peers add their versions.
    rows, runs: as in `Results`; added to.
    tell: is told of progress.
    beside: (fields of its row, engine) pairs of what else is to be measured;
      the engines return what a peer returns.
  """
  config, first = request.config, cases[0]
  batches = cases_lib.batches(
    setup.prompts,
    setup.target,
    config,
    config.sampling(first.temperature),
    first.batch_size,
  )

  def room(width: int) -> int:
    return measure_lib.capacity(cases, width, config)

  tell(f'compiling {len(cases)} cases')
  plain_engine = measure_lib.engine(first, batches, config, room)
  continuations = [
    continuation(plain_engine.run(i)[1], config) for i in range(len(batches))
  ]
  engines = [plain_engine] + [
    measure_lib.engine(case, batches, config, room, continuations)
    for case in cases[1:]
  ]
  with contextlib.ExitStack() as stack:
    asked = _start_peers(request, setup, cases, batches, stack, environment,
                         tell)  # fmt: skip
    asked += beside
    engines += [peer[1] for peer in asked]
    measured = measure_lib.measure(engines, len(batches), config, tell)
  plain, by_width = measured[0], {}
  for case, found in zip(cases, measured):
    tell(f'timing the parts of {found.engine.label}')
    row, counts = _our_row(request, case, found, plain, setup, batches,
                           continuations, by_width)  # fmt: skip
    rows.append(row)
    runs.append((row, batches, found.results))
    memory_lib.release_programs()
  for (about, _), found in zip(asked, measured[len(cases) :]):
    rows.append(_peer_row(request, about, found, plain, first, setup, batches))


def continuation(generation, config) -> jax.Array:
  """Plain new tokens of a batch: int32 [B, max_new_tokens], zeros behind."""
  made = np.zeros((len(generation.num_tokens), config.max_new_tokens), np.int32)
  for row in range(len(made)):
    tokens = check_lib.new_tokens(generation, row)
    made[row, : len(tokens)] = tokens
  return jnp.asarray(made)


def _our_row(
  request, case, found, plain, setup, batches, continuations, by_width
):
  config = request.config
  counts = rows_lib.counts_of(case, found.results)
  params = case.params_for(continuations[0])
  parts = None
  if config.parts:
    half = int(found.results[0].num_rounds) // 2
    state = found.engine.pause(0, half)
    parts = parts_lib.round_parts(
      case, params, state, by_width, found.results, also=config.widths
    )
  outcome = None
  if case.drafts:
    outcome = _checked(case, found, plain, setup, batches, continuations,
                       config)  # fmt: skip
  row = fields(request, case.name, case.verifier, case.num_draft,
                case.temperature, case.batch_size, setup)  # fmt: skip
  row |= {'engine': 'specjax', 'exact': case.exact}
  dials = case.assembled.dials()
  row |= {'beta': int(dials.get('beta', 1)), 'tau': float(dials.get('tau', 0))}
  row |= {'tree': case.tree} | break_even.passes(case)
  row |= rows_lib.speed(found, plain, rows_lib.samples(setup.prompts, batches))
  row |= rows_lib.drafting(counts)
  row |= rows_lib.parts_and_prediction(
    case, found, plain, counts, parts, config.max_draft
  )
  row['ms_per_step'] = row['round_ms']
  row['by_category'] = rows_lib.by_category(
    setup.prompts, batches, found, plain, case
  )
  row |= rows_lib.verdict(outcome)
  if config.widths:
    row |= limits.fields(case, setup.target, state.cache, batches, config)
  return row, counts


def _checked(case, found, plain, setup, batches, continuations, config):
  """Checks a case, or its twin under a rule that gives equal tokens."""
  if check_lib.judged_alike(case) or not case.exact:
    return check_lib.check(case, batches, plain.results, found.results, config)
  twin = cases_lib.speculative(
    setup.target,
    case.source,
    config.recipe_settings(
      case.temperature,
      num_draft=case.num_draft,
      verifier=check_lib.twin_verifier(case),
    ),
    case.data,
    temperature=case.temperature,
    batch_size=case.batch_size,
    config=config,
    tree=case.tree,
  )
  decode = assemble.compiled(twin.recipe, config.max_new_tokens)
  made = [
    transfer.to_host(decode(twin.params, batch.prompt, twin.controls(batch)))
    for batch in batches
  ]
  outcome = check_lib.check(twin, batches, plain.results, made, config)
  void = check_lib.void(found.results)
  if void:
    return void
  note = f'checked under {twin.verifier}'
  return outcome._replace(note='; '.join(filter(None, (note, outcome.note))))


def fields(request, drafter, verifier, num_draft, temperature, batch, setup):
  """What a row says about what was run."""
  return {
    'target': request.target,
    'drafter': drafter,
    'verifier': verifier,
    'num_draft': num_draft,
    'temperature': temperature,
    'batch_size': batch,
    'dtype': request.config.dtype,
    'quantize': request.config.quantize[0],
    'num_prompts': len(setup.prompts),
    'mode': 'speculative' if num_draft else 'plain',
  }


def _start_peers(request, setup, cases, batches, stack, environment, tell):
  """Starts every peer's process; returns (fields of its row, engine) pairs."""
  asked = []
  models = {
    source.name: source.model
    for source in setup.sources
    if peers.LIKE.get(source.entry.name) == peers.DRAFT_MODEL
  }
  if not request.peers:
    return asked
  folders = stack.enter_context(
    subjects_lib.exported(setup.target, *models.values())
  )
  local = dict(zip(models, folders[1:]))
  for peer in request.peers:
    for drafter, num_draft in _peer_modes(peer, cases, tell):
      told = peers.job(
        peer,
        folders[0],
        local.get(drafter, drafter),
        num_draft,
        cases[0].temperature,
        batches,
        setup.target,
        request.config,
        jax.default_backend(),
      )
      worker = stack.enter_context(peers.started(told))
      environment['versions'] |= worker.versions
      environment['peer_threads'] = told['threads']
      label = f'{peer} {drafter or "plain"} K={num_draft}'
      about = fields(
        request, drafter or 'none', 'own', num_draft, cases[0].temperature,
        cases[0].batch_size, setup,
      )  # fmt: skip
      asked.append((about | {'engine': peer}, peers.engine(worker, label)))
  return asked


def _peer_modes(peer: str, cases, tell) -> list[tuple[Optional[str], int]]:
  """(drafter, K) of what a peer can do; assistance works at batch 1 alone."""
  kind = peers.PEERS[peer]
  modes = [(None, 0)] if kind.plain else []
  if not kind.assisted:
    return modes
  if cases[0].batch_size > 1:
    tell(f'{peer} assists at batch 1 alone; left out at {cases[0].batch_size}')
    return modes
  for case in cases[1:]:
    mode = case.name, case.num_draft
    if case.source.entry.name not in peers.LIKE:
      tell(f'{peer} has nothing like {case.name}; left out')
    elif mode not in modes:
      modes.append(mode)
  return modes


def _peer_row(request, about, found, plain, case, setup, batches) -> dict:
  samples = rows_lib.samples(setup.prompts, batches)
  row = dict(about) | rows_lib.speed(found, plain, samples)
  largest = max(found.results, key=lambda result: result['peak_bytes'])
  row['peak_memory_bytes'] = largest['peak_bytes']
  row['peak_memory_kind'] = largest['peak_kind']
  row['exact'] = None
  row['by_category'] = rows_lib.by_category(
    setup.prompts, batches, found, plain, None
  )
  row |= rows_lib.verdict(None)
  peer = peers.PEERS.get(about['engine'])
  if peer and about['temperature'] == 0:
    tokens = [result['tokens'] for result in found.results]
    row |= rows_lib.verdict(
      check_lib.beside(case, batches, plain.results, tokens, request.config)
    )
    if request.config.dtype == 'w8a8' or not peer.same_tokens:
      row['check'] = None
      row['check_note'] += ' (its arithmetic is another)'
  return row


def failures(rows: Sequence[dict]) -> list[dict]:
  """Rows whose check failed."""
  return [row for row in rows if row.get('check') == check_lib.FAILED]
