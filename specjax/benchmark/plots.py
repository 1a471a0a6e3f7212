"""Plots of a benchmark; they need matplotlib, the extra `plots`.

A drafter has one colour and one marker in all pictures of a report. Its lines
differ in their kind: solid, dashed and so on.
"""

from collections.abc import Sequence
import functools
import importlib.util
import pathlib
from typing import Any

from specjax import files
from specjax.benchmark.table import brief
from specjax.benchmark.table import int8

# Okabe and Ito's palette, which readers with colour blindness distinguish.
COLOURS = '#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000'.split()
# One more than colours: pairs of colour and marker repeat after 7 x 8 drafters.
MARKERS = 'osD^vP*X'
LINES = ('-', '--', '-.', ':')
# Fields in which cases differ.
_KEYS = 'drafter verifier tree num_draft temperature batch_size'.split()
PARTS = (
  ('draft_ms', 'draft', '#E69F00'),
  ('block_ms', 'block', '#0072B2'),
  ('overhead_ms', 'the rest', '#999999'),
)


def available() -> bool:
  """Whether matplotlib is installed."""
  return importlib.util.find_spec('matplotlib') is not None


def draw(plots: dict, data: Any, folder: pathlib.Path) -> list[str]:
  """Draws the plots for which the data suffice.

  Args:
    plots: functions by file name; each takes axes and the data and returns
      whether it drew something.
    data: rows, for `PLOTS`.
    folder: folder of the files.

  Returns:
    The files' names.
  """
  if not available():
    return []
  # Without pyplot, which keeps figures alive and looks for a display.
  from matplotlib import figure

  drawn = []
  for name, plot in plots.items():
    page = figure.Figure(figsize=(8, 4.8), dpi=120, layout='constrained')
    if plot(page.add_subplot(), data):
      kind = pathlib.Path(name).suffix[1:]
      save = functools.partial(page.savefig, format=kind)
      files.write_whole(str(folder / name), save)
      drawn.append(name)
  return drawn


def who(row: dict) -> str:
  """Key of a row's colour: its drafter, behind the name of another engine."""
  name = row['drafter'] + int8(row)
  return name if row['engine'] == 'specjax' else f'{row["engine"]}, {name}'


def styles(rows: Sequence[dict]) -> dict[str, dict]:
  """Colour and marker of each drafter, in the order in which they come.

  Args:
    rows: all rows of a report, so that every picture of it finds the same.
  """
  names = dict.fromkeys(map(who, rows))
  return {
    name: {
      'color': COLOURS[index % len(COLOURS)],
      'marker': MARKERS[index % len(MARKERS)],
    }
    for index, name in enumerate(names)
  }


def _looks(groups: dict, rows: Sequence[dict]) -> dict[str, dict]:
  """{label of a group: its drafter's style, with a line of its own}."""
  # Two groups of `suffix`, K = 4 and 8: one colour and marker, lines - and --
  known, count, looks = styles(rows), {}, {}
  for label, group in groups.items():
    name = who(group[0])
    place = count[name] = count.get(name, -1) + 1
    looks[label] = known[name] | {'linestyle': LINES[place % len(LINES)]}
  return looks


def _ours(rows, speculative=True):
  return [
    row
    for row in rows
    if row['engine'] == 'specjax' and bool(row['num_draft']) == speculative
  ]


def _groups(rows, keys):
  """Rows by the values of `keys`, in order; a label names those that vary."""
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


def _finish(axes, count) -> None:
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  look = dict(fontsize=8, frameon=False)
  if count > 4:  # Inside they would hide lines.
    axes.figure.legend(loc='outside lower center', ncols=4, **look)
  elif count > 1:
    axes.legend(**look)


def lines(axes: Any, series: dict[str, Sequence[tuple]], looks: dict) -> bool:
  """Draws lines; bars where no line would have a second point.

  Args:
    axes: axes of matplotlib.
    series: (x, y) pairs by label.
    looks: style by label.

  Returns:
    Whether bars were drawn.
  """
  series = {label: points for label, points in series.items() if points}
  if not series:
    return False
  if all(len(points) == 1 for points in series.values()):
    values = [points[0][1] for points in series.values()]
    colours = [looks[label]['color'] for label in series]
    axes.barh(list(series), values, color=colours, height=0.6)
    for place, value in enumerate(values):
      axes.annotate(f' {value:.3g}', (value, place), va='center', fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    return True
  for label, points in series.items():
    axes.plot(*zip(*sorted(points), strict=True), label=label, **looks[label])
  return False


def _whole_numbers(axes) -> None:
  from matplotlib import ticker

  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _speedup(axes, rows) -> bool:
  groups = _groups(
    _ours(rows), ('drafter', 'verifier', 'tree', 'temperature', 'batch_size')
  )
  looks = _looks(groups, rows)
  series = {
    label: [(row['num_draft'], row['speedup']) for row in group]
    for label, group in groups.items()
  }
  flat = lines(axes, series, looks)
  for place, (label, group) in enumerate(groups.items()):
    predicted = [
      (row['predicted_speedup'], place)
      if flat
      else (row['num_draft'], row['predicted_speedup'])
      for row in group
      if row.get('predicted_speedup')
    ]
    if predicted:
      colour = '#000000' if flat else looks[label]['color']
      style = {'marker': looks[label]['marker'], 'markerfacecolor': 'none'}
      style |= {'linestyle': '', 'color': colour}
      axes.plot(*zip(*predicted, strict=True), **style)
  (axes.axvline if flat else axes.axhline)(1, color='#777777', linewidth=1)
  gain = 'times plain decoding'
  if flat:
    drafts = sorted({row['num_draft'] for row in _ours(rows)})
    which = f', K={drafts[0]}' if drafts else ''
    axes.set(xlabel=gain)
  else:
    which = ' by draft length'
    _whole_numbers(axes)
    axes.set(xlabel='drafted tokens a round, K', ylabel=gain)
  axes.set_title(f'Speed-up{which} (hollow: predicted)')
  _finish(axes, 0 if flat else len(groups))
  return bool(groups)


def _acceptance(axes, rows) -> bool:
  found = [row for row in _ours(rows) if row.get('acceptance_by_position')]
  # The batch size changes no row's tokens, so one batch size suffices.
  found = [row for row in found if row['batch_size'] == found[0]['batch_size']]
  groups = _groups(found, _KEYS)
  series = {
    label: [
      (place, rate)
      for place, rate in enumerate(group[0]['acceptance_by_position'], 1)
      if rate is not None
    ]
    for label, group in groups.items()
  }
  if not any(series.values()):
    return False
  title, rate = 'Acceptance by position in the draft', 'accepted / tested'
  if lines(axes, series, _looks(groups, rows)):
    axes.set(title=title + ', which has one', xlabel=rate, xlim=(0, 1.1))
    _finish(axes, 0)
  else:
    _whole_numbers(axes)
    axes.set(title=title, xlabel='draft slot', ylabel=rate, ylim=(0, 1.03))
    _finish(axes, len(groups))
  return True


def _latency(axes, rows) -> bool:
  found = [row | {'who': who(row)} for row in rows]
  groups = _groups(found, ('who', 'verifier', 'num_draft', 'temperature'))
  looks = _looks(groups, rows)
  if len(rows) == 1:
    series = {label: [(0, g[0]['ms_per_token'])] for label, g in groups.items()}
    lines(axes, series, looks)
    axes.set(title='Latency', xlabel='milliseconds a token')
    _finish(axes, 0)
    return True
  for label, group in groups.items():
    group = sorted(group, key=lambda row: row['batch_size'])
    # A reader waits for every step of the batch. 4 rows in 1 s with 100 tokens
    # each are 2.5 ms a token, and 10 ms for each reader.
    x = [row['ms_per_token'] * row['batch_size'] for row in group]
    y = [row['tokens_per_second'] for row in group]
    axes.plot(x, y, label=label, **looks[label])
    for row, a, b in zip(group, x, y, strict=True):
      axes.annotate(
        f' {row["batch_size"]}', (a, b), fontsize=7, color='#555555'
      )
  axes.set(xlim=(0, None), ylim=(0, None))
  axes.set_title('Latency against throughput (numbers: batch size)')
  axes.set_xlabel('milliseconds a token, as one reader waits')
  axes.set_ylabel('tokens a second, all rows')
  _finish(axes, len(groups))
  return bool(rows)


def _split(axes, rows) -> bool:
  rows = [row for row in rows if row.get('draft_ms') is not None]
  groups = _groups(rows, _KEYS)
  labels = list(groups)
  left = [0.0] * len(labels)
  for key, name, colour in PARTS:
    widths = [max(groups[label][0][key], 0.0) for label in labels]
    axes.barh(labels, widths, left=left, label=name, color=colour)
    # Stacked: each part begins where the one before it ends.
    left = [a + b for a, b in zip(left, widths, strict=True)]
  for place, label in enumerate(labels):
    row = groups[label][0]
    tokens = row['block_efficiency'] or 1
    axes.annotate(
      f'  {tokens:.2f} tokens', (left[place], place), va='center', fontsize=8
    )
  axes.invert_yaxis()
  axes.margins(x=0.18)
  axes.set_title('Where the time of a round goes')
  axes.set_xlabel('milliseconds a round')
  _finish(axes, 2)
  return bool(rows)


def _widths(axes, rows) -> bool:
  found = [
    row for row in rows if row.get('bandwidth_ms') and not row['num_draft']
  ]
  groups = _groups(found, ('batch_size',))
  looks = _looks(groups, rows)
  series = {
    label: [(int(w), ms) for w, ms in group[0]['block_ms_by_width'].items()]
    for label, group in groups.items()
  }
  if not series:
    return False
  flat = lines(axes, series, looks)
  for label, group in groups.items():
    style = {'color': looks[label]['color'], 'linestyle': '--', 'linewidth': 1}
    line = axes.axvline if flat else axes.axhline
    line(group[0]['bandwidth_ms'], **style)
  axes.set_title('The target over a block (dashed: reading its bytes once)')
  if flat:
    axes.set_xlabel('milliseconds')
  else:
    axes.set_ylim(bottom=0)
    _whole_numbers(axes)
    axes.set(xlabel='tokens in the block', ylabel='milliseconds')
  _finish(axes, 0 if flat else len(groups))
  return True


PLOTS = {
  'speedup_by_k.png': _speedup,
  'acceptance_by_position.png': _acceptance,
  'latency_throughput.png': _latency,
  'round_split.png': _split,
  'block_width.png': _widths,
}
