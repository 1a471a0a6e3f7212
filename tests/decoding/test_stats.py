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
