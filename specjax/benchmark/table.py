"""Rows as tables: the one that the command prints, and Markdown."""

from typing import Any, Optional, Sequence

from specjax.decoding.drafters import registry as drafter_registry

COLUMNS = (
  ('engine', 'engine', '{}'), ('drafter', 'drafter', '{}'),
  ('verifier', 'verify', '{}'), ('num_draft', 'K', '{}'),
  ('tree', 'tree', '{}'), ('temperature', 'T', '{:g}'),
  ('quantize', 'int8', '{}'), ('batch_size', 'batch', '{}'),
  ('tokens_per_second', 'tokens/s', '{:.1f}'),
  ('ms_per_token', 'ms/token', '{:.2f}'), ('speedup', 'speed-up', '{:.2f}'),
  ('speedup_spec_bench', '(Spec-Bench)', '{:.2f}'), ('c', 'c', '{:.3f}'),
  ('verify_cost', 'block cost', '{:.2f}'),
  ('predicted_theorem', 'thm 3.8', '{:.2f}'),
  ('predicted', 'predicted', '{:.2f}'),
  ('measured_over_predicted', 'meas/pred', '{:.2f}'),
  ('loop_efficiency', 'loop eff.', '{:.2f}'),
  ('best_num_draft', 'best K', '{}'),
  ('operations_factor', 'operations', '{:.2f}'),
  ('block_efficiency', 'tokens/call', '{:.2f}'),
  ('acceptance_rate', 'accept', '{:.3f}'),
  ('draft_acceptance_rate', 'acc/drafted', '{:.3f}'),
  ('draft_ms', 'draft ms', '{:.2f}'), ('verify_ms', 'verify ms', '{:.2f}'),
  ('overhead_ms', 'other ms', '{:.2f}'),
  ('compile_seconds', 'compile s', '{:.1f}'),
  ('peak_memory_bytes', 'peak MB', None), ('check', 'check', '{}'),
)  # fmt: skip


def brief(name: str) -> str:
  """A folder's own name, of RUN/export the run's; other names as they are."""
  *above, last = name.rstrip('/').split('/')
  return above[-1] if above and last == 'export' else last


def int8(row: dict) -> str:
  """What is kept in int8, to stand behind a name; '' for nothing."""
  what = row.get('quantize', 'none')
  return '' if what == 'none' else f', int8 {what}'


def filled(rows: Sequence[dict], columns: Sequence[tuple]) -> list[tuple]:
  """The columns in which some row has something."""
  return [
    (key, title, form)
    for key, title, form in columns
    if any(cell(row, key, form) != '-' for row in rows)
  ]


def note(row: dict) -> str:
  """What is to be said of a row; '' for nothing."""
  if not row.get('check_note'):
    return ''
  return (
    f'{row["engine"]} {brief(row["drafter"])} {row["verifier"]} '
    f'K={row["num_draft"]} T={row["temperature"]:g} batch '
    f'{row["batch_size"]}{int8(row)}: {row["check_note"]}'
  )


def cell(row: dict, key: str, form: Optional[str]) -> str:
  """One value as shown; '-' where there is none."""
  value = row.get(key)
  if value is None or value == '' or (key, value) == ('quantize', 'none'):
    return '-'
  if isinstance(value, str):
    value = brief(value)
  return f'{value / 1e6:.0f}' if form is None else form.format(value)


def cells_of(rows: Sequence[dict], columns: Sequence[tuple]) -> list[list[str]]:
  """Cells line by line, the titles first; columns are as in `COLUMNS`."""
  return [[title for _, title, _ in columns]] + [
    [cell(row, key, form) for key, _, form in columns] for row in rows
  ]


def markdown(cells: Sequence[Sequence[str]]) -> str:
  """A Markdown table; the first line holds the titles."""
  titles, *body = cells
  return '\n'.join(
    '| ' + ' | '.join(line) + ' |'
    for line in (titles, ['---'] * len(titles), *body)
  )


def text(rows: Sequence[dict]) -> str:
  """All rows in aligned columns, with notes below."""
  cells = cells_of(rows, filled(rows, COLUMNS))
  widths = [max(map(len, column)) for column in zip(*cells)]
  lines = [
    '  '.join(value.ljust(width) for value, width in zip(line, widths)).rstrip()
    for line in cells
  ]
  lines += [f'note: {note(row)}' for row in rows if note(row)]
  return '\n'.join(lines + ratios(rows))


def ratios(rows: Sequence[dict]) -> list[str]:
  """Our tokens a second over each peer's, where both did the same.

  With several draft lengths, also our best over the peer's best.
  """
  lines, best = [], {}
  for peer in rows:
    if peer['engine'] == 'specjax':
      continue
    for row in rows:
      if not _same(row, peer):
        continue
      lines.append(_ratio(row, peer))
      if peer['num_draft']:
        best.setdefault(_setting(row, peer), []).append((row, peer))
  for pairs in best.values():
    if len({peer['num_draft'] for _, peer in pairs}) > 1:
      ours, theirs = (max(side, key=_rate) for side in zip(*pairs))
      lines.append(_ratio(ours, theirs) + ' (the best K of each)')
  return lines


def _rate(row: dict) -> float:
  return row['tokens_per_second']


def _setting(row: dict, peer: dict) -> tuple:
  keys = ('drafter', 'verifier', 'tree', 'temperature', 'batch_size')
  return (peer['engine'], *(row.get(key) for key in keys))


def _same(row: dict[str, Any], peer: dict[str, Any]) -> bool:
  keys = ('drafter', 'num_draft', 'temperature', 'batch_size', 'dtype')
  return (
    row['engine'] == 'specjax'
    and row['mode'] == peer['mode']
    and all(row[key] == peer[key] for key in keys)
  )


def _ratio(row: dict, peer: dict) -> str:
  """One line: what was compared, and our speed over the peer's."""
  ours, theirs, what = 'plain', 'plain', ''
  if row['num_draft']:
    # A drafter without a model is called the same on both sides.
    entry = drafter_registry.find(row['drafter'])
    ours, theirs = 'speculative', entry.name if entry else 'assisted'
    theirs = theirs.replace('_', ' ')
    drafts = dict.fromkeys((row['num_draft'], peer['num_draft']))
    what = (
      f', drafter {brief(row["drafter"])}, {row["verifier"]}, '
      f'K={" and ".join(map(str, drafts))}'
    )
  return (
    f'ratio: specjax {ours} over {peer["engine"]} {theirs}, '
    f'{brief(row["target"])}{what}, T={row["temperature"]:g}, '
    f'batch {row["batch_size"]}, {row["dtype"]}: '
    f'{_rate(row) / _rate(peer):.2f}'
  )
