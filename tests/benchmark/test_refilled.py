"""Cases whose finished rows are refilled, as for a file of prompts."""

import json

import numpy as np
import pytest

from specjax.benchmark import check
from specjax.benchmark import plan
from specjax.benchmark import prompts
from specjax.benchmark import refilled
from specjax.benchmark import report
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.benchmark import specdec
from specjax.decoding import beginnings
from specjax.inference import decode_batch
from specjax.inference import sources
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import request

# A target of random weights, whose loops count, and that ends some answers.
TARGET = markov('shape:target', 0)._replace(eos_ids=(0,))
COUNT = 22


@pytest.fixture
def run(monkeypatch):
  rng = np.random.default_rng(0)
  lengths = rng.choice([2, 3, 5, 20, 40], COUNT)
  made = [
    prompts.EncodedPrompt(tuple(rng.integers(1, 7, n).tolist()), category=kind)
    for n, kind in zip(lengths, ['qa', 'math'] * COUNT, strict=False)
  ]
  monkeypatch.setattr(prompts, 'collect', lambda *_, **__: made)
  models = {
    'shape:target': TARGET,
    'shape:draft': markov('shape:draft', 0, 0.3),
  }
  monkeypatch.setattr(sources, 'load_target', lambda name, **_: models[name])

  def run(*drafters, **settings):
    settings = dict(num_prompts=0, batch_size=(4,)) | settings
    return runner.run(request(config(**settings), *drafters))

  return run


def answers(run_of_row):
  """{number of the prompt: its new tokens}."""
  _, batches, generations = run_of_row
  found = {}
  for batch, generation in zip(batches, generations, strict=True):
    for at, number in enumerate(batch.rows):
      found.setdefault(number, decode_batch.new_tokens(generation, at))
  return found


def test_refilled_rows_have_the_answers_of_whole_batches(run, tmp_path):
  drafters = ('shape:draft', 'prompt_lookup')
  settings = dict(parts=True, warmup=1, repetitions=1)
  results = run(*drafters, refill=True, **settings)
  whole = run(*drafters, **settings | {'parts': False})
  for mine, theirs in zip(results.runs, whole.runs, strict=True):
    assert len(mine[1]) == 1 and sorted(mine[1][0].rows) == list(range(COUNT))
    assert answers(mine) == answers(theirs)
    row, other = mine[0], theirs[0]
    assert row['check'] == other['check'] and row['refill']
    # Whole batches are filled up with two prompts once more.
    assert row['num_tokens'] == sum(map(len, answers(mine).values()))
    assert row['acceptance_rate'] == other['acceptance_rate']
    assert other['rows_busy'] < row['rows_busy'] <= 1
    assert row['num_target_calls'] <= 4 * row['num_rounds']
    assert row['speedup'] > 0 and row['tokens_per_second'] > 0
    assert row['prefill_seconds'] is row['round_ms'] is None
    assert 'by_category' not in row and 'draft_ms' not in row
  assert [r['check'] for r in results.rows] == [None, check.OK, check.OK]
  report.write(str(tmp_path), results, config(refill=True))
  kept = json.loads((tmp_path / 'results.json').read_text())
  assert kept[1]['rows_busy'] == results.rows[1]['rows_busy']
  assert 'rows busy' in (tmp_path / 'report.md').read_text()


def test_sampled_rows_are_checked_as_they_are_decoded(run):
  results = run(
    'shape:draft',
    refill=True,
    repetitions=1,
    temperature=(1.0,),
    verifier=('sampling', 'lenient'),
    verifiers={'lenient': {'lenience': 0.5}},
  )
  sampled, lenient = results.rows[1:]
  assert sampled['check'] == check.OK
  assert sampled['check_note'].startswith('checked under coupled')
  assert lenient['check'] == check.LOSSY
  made = answers(results.runs[0]).values()
  assert len(set(map(tuple, made))) > COUNT // 2


def test_what_prompts_share_is_read_in_every_pass(run, monkeypatch):
  read, begin = [], beginnings.begin

  def counted(*given, **more):
    read.append(given)
    return begin(*given, **more)

  monkeypatch.setattr(beginnings, 'begin', counted)
  made = [prompts.EncodedPrompt((*[1, 2, 3, 4] * 4, n)) for n in range(1, 7)]
  monkeypatch.setattr(prompts, 'collect', lambda *_, **__: made)
  setup = request_lib.prepare(request(config(refill=True)), lambda text: None)
  engine = refilled.engine(setup.plain(0.0, 4), setup.batches(0.0, 4), setup)
  for _ in range(2):
    del read[:]
    engine.run(0)
    assert len(read) == 1


def test_what_cannot_be_refilled_is_refused(run):
  with pytest.raises(ValueError, match='simulated:0.8 decodes whole batches'):
    run('simulated:0.8', refill=True)
  with pytest.raises(ValueError, match='leave them out, or refill'):
    config(refill=True, parts=True, widths=(1, 4))
  with pytest.raises(ValueError, match='searches with beams'):
    specdec.SpecDecConfig(refill=True).validate()
  asked = request(config(refill=True), 'shape:draft')
  with pytest.raises(ValueError, match='peer decodes whole batches'):
    runner.run(asked._replace(peers=('transformers',)))
  with pytest.raises(ValueError, match='--plan times whole batches'):
    plan.plan(asked, lambda text: None)
