"""Spec-Drafters in the loop: exact whatever their weights, and honest about q.

The invariants are numbered as in the specification: (1) identity at beta = 1,
(2) rounds, (3) the oracle, (5) every relaxed token satisfies the rule when the
target scores the final output alone, (6) cached equals recomputed at every
forced bifurcation.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.simulated import Script
from specjax.decoding.drafters.simulated import simulated
from specjax.decoding.drafters.slots import SlotSpec
from specjax.decoding.drafters.spec_drafter import spec_drafter
from specjax.decoding.drafters.vocabulary import Known
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import laws
from tests.helpers import loops
from tests.helpers import recipes

VOCAB, EOS, NEW = 11, 1, 24
TARGET = models.T5Config(
  *(VOCAB, 16, 8, 32, 1, 1, 2),
  tie_word_embeddings=False,
  scale_decoder_outputs=False,
)
CONFIG = models.SpecDrafterConfig(
  *(VOCAB, 16, 8, 32, 1, 2, 2),
  block=25,
  window=6,
  max_positions=40,
  max_source_positions=16,
)


@functools.cache
def params_of(config, seed, scale=3.0):
  params = models.init_params(config, jax.random.key(seed))
  return jax.tree.map(
    lambda x: np.asarray(x) * np.float32(scale if x.ndim > 1 else 1), params
  )


def prompts(rows, width=9):
  rng = np.random.default_rng(3)
  tokens = rng.integers(2, VOCAB, (8, width)).astype(np.int32)
  length = rng.integers(1, width + 1, 8).astype(np.int32)
  return base.Prompt(jnp.asarray(tokens[rows]), jnp.asarray(length[rows]))


def decode(drafter, prompt, num_draft, settings=Sampling(), **kwargs):
  """A `Generation` of numpy arrays."""
  draft_params = kwargs.pop('draft_params', None)
  method = recipes.assembled(
    kwargs.pop('lm', models.make_lm(TARGET)),
    drafter,
    num_draft=num_draft,
    warp=settings.warp_spec(),
    config=TARGET,
    **kwargs,
  )
  rows = prompt.tokens.shape[0]
  controls = settings.controls(
    row_keys(0, range(rows)), NEW, (EOS,), method.dials()
  )
  params = generate_lib.Params(params_of(TARGET, 11), draft_params)
  made = assemble.compiled(method.recipe, NEW)(params, prompt, controls)
  return jax.device_get(made)


@functools.cache
def plainly():
  """Plain tokens of all eight prompts."""
  made = decode(None, prompts(list(range(8))), 0)
  rows = loops.new_tokens(made)
  assert len(set(map(tuple, rows))) > 4 and max(map(len, rows)) == NEW
  return rows


@pytest.mark.parametrize(
  'num_draft, rows, width',
  [(1, [0, 1, 2], 9), (2, [5], 9), (5, [7, 3, 0, 4, 2], 9), (25, [6, 1], 13)],
)
def test_any_weights_any_batch_the_same_tokens(num_draft, rows, width):
  prompt = prompts(rows)
  wider = jnp.pad(prompt.tokens, ((0, 0), (0, width - 9)), constant_values=7)
  made = decode(
    recipes.network(CONFIG),
    prompt.replace(tokens=wider),
    num_draft,
    draft_params=params_of(CONFIG, 1),
  )
  want = [plainly()[i] for i in rows]
  assert loops.new_tokens(made) == want
  drafted, emitted = made.rounds.drafted, made.rounds.emitted
  live = emitted > 0
  assert (emitted[live] <= num_draft + 1).all()
  assert (live.sum(1) <= [len(w) for w in want]).all()
  # Slots without a position of their own propose nothing.
  before = np.cumsum(emitted, 1) - emitted
  room = np.minimum(num_draft, CONFIG.max_positions - before)
  np.testing.assert_array_equal(drafted[live], room[live])
  if num_draft < 25:
    assert 0 < made.rounds.accepted.sum() < drafted.sum()


def test_a_network_that_knows_fewer_tokens_drafts_those():
  rows = [7, 3, 0, 4, 2]
  known = VOCAB - 2
  with pytest.warns(UserWarning, match=f'from {known} on are never drafted'):
    made = decode(
      recipes.network(CONFIG, known),
      prompts(rows),
      5,
      draft_params=params_of(CONFIG, 1),
    )
  assert loops.new_tokens(made) == [plainly()[i] for i in rows]
  assert made.rounds.accepted.sum() > 0


def test_the_oracle_needs_as_few_rounds_as_can_be():
  rows = plainly()
  script = np.zeros((8, NEW), np.int32)
  for row, tokens in enumerate(rows):
    script[row, : len(tokens)] = tokens
  num_draft = 4
  recipe = recipes.recipe(models.make_lm(TARGET), 'suffix', num_draft=num_draft)
  oracle = simulated(num_draft=num_draft, vocab_size=VOCAB)
  recipe = recipe._replace(drafter=oracle, widths=())
  controls = Sampling().controls(row_keys(0, range(8)), NEW, (EOS,))
  params = generate_lib.Params(
    params_of(TARGET, 11), Script(jnp.asarray(script), jnp.float32(1.0))
  )
  made = jax.device_get(
    assemble.compiled(recipe, NEW)(params, prompts(list(range(8))), controls)
  )
  assert loops.new_tokens(made) == rows
  # The end token is one of them: ceil((L + 1) / (k + 1)).
  assert (made.rounds.emitted > 0).sum(1).tolist() == [
    -(-len(row) // (num_draft + 1)) for row in rows
  ]


def test_relaxed_tokens_satisfy_the_rule_on_the_final_output():
  beta, tau = [1, 2, 3, 3, 5, 5, 11, 2], [9, 0.5, 1, 4, 0.3, 5, 2, 0.0]
  made = decode(
    recipes.network(CONFIG),
    prompts(list(range(8))),
    5,
    verify='top_candidates',
    verifiers={'top_candidates': {'beta': beta, 'tau': tau}},
    draft_params=params_of(CONFIG, 1),
  )
  rows, plain = loops.new_tokens(made), plainly()
  prompt = prompts(list(range(8)))
  width = max(map(len, rows))
  given = np.zeros((8, width), np.int32)
  for row, tokens in enumerate(rows):
    given[row, 1 : len(tokens)] = tokens[:-1]
  mask = np.arange(9) < np.asarray(prompt.length)[:, None]
  module = models.make_module(TARGET)
  logits = np.asarray(
    jax.jit(module.apply)(
      {'params': params_of(TARGET, 11)}, prompt.tokens, mask, given
    )
  )
  relaxed = 0
  for row, tokens in enumerate(rows):
    for at, token in enumerate(tokens):
      scores = logits[row, at]
      rank = 1 + int((scores > scores[token] + 1e-4).sum())
      assert rank <= beta[row]
      assert scores.max() - scores[token] <= tau[row] + 1e-4
      assert token != EOS or rank == 1
      relaxed += rank > 1
  assert relaxed > 5
  assert rows[0] == plain[0] and rows[7] == plain[7]
  assert rows != plain


def test_cached_equals_recomputed_at_every_bifurcation():
  """A block of four is cut behind c = 0..4 accepted tokens; twice."""
  lm, params = models.make_lm(TARGET), params_of(TARGET, 11)
  rng = np.random.default_rng(5)
  cuts, num_draft = 5, 4
  first, second = rng.integers(2, VOCAB, (2, cuts, num_draft)).astype(np.int32)
  kept = np.arange(cuts)
  corrections = rng.integers(2, VOCAB, cuts).astype(np.int32)
  prompt = prompts([0, 1, 2, 3, 4])

  @jax.jit
  def cached(prompt):
    prefilled = lm.prefill(params, prompt, capacity=16)
    block = jnp.concatenate([prefilled.last_token[:, None], first], 1)
    one, cache = lm.extend(params, prefilled.cache, block)
    cache = lm.commit(cache, jnp.asarray(kept + 1))
    block = jnp.concatenate([corrections[:, None], second], 1)
    two, _ = lm.extend(params, cache, block)
    return one.logits, two.logits

  @jax.jit
  def recomputed(prompt, given):
    mask = jnp.arange(9) < prompt.length[:, None]
    module = models.make_module(TARGET)
    return module.apply({'params': params}, prompt.tokens, mask, given)

  one, two = cached(prompt)
  whole = np.zeros((cuts, 1 + 2 * num_draft + 1), np.int32)
  for row in range(cuts):
    text = [0, *first[row, : kept[row]], corrections[row], *second[row]]
    whole[row, : len(text)] = text
  draft = np.concatenate([np.zeros((cuts, 1), np.int32), first], 1)
  want_one = recomputed(prompt, np.pad(draft, ((0, 0), (0, num_draft + 1))))
  np.testing.assert_allclose(one, want_one[:, : num_draft + 1], atol=1e-4)
  want_two = np.asarray(recomputed(prompt, whole))
  for row in range(cuts):
    at = kept[row] + 1
    np.testing.assert_allclose(
      two[row], want_two[row, at : at + num_draft + 1], atol=1e-4
    )


WARP = warp_lib.WarpSpec(sampled=True, top_k=True)


def law(verify, **changes):
  """p-value of the target's law for a random Spec-Drafter of four tokens."""
  warps = (
    dict(temperature=1.0),
    dict(temperature=0.6, top_k=2),
    dict(temperature=0.0),
  )
  config = dataclasses.replace(
    CONFIG,
    vocab_size=4,
    window=3,
    num_decoder_layers=1,
    eos_token_id=(0,),
    max_positions=6,
    **changes,
  )
  recipe = recipes.recipe(
    fakes.markov_lm(4, encoder_decoder=True),
    recipes.network(config, 4),
    num_draft=3,
    verify=verify,
    warp=WARP,
  )
  tables = (laws.TARGET, params_of(config, 2, 1.0))
  return laws.p_value(laws.program(recipe), True, tables=tables, warps=warps)


@pytest.mark.parametrize('verify', ['sampling', 'block', 'coupled'])
def test_law(verify):
  """Its softmax is an honest q: the loop has the target's law."""
  p_value = law(verify, source_copy=verify != 'block')
  assert p_value > laws.ALARM


def test_a_round_costs_the_same_whatever_the_buffer_holds():
  style = drawing.Style('argmax', False, Sampling().warp_spec())
  config = dataclasses.replace(CONFIG, max_positions=5000)
  drafter = spec_drafter(SlotSpec(config, Known(VOCAB, VOCAB)), 5, style)
  recipe = recipes.recipe(models.make_lm(TARGET))._replace(drafter=drafter)
  params = models.abstract_params(config)

  def flops(capacity):
    def start(target, params, prompt, controls):
      return generate_lib.start(
        recipe,
        generate_lib.Params(target, params),
        prompt,
        controls,
        max_new_tokens=8,
        capacity=capacity,
      )

    prompt = prompts([0])
    controls = Sampling().controls(row_keys(0, [0]), 8, (EOS,))
    state = jax.eval_shape(
      start, models.abstract_params(TARGET), params, prompt, controls
    )
    view = base.View(state.context, state.last_token, state.cache, None)
    lowered = jax.jit(drafter.propose).lower(params, state.drafter, view)
    return lowered.cost_analysis()['flops']

  small, large = flops(64), flops(4096)
  assert small > 1e4 and large < 1.05 * small


def test_heads_on_the_target_know_the_last_state():
  """Heads that copy the state's own prediction draft the token again."""
  config = models.BlockwiseConfig(VOCAB, 16, 4, block=3)
  params = jax.tree.map(np.copy, params_of(config, 3, 1.0))
  params['down']['weight'] *= 0  # every head repeats the target's head
  target = params_of(TARGET, 11)
  params['head']['weight'] = target['head']['weight']
  lm = models.make_lm(TARGET, hidden_layers=(-1,))
  rows = [0, 3, 7]
  made = decode(
    recipes.network(config), prompts(rows), 3, lm=lm, draft_params=params
  )
  assert loops.new_tokens(made) == [plainly()[i] for i in rows]
  assert (made.rounds.drafted[:, 0] == 0).all()  # nothing is known yet
  # A head repeats the last token: right where the target repeats itself.
  repeats = [
    any(a == b for a, b in itertools.pairwise(row))
    for row in loops.new_tokens(made)
  ]
  assert any(repeats)
  assert ((made.rounds.accepted.sum(1) > 0) == repeats).all()


def test_bad_inputs_in_one_sentence():
  lm = models.make_lm(TARGET)
  spec = SlotSpec(CONFIG, Known(VOCAB, VOCAB))
  known = recipes.network(CONFIG)
  few = dataclasses.replace(CONFIG, max_positions=7)
  for drafter, num_draft, target, words in (
    (known, -1, lm, 'num_draft must be at least 0'),
    (known, 26, lm, 'at most 25 tokens at once'),
    (recipes.network(few), 8, lm, 'at most 7 tokens'),
    (known, 2, fakes.markov_lm(VOCAB), 'the target is decoder-only'),
  ):
    with pytest.raises(ValueError, match=words):
      recipes.recipe(target, drafter, num_draft=num_draft)
  with pytest.raises(ValueError, match='num_draft must be at least 1'):
    spec_drafter(
      spec, 0, drawing.Style('argmax', False, Sampling().warp_spec())
    )
