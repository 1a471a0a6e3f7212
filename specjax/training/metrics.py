"""Metrics of a run: `metrics.jsonl`, TensorBoard files, curves."""

from collections.abc import Callable
import contextlib
import functools
import importlib.util
import json
import math
import os
from typing import NamedTuple

import jax
import tensorboardX

from specjax import files

FILE = 'metrics.jsonl'
CURVES = 'curves.png'


class Writer(NamedTuple):
  """Attributes:
  write: `(step, kind, values)`; `kind` is 'train' or 'eval', `values` a dict
    of floats.
  close: flushes.
  """

  write: Callable[[int, str, dict], None]
  close: Callable[[], None]


def shown(value: float) -> str:
  """A value for people; - for what was not measured."""
  return '-' if math.isnan(value) else f'{value:.4g}'


def open_writer(workdir: str, first_step: int = 0) -> Writer:
  """Opens the metrics of a run.

  Args:
    workdir: folder of the run.
    first_step: lines after this step, left by a run that went further than
      its last checkpoint, are dropped: they will be written again.

  Of several processes the first writes.
  """
  if jax.process_index():
    return Writer(lambda *args: None, lambda: None)
  path = os.path.join(workdir, FILE)
  kept = [m for m in read(workdir) if m['step'] <= first_step]
  # Replaced whole, so that a run killed here keeps its old file.
  files.write_text(path, ''.join(json.dumps(m) + '\n' for m in kept))
  lines = open(path, 'a', encoding='utf-8')
  board = tensorboardX.SummaryWriter(os.path.join(workdir, 'tensorboard'))

  def write(step, kind, values):
    values = {k: float(v) for k, v in values.items()}
    # JSON knows no nan.
    clean = {
      k: round(v, 6) if math.isfinite(v) else None for k, v in values.items()
    }
    lines.write(json.dumps({'step': step, 'kind': kind, **clean}) + '\n')
    # A line at a time: whoever follows the file, or a crash, finds all steps.
    lines.flush()
    for name, value in values.items():
      if math.isnan(value):
        continue
      board.add_scalar(f'{kind}/{name}', value, step)

  def close():
    # Each line was flushed, and an error raised, when it was written.
    with contextlib.suppress(OSError):
      lines.close()
      board.close()

  return Writer(write, close)


def read(workdir: str) -> list[dict]:
  """The lines of `metrics.jsonl`; a last line cut short is left out."""
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    return []
  out = []
  with open(path, encoding='utf-8') as f:
    for line in f:
      try:
        out.append(files.parse_json(line))
      except ValueError:
        break
  return out


def _single(axis, found: dict) -> None:
  """Bars in the place of lines of which none has a second point."""
  if not found or any(len(points) > 1 for points, _ in found.values()):
    axis.set_xlabel('step')
    return
  for line in list(axis.lines):
    line.remove()
  steps = [
    f'{kind}, step {points[0][0]}' for kind, (points, _) in found.items()
  ]
  axis.bar(steps, [points[0][1] for points, _ in found.values()], width=0.5)


_PANELS = (
  ('loss', 'loss per token'),
  ('acceptance_rate', 'share of drafted tokens accepted'),
  ('block_efficiency', 'tokens per target call'),
  ('tokens_per_second', 'tokens per second'),
)


def plot(workdir: str) -> str:
  """Draws `curves.png` from `metrics.jsonl`.

  Returns:
    Its path; '' without matplotlib.
  """
  if importlib.util.find_spec('matplotlib') is None:
    return ''
  from matplotlib import figure

  rows = read(workdir)
  panels = [p for p in _PANELS if any(r.get(p[0]) is not None for r in rows)]
  panels = panels or [_PANELS[0]]
  page = figure.Figure(figsize=(4.5 * len(panels), 3.5), layout='tight')
  axes = page.subplots(1, len(panels), squeeze=False)
  for axis, (name, title) in zip(axes[0], panels, strict=True):
    found = {}
    for kind, style in (('train', '-'), ('eval', 'o-')):
      points = [
        (r['step'], r[name])
        for r in rows
        if r['kind'] == kind and r.get(name) is not None
      ]
      if points:
        found[kind] = points, style
    for kind, (points, style) in found.items():
      axis.plot(*zip(*points, strict=True), style, label=kind, markersize=3)
    _single(axis, found)
    axis.set_title(title)
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend()
  path = os.path.join(workdir, CURVES)
  save = functools.partial(page.savefig, dpi=110, format='png')
  files.write_whole(path, save)
  return path
