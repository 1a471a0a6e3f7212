"""Peers beside the cases of a group: their processes and their rows."""

import contextlib
from typing import Any

import jax

from specjax.benchmark import check as check_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import rows as rows_lib
from specjax.benchmark import subjects as subjects_lib
from specjax.benchmark.group import Group
from specjax.benchmark.peers import engines


def start(
  group: Group, stack: contextlib.ExitStack, environment: dict
) -> list[tuple]:
  """Starts every peer's process; returns (fields of its row, engine) pairs."""
  names, setup = group.request.peers, group.setup
  if not names:
    return []
  kinds = {s.name: engines.LIKE.get(s.entry.name) for s in setup.sources}
  models = {
    source.name: source.model
    for source in setup.sources
    if kinds[source.name] == engines.DRAFT_MODEL
  }
  folders = stack.enter_context(
    subjects_lib.exported(setup.target, *models.values())
  )
  local, started = dict(zip(models, folders[1:], strict=True)), []
  modes = [(name, mode) for name in names for mode in _modes(name, group)]
  for peer, (drafter, num_draft) in modes:
    job = engines.job_of(
      peer,
      folders[0],
      local.get(drafter),
      lookup=kinds.get(drafter) == engines.LOOKUP,
      num_draft=num_draft,
      temperature=group.plain.temperature,
      batches=group.every_batch,
      model=setup.target,
      config=group.config,
      device=jax.default_backend(),
      settings=setup.taken.for_peers(),
    )
    label = f'{peer} {drafter or "plain"} K={num_draft}'
    engine, versions = stack.enter_context(engines.started(job, label))
    environment['versions'] |= versions
    environment['peer_threads'] = job['threads']
    about = group.fields(drafter or 'none', 'own', num_draft)
    started.append((about | {'engine': peer}, engine))
  return started


def _modes(peer: str, group: Group) -> list[tuple[str | None, int]]:
  """(drafter, K) of a peer's runs; transformers assists at batch 1 alone."""
  kind, batch_size = engines.PEERS[peer], group.plain.batch_size
  modes = [(None, 0)] if kind.plain else []
  if not kind.assisted:
    return modes
  if batch_size > 1:
    group.log_fn(f'{peer} assists at batch 1 alone; left out at {batch_size}')
    return modes
  for case in group.cases[1:]:
    mode = case.name, case.num_draft
    if case.source.entry.name not in engines.LIKE:
      group.log_fn(f'{peer} has nothing like {case.name}; left out')
    elif mode not in modes:
      modes.append(mode)
  return modes


def row(
  group: Group,
  about: dict,
  found: measure_lib.Measured,
  plain: measure_lib.Measured,
) -> dict[str, Any]:
  """A row of another engine; `about` are its fields so far."""
  row = about | group.measured(found, plain)
  largest = max(found.results, key=lambda result: result['peak_bytes'])
  row['peak_memory_bytes'] = largest['peak_bytes']
  row['peak_memory_kind'] = largest['peak_kind']
  row['exact'] = None
  row |= rows_lib.verdict(None)
  peer = engines.PEERS.get(about['engine'])
  if peer and about['temperature'] == 0:
    tokens = [result['tokens'] for result in found.every]
    row |= rows_lib.verdict(
      check_lib.beside(
        group.plain, group.every_batch, plain.every, tokens, group.config
      )
    )
    if group.config.dtype == 'w8a8' or not peer.same_tokens:
      row['check'] = None
      row['check_note'] += ' (its arithmetic is another)'
  return row
