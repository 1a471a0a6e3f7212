"""One look a drafter in all pictures, and bars where a point stands alone."""

import pytest

from specjax.benchmark import plots
from specjax.training import metrics

figure = pytest.importorskip(
  'matplotlib.figure', reason='matplotlib, the extra `plots`, draws them'
)


def row(drafter, num_draft, batch=1, **changes):
  return {
    'engine': 'specjax',
    'drafter': drafter,
    'verifier': 'greedy' if num_draft else '',
    'tree': '',
    'num_draft': num_draft,
    'temperature': 0.0,
    'batch_size': batch,
    'speedup': 1.0 + num_draft / 10,
    'predicted_speedup': 1.5,
    'ms_per_token': 5.0 / batch,
    'tokens_per_second': 200.0 * batch,
    'block_efficiency': 2.0,
    'acceptance_by_position': [0.8, 0.5, None, 0.4][:num_draft],
    'draft_ms': 1.0,
    'block_ms': 2.0,
    'overhead_ms': -0.1,
    'bandwidth_ms': 0.5,
    'block_ms_by_width': {'1': 1.0, '4': 1.5},
  } | changes


ROWS = [
  row('none', 0),
  row('a', 2),
  row('a', 4),
  row('b', 2),
  row('b', 4),
  row('b', 4, verifier='match'),
  row('c', 4, engine='transformers', draft_ms=None),
]


def drawn(name, rows):
  axes = figure.Figure().add_subplot()
  return plots.PLOTS[name](axes, rows), axes


def looks(axes):
  """{(colour, marker)} of the lines that have a label."""
  return {
    line.get_label(): (line.get_color(), line.get_marker())
    for line in axes.lines
    if not line.get_label().startswith('_')
  }


def test_a_drafter_looks_alike_in_all_pictures():
  known = plots.styles(ROWS)
  assert len({tuple(style.values()) for style in known.values()}) == 4
  for name in ('speedup_by_k', 'acceptance_by_position', 'latency_throughput'):
    _, axes = drawn(f'{name}.png', ROWS)
    found = looks(axes)
    assert found, name
    for label, look in found.items():
      who = 'transformers, c' if 'transformers' in label else label[0]
      who = 'none' if label.startswith('plain') else who
      assert look == tuple(known[who].values()), (name, label)
  # Fewer rows than the report has change nothing.
  _, axes = drawn('latency_throughput.png', ROWS)
  assert {line.get_linestyle() for line in axes.lines} > {'-'}


@pytest.mark.parametrize('name', plots.PLOTS)
def test_a_single_point_is_a_bar(name):
  alone = [
    row('none', 0, block_ms_by_width={'1': 1.0}),
    row('a', 1, acceptance_by_position=[0.7]),
  ]
  rows = alone[:1] if name == 'latency_throughput.png' else alone
  made, axes = drawn(name, rows)
  assert made
  assert any(bar.get_width() > 0 for bar in axes.patches)
  solid = [line for line in axes.lines if line.get_linestyle() == '-']
  assert all(len(line.get_xdata()) > 1 for line in solid)


@pytest.mark.parametrize('name', plots.PLOTS)
def test_nothing_to_draw_is_no_picture(name):
  assert drawn(name, [])[0] is False


def test_curves_of_one_step_are_bars(tmp_path, monkeypatch):
  pages = []
  real = figure.Figure.savefig

  def keep(page, *arguments, **settings):
    pages.append(page)
    real(page, *arguments, **settings)

  monkeypatch.setattr(figure.Figure, 'savefig', keep)
  writer = metrics.open_writer(str(tmp_path))
  writer.write(1, 'train', {'loss': 3.0, 'tokens_per_second': 10.0})
  writer.write(1, 'eval', {'loss': 3.5})
  assert metrics.plot(str(tmp_path))
  assert [len(axis.patches) for axis in pages[0].axes] == [2, 1]
  writer.write(2, 'train', {'loss': 2.0, 'tokens_per_second': 11.0})
  writer.close()
  assert metrics.plot(str(tmp_path))
  assert [len(axis.patches) for axis in pages[1].axes] == [0, 0]
