"""Counts of rounds, and the drafter of a chosen acceptance rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax.decoding import generate as generate_lib
from specjax.decoding import stats
from specjax.decoding.drafters.simulated import Script
from specjax.decoding.drafters.simulated import simulated
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import loops
from tests.helpers import recipes


def test_simulated_acceptance_is_what_was_asked_for():
  target = fakes.markov_lm(loops.VOCAB)
  params = fakes.markov_params(0, loops.VOCAB)
  batch, new = 64, 40
  prompt = loops.prompt(batch)
  settings, controls = loops.controls(batch, eos=(), new=new)
  plain = loops.decode(target, params, prompt, controls, settings, new=new)
  continuation = np.array(loops.new_tokens(plain))
  recipe = recipes.recipe(target, 'prompt_lookup', num_draft=4)
  recipe = recipe._replace(
    drafter=simulated(num_draft=4, vocab_size=loops.VOCAB)
  )
  script = Script(jnp.asarray(continuation), jnp.float32(0.8))
  got = jax.device_get(
    assemble.compiled(recipe, new)(
      generate_lib.Params(params, script), prompt, controls
    )
  )
  assert loops.new_tokens(got) == continuation.tolist()
  total = stats.add(
    [
      stats.count_row(d, a, e, n, 4)
      for d, a, e, n in zip(
        got.rounds.drafted,
        got.rounds.accepted,
        got.rounds.emitted,
        got.num_tokens,
        strict=True,
      )
    ]
  )
  error = (0.8 * 0.2 / total.num_tested) ** 0.5
  assert abs(total.acceptance_rate - 0.8) < 4 * error
  assert total.num_tokens == batch * new


def test_counts_after_a_cut():
  drafted, accepted = np.array([3, 3, 3, 0]), np.array([2, 3, 0, 0])
  emitted = np.array([3, 4, 1, 0])
  whole = stats.count_row(drafted, accepted, emitted, 8, 3)
  assert whole.num_target_calls == 3 and whole.num_drafted == 9
  assert whole.num_accepted == 5 and whole.num_tested == 7
  assert whole.accepted_by_position == (2, 2, 1)
  assert whole.tested_by_position == (3, 2, 2)
  assert whole.accepted_histogram == (1, 0, 1, 1)
  assert whole.mean_acceptance_length == pytest.approx(1 + 5 / 3)
  cut = stats.count_row(drafted, accepted, emitted, 5, 3)
  assert cut.num_target_calls == 2 and cut.num_drafted == 6
  assert cut.num_accepted == 4 and cut.num_tested == 5
  assert cut.block_efficiency == 2.5
  assert stats.add([whole, cut]).num_tokens == 13
  assert stats.add([]).acceptance_rate is None


def test_acceptance_ends_at_a_loops_second_period():
  # [1 2 3 | 2 3 2 3 | 2 3 2 3]: a loop of period 2 from the second token on,
  # whose second period begins at the fourth.
  tokens = [1, *[2, 3] * 5]
  drafted, accepted = np.array([4, 3, 3]), np.array([2, 3, 3])
  emitted = np.array([3, 4, 4])
  row = stats.count_row(drafted, accepted, emitted, 11, 4, tokens=tokens)
  assert row.num_tokens == 11 and row.num_loop_tokens == 10
  assert row.acceptance_rate == 2 / 3
  assert row.acceptance_rate_with_loops == 8 / 9
  assert row.acceptance_by_position == [1, 1, 0, None]
  assert row.loop_share == 10 / 11
  exempt = stats.count_row(
    drafted, accepted, emitted, 11, 4, tokens=tokens, exempt=True
  )
  assert exempt.acceptance_rate == 8 / 9 and exempt.loop_share == 10 / 11
  # A row without a loop adds all its rounds.
  other = stats.count_row(drafted, accepted, emitted, 11, 4, tokens=range(11))
  total = row + other
  assert other.unlooped is None and total.loop_share == 10 / 22
  assert total.acceptance_rate == (2 + 8) / (3 + 9)
  assert total.acceptance_rate_with_loops == 16 / 18
  assert sum([total, other]).acceptance_rate == (2 + 8 + 8) / (3 + 9 + 9)
