"""Plots of a benchmark; they need matplotlib, the extra `plots`."""

import importlib.util
import pathlib
from typing import Any

from specjax.benchmark.table import brief
from specjax.benchmark.table import int8

# Told apart also by those who see few colours (Okabe and Ito's palette).
COLOURS = (
  '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000',
)  # fmt: skip
# As many as colours and one more, so that their pairs do not soon come again.
MARKERS = 'osD^vP*X'
# What tells cases apart.
_KEYS = (
  'drafter', 'verifier', 'tree', 'num_draft', 'temperature', 'batch_size',
)  # fmt: skip
PARTS = (
  ('draft_ms', 'draft', '#E69F00'),
  ('verify_ms', 'verify', '#0072B2'),
  ('overhead_ms', 'the rest', '#999999'),
)


def available() -> bool:
  """Whether matplotlib is installed."""
  return importlib.util.find_spec('matplotlib') is not None


def draw(plots: dict, data: Any, folder: pathlib.Path) -> list[str]:
  """Draws what the data suffice for.

  Args:
    plots: {name of the file: plot}; a plot takes axes and the data and returns
      whether it drew something.
    data: rows, for `PLOTS`.
    folder: where the files go.

  Returns:
    The files' names.
  """
  if not available():
    return []
  from matplotlib import figure

  drawn = []
  for name, plot in plots.items():
    page = figure.Figure(figsize=(8, 4.8), dpi=120, layout='constrained')
    if plot(page.add_subplot(), data):
      page.savefig(folder / name)
      drawn.append(name)
  return drawn


def _ours(rows, speculative=True):
  return [
    row
    for row in rows
    if row['engine'] == 'specjax' and bool(row['num_draft']) == speculative
  ]


def _groups(rows, keys):
  """Rows by what they share, in order, with a label that names what varies."""
  if not rows:
    return {}
  # A peer drafts no trees.
  rows = [row | {'tree': row.get('tree') or 'chain'} for row in rows]
  varied = [k for k in keys if len({row[k] for row in rows}) > 1]
  varied = varied or [keys[0]]
  short = {'temperature': 'T', 'batch_size': 'batch', 'num_draft': 'K'}
  found = {}
  for row in rows:
    words = [
      f'{short[k]}={row[k]:g}' if k in short else brief(str(row[k]))
      for k in varied
      if row['num_draft'] or k not in ('verifier', 'num_draft')
    ]
    label = ', '.join(words).replace('none', 'plain decoding') + int8(row)
    found.setdefault(label, []).append(row)
  return found


def _finish(axes, title, x, y, count) -> None:
  axes.set_title(title)
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  look = dict(fontsize=8, frameon=False)
  if count > 4:  # Inside they would hide what they name.
    axes.figure.legend(loc='outside lower center', ncols=4, **look)
  elif count > 1:
    axes.legend(**look)


def style_of(index: int) -> dict:
  """Colour and marker of a plot's line."""
  return {
    'color': COLOURS[index % len(COLOURS)],
    'marker': MARKERS[index % len(MARKERS)],
  }


def _whole_numbers(axes) -> None:
  from matplotlib import ticker

  low, high = axes.get_xlim()
  if high - low < 2:  # one K alone, around which fractions would be marked
    axes.set_xlim((low + high) / 2 - 1, (low + high) / 2 + 1)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _speedup(axes, rows) -> bool:
  groups = _groups(
    _ours(rows), ('drafter', 'verifier', 'tree', 'temperature', 'batch_size')
  )
  for index, (label, group) in enumerate(groups.items()):
    group = sorted(group, key=lambda row: row['num_draft'])
    style, x = style_of(index), [row['num_draft'] for row in group]
    axes.plot(x, [row['speedup'] for row in group], label=label, **style)
    predicted = [
      (row['num_draft'], row['predicted'])
      for row in group
      if row.get('predicted')
    ]
    if predicted:
      axes.plot(
        *zip(*predicted), linestyle='--', markerfacecolor='none', alpha=0.7,
        **style,
      )  # fmt: skip
  axes.axhline(1, color='#777777', linewidth=1)
  _whole_numbers(axes)
  _finish(axes, 'Speed-up by draft length (dashed: predicted)',
          'drafted tokens a round, K', 'times plain decoding',
          len(groups))  # fmt: skip
  return bool(groups)


def _acceptance(axes, rows) -> bool:
  rows = [row for row in _ours(rows) if row.get('acceptance_by_position')]
  # The batch size changes no row's tokens, so one of them says it all.
  rows = [row for row in rows if row['batch_size'] == rows[0]['batch_size']]
  groups = _groups(rows, _KEYS)
  for index, (label, group) in enumerate(groups.items()):
    rates = group[0]['acceptance_by_position']
    points = [(i + 1, r) for i, r in enumerate(rates) if r is not None]
    if points:
      axes.plot(*zip(*points), label=label, **style_of(index))
  axes.set_ylim(0, 1.03)
  _whole_numbers(axes)
  _finish(axes, 'Acceptance by position in the draft', 'draft slot',
          'accepted / tested', len(groups))  # fmt: skip
  return bool(groups)


def _latency(axes, rows) -> bool:
  rows = [
    dict(row) | {'who': row['drafter'] if row['engine'] == 'specjax'
                 else row['engine'] + ', ' + row['drafter']}
    for row in rows
  ]  # fmt: skip
  groups = _groups(rows, ('who', 'verifier', 'num_draft', 'temperature'))
  for index, (label, group) in enumerate(groups.items()):
    group = sorted(group, key=lambda row: row['batch_size'])
    # What one reader waits for a token: a batch shares its seconds.
    x = [row['ms_per_token'] * row['batch_size'] for row in group]
    y = [row['tokens_per_second'] for row in group]
    axes.plot(x, y, label=label, **style_of(index))
    for row, a, b in zip(group, x, y):
      axes.annotate(
        f' {row["batch_size"]}', (a, b), fontsize=7, color='#555555'
      )
  axes.set_xlim(left=0)
  axes.set_ylim(bottom=0)
  _finish(axes, 'Latency against throughput (numbers: batch size)',
          'milliseconds a token, as one reader waits',
          'tokens a second, all rows', len(groups))  # fmt: skip
  return bool(rows)


def _split(axes, rows) -> bool:
  rows = [row for row in rows if row.get('draft_ms') is not None]
  groups = _groups(rows, _KEYS)
  labels = list(groups)
  left = [0.0] * len(labels)
  for key, name, colour in PARTS:
    widths = [max(groups[label][0][key], 0.0) for label in labels]
    axes.barh(labels, widths, left=left, label=name, color=colour)
    left = [a + b for a, b in zip(left, widths)]
  for place, label in enumerate(labels):
    row = groups[label][0]
    tokens = row['block_efficiency'] or 1
    axes.annotate(
      f'  {tokens:.2f} tokens', (left[place], place), va='center', fontsize=8
    )
  axes.invert_yaxis()
  axes.margins(x=0.18)
  title = 'Where the time of a round goes'
  _finish(axes, title, 'milliseconds a round', '', 2)
  return bool(rows)


def _widths(axes, rows) -> bool:
  rows = [
    row for row in rows if row.get('bandwidth_ms') and not row['num_draft']
  ]
  groups = _groups(rows, ('batch_size',))
  for index, (label, group) in enumerate(groups.items()):
    times = sorted(
      (int(w), ms) for w, ms in group[0]['verify_ms_by_width'].items()
    )
    style = style_of(index)
    axes.plot(*zip(*times), label=label, **style)
    axes.axhline(
      group[0]['bandwidth_ms'], linestyle='--', linewidth=1,
      color=style['color'],
    )  # fmt: skip
  axes.set_ylim(bottom=0)
  _whole_numbers(axes)
  _finish(axes, 'The target over a block (dashed: reading its bytes once)',
          'tokens in the block', 'milliseconds', len(groups))  # fmt: skip
  return bool(rows)


PLOTS = {
  'speedup_by_k.png': _speedup,
  'acceptance_by_position.png': _acceptance,
  'latency_throughput.png': _latency,
  'round_split.png': _split,
  'block_width.png': _widths,
}
