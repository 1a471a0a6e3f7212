"""Answers that repeat themselves count in no speed and no acceptance."""

import dataclasses

import pytest

from specjax.benchmark import prompts
from specjax.benchmark import runner
from specjax.benchmark import schema
from specjax.benchmark import table
from specjax.commands import comparison
from specjax.inference import planning
from specjax.inference import sources
from specjax.inference import summary
from tests.helpers import chains
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import request

# By hand, with K = 3. Drafts of the sound prompts are 1 2 0, 2 1 and 3 0 2, of
# which 2, 1 and 1 tokens are accepted and one each is refused. Looping answers
# count up to the first repeated token: one each, for which 5 and 6 are drafted.
ACCEPTED, TESTED = 2 + 1 + 1 + 1, 3 + 2 + 2 + 1 + 1


@pytest.fixture
def rows(monkeypatch):
  def run(given, *drafters, name='chain', **settings):
    made = [prompts.EncodedPrompt(tokens) for tokens in given]
    monkeypatch.setattr(prompts, 'collect', lambda *_, **__: made)
    target = chains.model(name)
    monkeypatch.setattr(sources, 'load_target', lambda *_, **__: target)
    settings = config(num_prompts=0, **settings)
    return runner.run(request(settings, *drafters)).rows

  return run


@pytest.mark.parametrize('batch, refill', [(1, False), (2, False), (2, True)])
def test_looping_prompts_are_decoded_and_not_timed(rows, batch, refill):
  first, second = chains.LOOPING
  given = (first, *chains.SOUND, second)
  settings = dict(batch_size=(batch,), refill=refill)
  plain, lookup = rows(given, 'prompt_lookup', **settings)
  for row in (plain, lookup):
    assert row['num_prompts'] == 5 and row['timed_prompts'] == 3
    # At batch 2 the first of the three fills the last batch.
    filled = batch == 2 and not refill
    assert row['num_tokens'] == 4 + 3 + 2 + 4 * filled
    assert row['loop_share'] == 40 / 49 and row['timing_note'] == ''
  assert lookup['check'] == 'ok'
  assert lookup['acceptance_rate'] == ACCEPTED / TESTED
  assert lookup['acceptance_rate_with_loops'] > 0.85
  assert schema.flat(lookup)['loop_share'] == lookup['loop_share']
  assert 'with loops' not in table.text([plain, lookup])


def test_too_few_prompts_are_all_timed_and_marked(rows):
  given = (*chains.SOUND[:2], *chains.LOOPING)
  plain, lookup = rows(given, 'prompt_lookup')
  assert plain['timed_prompts'] == 4 and plain['num_tokens'] == 4 + 3 + 40
  assert plain['timing_note'] == lookup['timing_note'] == 'with loops'
  assert lookup['acceptance_rate'] < lookup['acceptance_rate_with_loops']
  assert 'with loops' in table.text([plain, lookup])


@pytest.mark.parametrize(
  'drafter, settings',
  [
    ('simulated:1.0', {}),
    ('prompt_lookup', {'name': 'shape:chain'}),
    ('prompt_lookup', {'ignore_eos': True}),
  ],
)
def test_exempt_runs_time_and_count_everything(rows, drafter, settings):
  plain, row = rows((*chains.SOUND, *chains.LOOPING), drafter, **settings)
  assert plain['timed_prompts'] == 5 and plain['timing_note'] == ''
  assert row['acceptance_rate'] == row['acceptance_rate_with_loops'] > 0.8
  assert row['loop_share'] >= 40 / 49


@pytest.mark.parametrize('skip', [0, 1])
def test_decoding_by_turns_times_the_sound_answers(skip):
  """Also in a run that is resumed inside of a batch."""

  def plan(drafter=None):
    job = planning.plan(
      chains.model(),
      [chains.SOUND[0], *chains.LOOPING, *chains.SOUND][1 - skip :],
      drafter=drafter,
      max_new_tokens=20,
      num_draft=3,
      batch_size=2,
      skip=skip,
    )
    return dataclasses.replace(job, refill=None)

  job = plan('prompt_lookup')
  assert job.rows.begin == skip
  turns = comparison.by_turns(plan(), job, lambda times: times == 2)
  answers = [list(answer.tokens) for answer in turns.plain]
  assert answers == [[5] * 20, [5] * 20, *chains.ANSWERS]
  assert turns.tokens == (9, 9) and turns.timed == 3
  assert turns.left_out == ' (3 answers; 2 more end in a loop)'
  found = summary.summarize(turns.answers)
  assert found['loop_share'] == 40 / 49
  assert found['acceptance_rate'] == ACCEPTED / TESTED
  assert found['acceptance_rate_with_loops'] > 0.85
