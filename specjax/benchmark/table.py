"""Rows as tables: the one that the command prints, and Markdown."""

from collections.abc import Mapping, Sequence
import re
import textwrap
from typing import Any

from specjax.benchmark import schema
from specjax.decoding.drafters import registry as drafter_registry

# Characters of a line on a terminal, and of a name in a table there.
WIDTH = 100
_LONGEST = 28
_GAP = '  '


def columns(text: str) -> tuple[schema.Column, ...]:
  """Columns as in `schema.COLUMNS`, one a line: field, title and form.

  Two spaces or more divide them; a line without a form shows bytes as MB.

    In:  'draft_ms  draft ms  {:.2f}'
    Out: (('draft_ms', 'draft ms', '{:.2f}'),)
  """
  lines = [re.split(r'\s{2,}', line.strip()) for line in text.splitlines()]
  return tuple((*line, None)[:3] for line in lines if line != [''])


def brief(name: str) -> str:
  """Last part of a path, RUN of a path RUN/export; other names unchanged."""
  # 'runs/small/export': 'small'; 'models/gpt2/': 'gpt2'; 'suffix': 'suffix'
  *above, last = name.rstrip('/').split('/')
  return above[-1] if above and last == 'export' else last


def int8(row: dict) -> str:
  """Suffix of a name: the models kept in int8; '' for none."""
  what = row.get('quantize', 'none')
  return '' if what == 'none' else f', int8 {what}'


def filled(rows: Sequence[dict], columns: Sequence[tuple]) -> list[tuple]:
  """The columns in which at least one row has a value."""
  return [
    (key, title, form)
    for key, title, form in columns
    if any(cell(row, key, form) != '-' for row in rows)
  ]


def note(row: dict) -> str:
  """The note of a row's check, with the row's name; '' without one."""
  if not row.get('check_note'):
    return ''
  return (
    f'{row["engine"]} {brief(row["drafter"])} {row["verifier"]} '
    f'K={row["num_draft"]} T={row["temperature"]:g} batch '
    f'{row["batch_size"]}{int8(row)}: {row["check_note"]}'
  )


def cell(row: dict, key: str, form: str | None) -> str:
  """One value as shown; '-' where there is none."""
  value = row.get(key)
  if value is None or value == '' or (key, value) == ('quantize', 'none'):
    return '-'
  if isinstance(value, str):
    value = brief(value)
  return f'{value / 1e6:.0f}' if form is None else form.format(value)


def cells_of(rows: Sequence[dict], columns: Sequence[tuple]) -> list[list[str]]:
  """Cells line by line, the titles first; columns as in `schema`."""
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
  """The rows as a terminal shows them, with notes below."""
  lines = [aligned(rows, schema.TERMINAL, schema.RANKS)]
  lines += [f'note: {note(row)}' for row in rows if note(row)]
  return wrapped('\n'.join(lines + ratios(rows)))


def aligned(
  rows: Sequence[dict],
  columns: Sequence[tuple],
  ranks: Mapping[str, int] | None = None,
) -> str:
  """A table of at most `WIDTH` characters a line.

  Args:
    rows: rows of the table.
    columns: columns as in `schema`; those without any value are left out.
    ranks: rank of each column; where a line would be too long, columns of the
      highest rank go first. By default the last ones go first.
  """
  columns = filled(rows, columns)
  places = {key: place for place, (key, _, _) in enumerate(columns)}
  while True:
    cells = [[_cut(x) for x in line] for line in cells_of(rows, columns)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # One column stays, however wide it is: a table needs one.
    if sum(widths) + len(_GAP) * (len(widths) - 1) <= WIDTH or len(widths) < 2:
      break
    worst = max(
      columns, key=lambda one: ((ranks or places)[one[0]], places[one[0]])
    )
    columns.remove(worst)
  return '\n'.join(
    _GAP.join(map(str.ljust, line, widths)).rstrip() for line in cells
  )


def _cut(value: str) -> str:
  """A cell of at most `_LONGEST` characters; a long name keeps its end."""
  # 27 characters behind the sign that some are missing, 28 in all.
  return value if len(value) <= _LONGEST else '…' + value[1 - _LONGEST :]


def wrapped(words: str) -> str:
  """Text whose lines are at most `WIDTH` characters long."""
  return '\n'.join(
    textwrap.fill(line, WIDTH, subsequent_indent='  ', break_long_words=False)
    if len(line) > WIDTH
    else line
    for line in words.split('\n')
  )


def ratios(rows: Sequence[dict]) -> list[str]:
  """Our tokens a second over each peer's, where both did the same.

  With several draft lengths there is also our best over the peer's best:
  engines have their best speed at different K.
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
      ours, theirs = (max(side, key=_rate) for side in zip(*pairs, strict=True))
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
  """One line: both ways to decode, and our speed over the peer's."""
  ours, theirs, what = 'plain', 'plain', ''
  if row['num_draft']:
    # transformers calls a drafter with a model an assistant.
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
