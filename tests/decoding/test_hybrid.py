"""The hybrid: exact under every rule, and its model's cache stays right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.hybrid_loop import hybrid_drafter
from specjax.decoding.drafters.hybrid_loop import HybridParams
from specjax.decoding.drafters.hybrid_loop import HybridSpec
from specjax.decoding.drafters.suffix_search import SuffixSpec
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import recipes

VOCAB = 11
NEW = 40


def _params(model, index=None, cost=0.5):
  search = recipes.suffix_params(index, 0.25)
  return HybridParams(model, search, jnp.float32(cost), jnp.float32(0.25))


def _hybrid(lm, spec, settings, rule):
  verifier = recipes.rule(rule)
  warp = settings.warp_spec()
  style = drawing.style_for(verifier, warp)
  made = hybrid_drafter(lm, spec, style, lm.is_encoder_decoder)
  return made, verifier


@pytest.mark.parametrize(
  ('rule', 'temperature', 'encoder_decoder', 'with_corpus'),
  [('greedy', 0.0, True, True), ('coupled', 0.7, False, False)],
)
def test_output_is_that_of_plain_decoding(
  rule, temperature, encoder_decoder, with_corpus
):
  target = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  good = fakes.markov_params(0, VOCAB)
  poor = jax.tree.map(
    lambda x, y: x + 0.5 * y, good, fakes.markov_params(5, VOCAB)
  )
  settings = Sampling(temperature=temperature)
  controls = settings.controls(row_keys(0, range(5)), NEW, (3,))
  prompt, warp = fakes.prompts(5, VOCAB), settings.warp_spec()
  plain = assemble.compiled(recipes.recipe(target, warp=warp), NEW)
  want = plain(generate_lib.Params(good), prompt, controls)
  index = None
  if with_corpus:
    kept = [np.asarray(row) for row in want.tokens[:3]]
    index = corpus_lib.index(corpus_lib.add(corpus_lib.empty(400, 'x'), kept))
  recipe = recipes.recipe(
    target,
    recipes.hybrid(target),
    num_draft=6,
    verify=rule,
    warp=warp,
    drafters={'hybrid': {'model_draft': 3}},
  )
  assert recipe.widths == (0, 3, 6)
  params = generate_lib.Params(good, _params(poor, index))
  got = assemble.compiled(recipe, NEW)(params, prompt, controls)
  width = want.tokens.shape[1]  # nothing but padding behind
  np.testing.assert_array_equal(got.tokens[:, :width], want.tokens)
  assert got.num_rounds < want.num_rounds


def test_model_drafts_as_if_it_had_always_run():
  """With itself as drafter a model's drafts are all accepted, whatever holes
  the suffix rounds before left in its cache."""
  lm = fakes.markov_lm(VOCAB)
  good = fakes.markov_params(0, VOCAB)
  settings = Sampling(temperature=1.0)
  spec = HybridSpec(SuffixSpec(num_draft=5), num_draft=2, prior=0.2, memory=0.0)
  made, verifier = _hybrid(lm, spec, settings, 'coupled')
  recipe = recipes.of(lm, made, verifier, settings.warp_spec())
  params = generate_lib.Params(good, HybridParams(good))
  controls = settings.controls(row_keys(3, range(6)), 60)
  state = jax.jit(
    functools.partial(generate_lib.start, recipe, max_new_tokens=60)
  )(params, fakes.prompts(6, VOCAB), controls)
  step = jax.jit(functools.partial(generate_lib.run, recipe, max_rounds=1))
  both = np.zeros(2, int)
  for index in range(40):
    state = step(params, state)
    live = np.asarray(state.rounds.emitted[:, index]) > 0
    left = np.asarray(state.status) == generate_lib.RUNNING
    accepted = np.asarray(state.rounds.accepted[:, index])
    drafted = np.asarray(state.rounds.drafted[:, index]) > 0
    asked = np.asarray(state.drafter.idle) == 0
    by_model, by_suffix = asked & live & left, drafted & ~asked & live & left
    both += by_model.sum(), by_suffix.sum()
    assert (accepted[by_model] == 2).all()
    # Expecting little again lets the search take over, and leave holes.
    low = jnp.where(index % 3 == 0, 2.0, 0.1)
    state = state.replace(
      drafter=state.drafter.replace(
        expected=jnp.full_like(state.drafter.expected, low)
      )
    )
  assert both.min() > 10


def test_ratio_rules_get_honest_distributions():
  lm = fakes.markov_lm(VOCAB)
  good = fakes.markov_params(0, VOCAB)
  settings = Sampling(temperature=0.9)
  spec = HybridSpec(SuffixSpec(num_draft=5), num_draft=3, prior=0.5)
  made, _ = _hybrid(lm, spec, settings, 'sampling')
  rows = np.zeros((2, 20), np.int32)
  rows[0, :9] = [1, 2, 3, 4, 5, 1, 2, 3, 4]
  rows[1, :9] = [1, 2, 3, 4, 5, 6, 7, 8, 9]
  prompt = base.Prompt(jnp.asarray(rows), jnp.asarray([9, 9]))
  controls = settings.controls(row_keys(0, range(2)), 8)
  context = base.Context(prompt.tokens, prompt.length, prompt.length, controls)
  params = HybridParams(good)
  state = made.init(
    params, prompt, lm.prefill(good, prompt, capacity=30), capacity=30
  )
  view = base.View(context, context.tokens[:, 8], None, jnp.ones(2, bool))
  draft, state = jax.jit(made.propose)(params, state, view)
  assert state.by_suffix.tolist() == [True, False]
  assert state.by_model.tolist() == [False, True]
  assert draft.tokens[0].tolist() == [5, 1, 2, 3, base.EMPTY]
  assert (draft.tokens[1, 3:] == base.EMPTY).all()
  p = np.exp(np.asarray(draft.log_probs))
  np.testing.assert_array_equal(p[0, :4], np.eye(VOCAB)[[5, 1, 2, 3]])
  assert not p[0, 4].any() and not p[1, 3:].any()
  np.testing.assert_allclose(p[1, :3].sum(-1), 1, rtol=1e-5)
  assert ((p[1, :3] > 0) & (p[1, :3] < 1)).all()


def test_a_drafter_that_never_pays_is_seldom_asked():
  lm = fakes.markov_lm(VOCAB)
  good, bad = fakes.markov_params(0, VOCAB), fakes.markov_params(9, VOCAB)
  settings = Sampling(temperature=1.0)
  spec = HybridSpec(SuffixSpec(num_draft=3), num_draft=3, probe=4)
  made, verifier = _hybrid(lm, spec, settings, 'coupled')
  recipe = recipes.of(lm, made, verifier, settings.warp_spec(), (0, 3))
  seldom = recipes.suffix_params(least=9.0)
  params = generate_lib.Params(good, HybridParams(bad, seldom, 1.5))
  controls = settings.controls(row_keys(3, range(2)), 120)
  got = assemble.compiled(recipe, 120)(
    params, fakes.prompts(2, VOCAB), controls
  )
  asked = np.asarray(got.rounds.drafted) > 0
  assert asked[:, 0].all() and asked.sum(1).max() < 20
  # Each pause between two probes is four times the one before.
  places = np.flatnonzero(asked[0])[-3:]
  assert places[2] - places[1] > 3.5 * (places[1] - places[0])


def test_a_model_that_cannot_pay_does_not_run():
  lm = fakes.markov_lm(VOCAB)
  good = fakes.markov_params(0, VOCAB)
  settings = Sampling(temperature=0.5)
  controls = settings.controls(row_keys(3, range(3)), 30)
  broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), good)
  rounds = []
  for drafter, params in (
    # Parameters that are no numbers: drafts made of them would be others.
    (recipes.hybrid(lm), _params(broken, cost=4.0)),
    ('suffix', recipes.suffix_params(None, 0.25)),
  ):
    recipe = recipes.recipe(
      lm,
      drafter,
      num_draft=6,
      verify='coupled',
      warp=settings.warp_spec(),
      drafters={'hybrid': {'model_draft': 2}},
    )
    assert recipe.widths == (0, 2, 6)
    got = assemble.compiled(recipe, 30)(
      generate_lib.Params(good, params), fakes.prompts(3, VOCAB), controls
    )
    rounds.append(got.rounds)
  jax.tree.map(np.testing.assert_array_equal, *rounds)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(num_draft=9), 'num_draft'),
    (dict(memory=1.0), 'memory'),
    (dict(probe=0), 'probe'),
    (dict(suffix=SuffixSpec(max_path=2)), 'max_path'),
  ],
)
def test_bad_settings_are_named(settings, message):
  with pytest.raises(ValueError, match=message):
    HybridSpec(**settings).validate()
