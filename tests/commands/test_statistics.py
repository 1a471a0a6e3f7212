"""Totals of a run and the reason of its speed."""

import json

import jax
import pytest

import specjax
from specjax.benchmark import rows
from specjax.checkpoints import digests
from specjax.commands import answer_files
from specjax.commands import statistics as run_statistics
from specjax.decoding import stats
from specjax.inference import generate as inference
from specjax.inference import summary
from tests.helpers import tiny


def answer(**counts):
  return inference.Answer('', '', (), 'eos', stats.Counts(**counts), 0)


def test_numbers_add_up_and_empty_ratios_are_none():
  found = summary.summarize(
    [
      answer(num_tokens=6, num_target_calls=2, num_accepted=4, num_tested=5),
      answer(num_tokens=2, num_target_calls=2, num_accepted=0, num_tested=2),
    ],
    seconds=4.0,
    compile_seconds=1.0,
  )
  assert found['tokens_per_second'] == 2.0
  assert found['block_efficiency'] == 2.0
  assert found['acceptance_rate'] == 4 / 7
  assert found['draft_acceptance_rate'] is None
  assert 'block efficiency  2.000' in run_statistics.table(found)


def test_what_decides_a_text_is_named(tmp_path):
  folder = tiny.save(tmp_path / 'one')
  tokenizer = tiny.tokenizer()
  found = run_statistics.environment(digests.of_owners(folder, tokenizer))
  assert found['device'].startswith(jax.default_backend())
  assert found['kernel'] == 'xla' and found['processor']
  assert set(found['versions']) == {
    'specjax',
    'jax',
    'jaxlib',
    'numpy',
    'python',
  }
  assert found['versions']['specjax'] == specjax.__version__
  assert json.loads(json.dumps(found)) is not None
  own = found['digests']
  assert own['target'] and own['tokenizer']
  assert own['chat_template'] == ''
  # Other weights, another tokenizer and a template show.
  other = tiny.save(tmp_path / 'two', seed=1)
  swapped = tiny.tokenizer(swap=('cat', 'dog'))
  swapped.chat_template = 'x'
  changed = digests.of_owners(other, swapped)
  assert all(changed[name] != own[name] for name in own)
  assert digests.of_owners('shape:x', None)['target']


def test_all_files_write_the_same_counts():
  counts = stats.Counts(5, 2, 2, 6, 3, 4, (2, 2, 0), (2, 1, 0), (0, 1, 1, 0))
  written = counts.as_dict()
  assert written['acceptance_by_position'] == [1.0, 0.5, None]
  assert written['accepted_histogram'] == [0, 1, 1, 0]
  one = inference.Answer('', '', (), 'eos', counts, 0)
  lists = {'acceptance_by_position', 'accepted_histogram'}
  record = answer_files.record(one)
  assert {k: record[k] for k in written.keys() - lists} == counts.as_dict(
    by_position=False
  )
  assert not lists & record.keys()
  found = summary.summarize([one], 1.0, 0.0)
  assert {k: found[k] for k in written} == written
  assert rows.drafting(counts) == written


@pytest.mark.parametrize(
  'times, words',
  [
    (run_statistics.StepTimes(1.0, 1.0, 0.1), 'a gain'),
    (run_statistics.StepTimes(1.0, 1.0, 1.0), 'drafter is too expensive'),
    (run_statistics.StepTimes(1.0, 4.0, 0.01), 'wider block'),
  ],
)
def test_the_reason_follows_the_costs(times, words):
  found = {'acceptance_rate': 0.6, 'block_efficiency': 2.4}
  parts, sentences = run_statistics.explain(found, times, num_draft=4)
  assert words in sentences
  expected = 2.4 / (times.block + 4 * times.drafter)
  assert parts['predicted_speedup'] == pytest.approx(expected)
  assert (parts['best_num_draft'] > 0) == (words == 'a gain')


@pytest.mark.parametrize(
  'drafter, measured, words',
  [
    (0.1, 1.3, 'a gain.'),
    (1.0, 1.3, 'Measured, it is a gain (1.30): timed alone, the parts of a'),
    (1.0, 0.7, 'That is a loss: the drafter is too expensive'),
    (0.1, 0.7, 'Measured, it is a loss (0.70): timed alone, the parts of a'),
  ],
)
def test_what_was_measured_decides_what_is_a_gain(drafter, measured, words):
  found = {'acceptance_rate': 0.6, 'block_efficiency': 2.4}
  times = run_statistics.StepTimes(1.0, 1.0, drafter)
  parts, told = run_statistics.explain(found, times, 4, measured=measured)
  assert words in told
  assert ('loss' in told) == (measured < 1)
  assert ('no num_draft gains' in told) <= (measured < 1)
  assert parts['best_num_draft'] > 0 or measured < 1


def test_a_draft_in_one_pass_is_paid_once():
  found = {'acceptance_rate': 0.9, 'block_efficiency': 3.4}
  times = run_statistics.StepTimes(target=1.0, block=1.5, drafter=0.2)
  steps, _ = run_statistics.explain(found, times, 4)
  once, text = run_statistics.explain(found, times, 4, one_pass=True)
  assert steps['predicted_speedup'] == once['predicted_speedup']
  assert 'A draft costs 0.80 of a target step in one pass' in text
  # Another token costs an autoregressive drafter a step, this one nothing.
  assert once['best_num_draft'] == 4
  assert once['best_predicted_speedup'] == pytest.approx(4.0951 / 2.3)
  # Accepted trees are no measure for chains.
  tree, text = run_statistics.explain(found, times, 4, tree=True)
  assert tree == {k: v for k, v in steps.items() if not k.startswith('best')}
  assert text.startswith('A draft costs 0.80 of a target step and a block of 5')
  assert 'num_draft' not in text


def test_without_drafts_there_is_nothing_to_explain():
  found = {'acceptance_rate': None, 'block_efficiency': 1.0}
  parts, sentences = run_statistics.explain(
    found, run_statistics.StepTimes(1, 1, 0), 4
  )
  assert parts == {} and 'Nothing was drafted' in sentences
