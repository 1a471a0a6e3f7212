"""Settings of a target's file in a benchmark, and options that change nothing.

The models are made of arrays and have 7 tokens.
"""

import json
import types
import warnings

import numpy as np
import pytest

from specjax.benchmark import defaults
from specjax.benchmark import plan
from specjax.benchmark import report
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.benchmark.peers import transformers_worker
from specjax.inference import decode_batch
from specjax.inference import sources
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import request

FILE = {
  'suppress_tokens': [2, 3],
  'repetition_penalty': 1.25,
  'do_sample': True,
  'temperature': 0.7,
  'top_k': 3,
}
SAFE = {'repetition_penalty': 1.25, 'suppress_tokens': [2, 3]}
SHORT = dict(repetitions=1, warmup=0, max_new_tokens=12)


@pytest.fixture
def models(monkeypatch):
  """`shape:target`, which has a file, and `shape:draft`."""
  target = markov('shape:target', 0)._replace(generation_config=FILE)
  made = {'shape:target': target, 'shape:draft': markov('shape:draft', 0, 0.3)}
  monkeypatch.setattr(sources, 'load_target', lambda name, **_: made[name])


def run(settings, *drafters):
  """(`runner.Results`, tokens of every answer)."""
  results = runner.run(request(settings, *drafters))
  tokens = [
    decode_batch.new_tokens(made, row)
    for _, batches, found in results.runs
    for batch, made in zip(batches, found, strict=True)
    for row in range(len(batch.rows))
  ]
  return results, tokens


def test_none_is_the_default_and_takes_nothing(models):
  results, tokens = run(config(**SHORT), 'shape:draft')
  assert {2, 3} & set(np.concatenate(tokens).tolist())
  for row in results.rows:
    assert (row['generation_config'], row['from_generation_config']) == (
      'none',
      '',
    )


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_settings_of_the_file_hold_for_every_case(models):
  settings = config(generation_config='safe', batch_size=(2,), **SHORT)
  results, tokens = run(settings, 'shape:draft', 'prompt_lookup')
  assert len(results.rows) == 3 and not runner.failures(results.rows)
  assert not {2, 3} & set(np.concatenate(tokens).tolist())
  for row in json.loads(report.flat_rows(results.rows)):
    assert row['generation_config'] == 'safe' and row['temperature'] == 0
    assert json.loads(row['from_generation_config']) == SAFE


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_model_takes_what_is_not_given(models):
  settings = config(generation_config='model', **SHORT)
  setup = request_lib.prepare(request(settings), lambda text: None)
  assert setup.config.temperature == (0.7,) and setup.config.top_k == 3
  found = setup.sampling(0.7)
  assert (found.top_k, found.suppress_tokens) == (3, (2, 3))
  assert setup.plain(0.7, 1).recipe.warp.top_k
  # Somebody may mean the default: then it is given like any other value.
  asked = request(settings)._replace(given=('temperature', 'top_k'))
  setup = request_lib.prepare(asked, lambda text: None)
  assert setup.config.temperature == (0.0,) and setup.config.top_k == 0
  given = config(generation_config='model', temperature=(0.5, 1.0), top_k=2)
  setup = request_lib.prepare(request(given), lambda text: None)
  assert setup.config.temperature == (0.5, 1.0) and setup.config.top_k == 2


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_min_length_is_of_every_prompt():
  target = markov('t', 0)._replace(generation_config={'min_length': 9})
  settings = config(generation_config='safe')
  rows = [[1] * 5, [1] * 7]
  _, found = defaults.take(settings, target, rows)
  assert found.fields['min_new_tokens'].tolist() == [4, 2]
  with pytest.raises(ValueError, match='min_length of .* cannot be given'):
    defaults.take(settings, target, rows, ['transformers'])
  _, found = defaults.take(settings, target, rows[:1], ['transformers'])
  assert found.for_peers() == {'min_new_tokens': 4}


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_peers_get_the_same_settings():
  target = markov('t', 0)._replace(generation_config=FILE)
  settings = config(generation_config='safe')
  _, found = defaults.take(settings, target, [[1]], ['transformers'])
  job = dict(max_new_tokens=4, temperature=0.0, pad_id=0, eos_ids=[])
  made = transformers_worker.generation_settings(
    job | {'start_id': 0, 'settings': found.for_peers()},
    types.SimpleNamespace(GenerationConfig=dict),
  )
  assert {name: list(np.ravel(made[name])) for name in SAFE} == {
    'repetition_penalty': [1.25],
    'suppress_tokens': [2, 3],
  }
  with pytest.raises(ValueError, match='ctranslate2 knows no repetition_pen'):
    defaults.take(settings, target, [[1]], ['ctranslate2'])


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_bad_words_of_a_file_may_differ_in_length():
  target = markov('t', 0)._replace(
    generation_config={'bad_words_ids': [[2], [3, 5]]}
  )
  settings = config(generation_config='safe')
  _, found = defaults.take(settings, target, [[1]], ['transformers'])
  assert found.fields == {'bad_words': ((2,), (3, 5))}
  assert json.loads(found.text()) == {'bad_words_ids': [[2], [3, 5]]}


@pytest.mark.parametrize('of_plan', [False, True])
def test_options_that_no_drafter_can_obey_are_refused(models, of_plan):
  def measure(*drafters, **changes):
    given = request(config(**SHORT | changes), *drafters)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      (plan.plan if of_plan else runner.run)(given, lambda text: None)
    return [str(one.message) for one in caught]

  trees = {'suffix': {'tree': 3}}
  with pytest.raises(ValueError, match=r'suffix.tree=3 asks for trees, but'):
    measure('shape:draft', drafters=trees)
  decay = {'token_recycling': {'decay': 0.5}}
  with pytest.raises(ValueError, match=r'decay=0.5 changes nothing without'):
    measure('token_recycling', drafters=decay)
  (told,) = measure('prompt_lookup', drafters=decay)
  assert told == (
    'drafters.token_recycling changes nothing: the drafter in use is '
    'prompt_lookup.'
  )
