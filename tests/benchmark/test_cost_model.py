"""One model of the speed-up, and what follows from it."""

import types

import pytest

from specjax import theory
from specjax.benchmark import break_even
from specjax.benchmark import cost_model
from specjax.benchmark import parts as parts_lib
from specjax.benchmark import plan
from specjax.benchmark import rows as rows_lib
from specjax.benchmark.cost_model import Acceptance
from specjax.inference import sources
from specjax.models import SpecDrafterConfig
from tests.helpers import recipes


def test_costs_lie_on_the_line_between_and_beyond_what_was_timed():
  costs = cost_model.in_steps(2.0, {2: 3.0, 5: 6.0}, {0: 0.0, 4: 2.0})
  assert costs.block(0) == 1.0 and costs.block(1) == 1.5
  assert costs.block(2.5) == pytest.approx(2.25)
  # Beyond: from a token at 1 step through five at 3.
  assert costs.block(8) == pytest.approx(5.0)
  assert costs.draft(1) == 0.25 and costs.draft(8) == pytest.approx(2.0)
  free = costs._replace(drafts={})
  assert free.draft(4) == 0.0


def test_more_tokens_are_never_cheaper():
  """A timing below a narrower block's is noise."""
  costs = cost_model.in_steps(1.0, {2: 0.7, 3: 1.4, 4: 1.2}, {1: 0.3, 4: 0.2})
  assert [costs.block(k) for k in range(5)] == [1, 1, 1.4, 1.4, 1.4 + 0.4 / 3]
  assert costs.draft(4) == costs.draft(9) == 0.3


@pytest.mark.parametrize('one_pass', [False, True])
@pytest.mark.parametrize('alpha, time', [(0.9, 0.2), (0.6, 0.1), (0.3, 0.9)])
def test_the_model_is_theorem_3_8_with_real_blocks(alpha, time, one_pass):
  drafts = cost_model.draft_times(time, 4, one_pass)
  costs = cost_model.in_steps(1.0, {3: 1.3, 5: 1.8}, drafts)
  best, gain = cost_model.best(costs, Acceptance([alpha]), 9, or_plain=True)
  wanted = theory.best_gamma(
    alpha, time if one_pass else time / 4, 9, costs.block, one_pass=one_pass
  )
  assert best == wanted.gamma
  assert gain.speedup == pytest.approx(wanted.factor)


def test_rates_by_slot_and_rounds_without_a_draft():
  accepted = Acceptance((0.8, 0.5), share=0.5)
  assert accepted.tokens(1) == pytest.approx(1 + 0.5 * 0.8)
  # Slots behind the last have its rate.
  drafted = 0.8 + 0.8 * 0.5 + 0.8 * 0.5 * 0.5
  assert accepted.tokens(3) == pytest.approx(1 + 0.5 * drafted)
  assert accepted.share_of_blocks(3) == 1.0
  assert accepted._replace(is_adaptive=True).share_of_blocks(3) == 1 - 0.5**3


def test_plan_advises():
  rates = {
    ('good', 'greedy'): Acceptance([0.8] * 4),
    ('poor', 'greedy'): Acceptance([0.1] * 4),
  }

  def costs(blocks):
    made = cost_model.in_steps(10.0, dict(enumerate(blocks, 1)), {})
    return {'good': made, 'poor': made}

  cheap = costs([10.0] * 5)
  best, worst = plan.choices(rates, cheap, 1)
  assert best.drafter == 'good' and best.num_draft == 4
  assert best.round.speedup == pytest.approx(theory.expected_tokens(0.8, 4))
  assert worst.round.speedup < best.round.speedup
  assert '--config.num_draft=4' in plan.advise(rates, cheap, 10.0, 1)[-1]
  dear = costs([10.0, 20.0, 30.0, 40.0, 50.0])
  assert 'will not help at batch 8' in plan.advise(rates, dear, 10.0, 8)[-1]


def test_a_plan_keeps_to_what_drafters_were_made_for():
  told = []
  subject = recipes.network(SpecDrafterConfig(9, 16, 8, 16, 1, 1, 2, block=6))
  other = sources.resolve('suffix')
  assert plan._longest([other, subject], 8, told.append) == 6
  assert len(told) == 1 and 'max_draft is 8' in told[0]
  assert plan._longest([other, subject], 4, told.append) == 4
  assert plan._longest([other], 8, told.append) == 8 and len(told) == 1


def test_a_plan_counts_rounds_without_a_draft():
  """They cost a plain step where only drafts are verified as blocks."""
  costs = {'found': cost_model.in_steps(1.0, {2: 3.0}, {1: 0.0})}
  always = Acceptance([0.5], share=0.2)
  (dear,) = plan.choices({('found', 'greedy'): always}, costs, 1)
  assert dear.round.speedup == pytest.approx(1.1 / 3)
  rates = {('found', 'greedy'): always._replace(is_adaptive=True)}
  (cheap,) = plan.choices(rates, costs, 1)
  assert cheap.round.speedup == pytest.approx(1.1 / 1.4)
  # In a batch of two a round drafts where one of its rows does.
  (both,) = plan.choices(rates, costs, 2)
  assert both.round.speedup == pytest.approx(1.1 / (1 + 2 * 0.36))


def test_chains_in_one_pass_are_compared_with_chains():
  setting = dict(num_draft=4, temperature=0.0, batch_size=1, block_ms=2.0)
  setting |= dict(verifier='greedy', dtype='float32', quantize='none')

  def row(drafter, passes, draft_ms, tokens, speed, tree=''):
    made = dict(drafter=drafter, passes=passes, draft_ms=draft_ms, tree=tree)
    return setting | made | dict(block_efficiency=tokens, decode_speedup=speed)

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
  case = types.SimpleNamespace(num_draft=1, passes=None, batch_size=1)
  parts = parts_lib.Parts(1.0, 0.9, 0.1, {1: 1.0, 2: 0.9}, 0.1)
  found = rows_lib.advice(case, cost_model.Acceptance((0.5,)), parts, 40)
  assert 0 < found['best_num_draft'] <= 40
  assert 1 < found['best_predicted_speedup'] < 2
