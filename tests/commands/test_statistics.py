"""Totals of a run and the reason of its speed."""

import types

import pytest

from specjax.benchmark import break_even
from specjax.benchmark import parts as parts_lib
from specjax.benchmark import rows as rows_lib
from specjax.commands import statistics as run_statistics
from specjax.decoding import stats
from specjax.inference import generate as inference


def answer(**counts):
  return inference.Answer('', '', (), 'eos', stats.Counts(**counts), 0)


def test_numbers_add_up_and_empty_ratios_are_none():
  found = run_statistics.numbers(
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
  assert parts['predicted_factor'] == pytest.approx(expected)
  assert (parts['best_num_draft'] > 0) == (words == 'a gain')


def test_a_draft_in_one_pass_is_paid_once():
  found = {'acceptance_rate': 0.9, 'block_efficiency': 3.4}
  times = run_statistics.StepTimes(target=1.0, block=1.5, drafter=0.2)
  steps, _ = run_statistics.explain(found, times, 4)
  once, text = run_statistics.explain(found, times, 4, one_pass=True)
  assert steps['predicted_factor'] == once['predicted_factor']
  assert 'A draft costs 0.80 of a target step in one pass' in text
  # Another token costs an autoregressive drafter a step, this one nothing.
  assert once['best_num_draft'] == 4
  assert once['best_predicted_factor'] == pytest.approx(4.0951 / 2.3)
  # What trees accept says nothing of chains.
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


def test_chains_in_one_pass_are_compared_with_chains():
  setting = dict(
    num_draft=4, temperature=0.0, batch_size=1, verifier='greedy',
    dtype='float32', quantize='none', verify_ms=2.0,
  )  # fmt: skip

  def row(drafter, passes, draft_ms, tokens, speed, tree=''):
    return setting | dict(
      drafter=drafter, passes=passes, draft_ms=draft_ms, tree=tree,
      block_efficiency=tokens, decode_speedup=speed,
    )  # fmt: skip

  rows = [
    setting | dict(drafter='none', tree='', decode_speedup=1.0),
    row('masks', 1, 1.0, 1.8, 1.2),
    row('masks', 1, 1.0, 2.2, 1.1, 'grown:16'),
    row('steps', 4, 4.0, 2.0, 0.8),
    row('steps', 4, 5.0, 2.4, 0.9, 'grown:16'),
  ]
  (pair,) = break_even.pairs(rows)
  assert (pair['parallel'], pair['sequential']) == ('masks', 'steps')
  assert pair['needed'] == 0.5 and pair['found'] == pytest.approx(0.9)
  assert pair['predicted'] == pytest.approx(1.8)
  assert pair['measured'] == pytest.approx(1.5)


def test_a_block_timed_below_a_step_still_gets_advice():
  """Noise must not end a run; beyond it no block is taken to be cheaper."""
  case = types.SimpleNamespace(
    num_draft=1, drafts=False, source=types.SimpleNamespace(model=None)
  )
  parts = parts_lib.Parts(1.0, 0.9, 0.1, {1: 1.0, 2: 0.9}, 0.1)
  found = rows_lib._advice(case, 0.5, parts, 40)
  assert 0 < found['best_num_draft'] <= 40
  assert 1 < found['best_predicted'] < 2
