"""Output of a terminal: narrow tables, and rows as they come."""

import json

import pytest

from decode import benchmark
from specjax.benchmark import limits
from specjax.benchmark import plan
from specjax.benchmark import report
from specjax.benchmark import runner
from specjax.benchmark import schema
from specjax.benchmark import specdec_tables
from specjax.benchmark import table
from specjax.commands import cli
from specjax.inference import sources
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import request

LONG = 'organisation/a-very-long-name-of-a-drafter-network-2024-11-30'


@pytest.fixture
def fake_models(monkeypatch):
  """`shape:target` and `shape:draft` are models made of arrays."""
  models = {
    'shape:target': markov('shape:target', 0),
    'shape:draft': markov('shape:draft', 0, 0.3),
  }
  monkeypatch.setattr(sources, 'load_target', lambda name, **_: models[name])
  monkeypatch.setattr(sources, 'layout_for', lambda *_: None)


def full_row():
  """A row with something in every field."""
  kinds = {'str': LONG, 'int': 123456, 'float': 123.456, 'bool': True}
  row = {
    field.name: kinds.get(getattr(field.type, '__name__', field.type))
    for field in schema.FIELDS
  }
  words = {'engine': 'specjax', 'mode': 'speculative'}
  return row | words | {'timing_note': 'with loops'}


def widest(text):
  return max(map(len, text.splitlines()))


def test_no_line_is_longer_than_a_terminal():
  rows = [full_row(), full_row() | {'engine': 'transformers', 'tree': 'eagle'}]
  shown = table.text(rows)
  assert widest(shown) <= table.WIDTH == 100
  head = shown.splitlines()[0]
  # What a reader looks for first is kept.
  for title in ('drafter', 'K', 'tokens/s', 'speed-up', 'check'):
    assert title in head.split() or title in head
  whole = table.markdown(table.cells_of(rows, schema.COLUMNS))
  assert widest(whole) > 300
  few = [row | {'tree': '', 'quantize': 'none'} for row in rows]
  assert 'quantize' not in table.text(few).splitlines()[0]


def test_other_tables_are_as_narrow():
  rows = [full_row() | {'bandwidth_ms': 1.0, 'peak_memory_kind': 'device'}]
  shown = limits.text(rows)
  assert widest(shown) <= 100 and 'Memory of a device' in shown
  derived = {'rule': '1, -', 'way': 'speculative, 3, 1', 'million': 1.5}
  for columns in specdec_tables.TABLES.values():
    made = table.aligned([full_row() | derived | {'latency': 1.0}], columns)
    assert widest(made) <= 100


def test_long_sentences_are_wrapped_and_names_are_not_cut():
  line = 'note: ' + 'word ' * 40 + 'x' * 120
  made = table.wrapped(line)
  assert made.split() == line.split()
  assert all(len(x) <= 100 or 'x' * 120 in x for x in made.splitlines())


def test_rows_come_while_cases_still_take_turns(fake_models, tmp_path):
  """Ended at any moment, a run leaves the rows that are known."""
  seen = []

  def keep(rows):
    report.keep_rows(str(tmp_path), rows)
    found = json.loads((tmp_path / report.RESULTS).read_text())
    seen.append([(r['num_repetitions'], r['check']) for r in found])

  settings = config(repetitions=3, batch_size=(1, 2))
  results = runner.run(request(settings, 'shape:draft'), keep=keep)
  assert seen[0] == []
  # Two repetitions before the last, then the finished rows of the group.
  assert seen[1] == [(1, None)] * 2 and seen[2] == [(2, None)] * 2
  assert seen[3] == [(3, None), (3, 'ok')]
  assert seen[4] == seen[3] + [(1, None)] * 2
  assert seen[-1] == [(3, None), (3, 'ok')] * 2
  last = json.loads((tmp_path / report.RESULTS).read_text())
  assert [row['speedup'] for row in last] == [
    pytest.approx(row['speedup']) for row in results.rows
  ]


def test_an_interrupted_benchmark_names_what_it_leaves(
  fake_models, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  real = runner.run

  def interrupted(given, log_fn, keep):
    def once(rows):
      keep(rows)
      if rows:
        raise KeyboardInterrupt

    return real(given, log_fn, once)

  monkeypatch.setattr(runner, 'run', interrupted)
  argv = ['decode.benchmark', '--target=shape:target', '--drafter=shape:draft']
  argv += [f'--output={tmp_path / "report"}', '--config.max_new_tokens=8']
  argv += ['--config.num_prompts=2', '--config.prompt_length=4']
  assert cli.call(benchmark.main, argv) == 130
  captured = capsys.readouterr()
  last = captured.err.splitlines()[-1]
  assert f'with 2 rows measured; {tmp_path / "report"}/results.json' in last
  assert captured.out == ''
  rows = json.loads((tmp_path / 'report' / report.RESULTS).read_text())
  assert [row['num_repetitions'] for row in rows] == [1, 1]


def _plan(settings, *given):
  told = []
  asked = request(settings, 'shape:draft')._replace(given=given)
  text = plan.plan(asked, told.append)
  return text, told


def test_a_plan_keeps_to_what_was_asked_for(fake_models, monkeypatch):
  monkeypatch.setattr(plan, 'PROMPTS', 5)
  text, _ = _plan(config(max_draft=3, num_prompts=8, num_draft=(4,)))
  assert 'from 5 prompts' in text and 'of 2: ' in text and '4: ' in text
  text, _ = _plan(config(num_prompts=3, num_draft=(2,)))
  assert 'from 3 prompts' in text and 'best K = 2' in text
  assert '3: ' in text and '4: ' not in text
  # The default counts where it was given.
  text, _ = _plan(config(num_prompts=8, num_draft=(4,)), 'num_prompts')
  assert 'from 8 prompts' in text
  text, told = _plan(
    config(max_draft=2, temperature=(1.0,), verifier=('block',), num_prompts=2)
  )
  assert 'shape:draft, block: best K' in text and 'coupled' not in text
  assert sum('counting acceptance' in line for line in told) == 1
  assert widest(text) <= 100
  with pytest.raises(ValueError, match='judges chains'):
    _plan(config(tree=('eagle',)))
