"""The whole jitted loop has the target's law; wrong loops are found out.

Models are tables, so the law of the next four tokens, end token included, is
known exactly for each prompt and warp. One batch holds all of them at once, as
rows of different prompts, lengths and controls, greedy ones too. The statistic
is Pearson's, summed over all of them. A right program fails one test out of
1 / ALARM (seeds are fixed, so it passes for good once it has passed); the
wrong programs at the end must fail the very same test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.draft_model import autoregressive
from specjax.decoding.verifiers import common
from tests.helpers import fakes
from tests.helpers import recipes
from tests.helpers import references

# Chance that a right program fails a test; the file has under 20 of them.
ALARM = 1e-7
VOCAB, END, LENGTH, NUM_DRAFT = 4, 0, 4, 3
ROWS = 2500  # of each prompt and warp
PROMPTS = ((1, 2, 3, 1, 2), (3,))
WARPS = (
  dict(temperature=1.0),
  dict(temperature=0.5),
  dict(temperature=1.0, top_k=2),
  dict(temperature=1.5, top_p=0.7),
  dict(temperature=1.0, min_p=0.3),
  dict(temperature=0.8, repetition_penalty=1.5),
  dict(temperature=0.0),
)
SPEC = warp_lib.WarpSpec(
  sampled=True, top_k=True, top_p=True, min_p=True, repetition_penalty=True
)
TARGET, DRAFT = fakes.markov_params(0, VOCAB), fakes.markov_params(5, VOCAB)
# A draft model that is neither the target nor far from it.
DRAFT = jax.tree.map(lambda p, q: 0.5 * p + 0.6 * q, TARGET, DRAFT)


def _batch(**settings):
  """Prompt and controls; row i belongs to cell i % cells."""
  cells = [(prompt, values) for prompt in PROMPTS for values in WARPS]
  rows = [cells[i % len(cells)] for i in range(ROWS * len(cells))]
  width = max(map(len, PROMPTS))
  tokens = np.array([[*p, *[2] * (width - len(p))] for p, _ in rows], np.int32)

  def column(name, off):
    return [values.get(name, off) for _, values in rows]

  dials = ('lenience', 'wish', 'bug')
  rule = {k: np.asarray(settings.pop(k)) for k in dials if k in settings}
  settings = Sampling(
    temperature=column('temperature', 1.0),
    top_k=column('top_k', 0),
    top_p=column('top_p', 1.0),
    min_p=column('min_p', 0.0),
    repetition_penalty=column('repetition_penalty', 1.0),
    **settings,
  )
  controls = settings.controls(
    row_keys(7, range(len(rows))), LENGTH, (END,), rule
  )
  length = jnp.asarray([len(p) for p, _ in rows], jnp.int32)
  return cells, base.Prompt(jnp.asarray(tokens), length), controls


def _law(target, prompt, values, encoder_decoder):
  table = np.asarray(target['table'], np.float64)
  source = np.asarray(target['source'], np.float64)
  start = (0,) if encoder_decoder else prompt

  def model(prefix):
    before = prefix[-2] if len(prefix) > 1 else VOCAB
    logits = table[before, prefix[-1]]
    if encoder_decoder:
      logits = logits + source[prompt[0]]
    return references.warp(logits, prefix, **values)

  return references.sequence_law(model, start, LENGTH, END)


def _program(recipe):
  """The loop, compiled afresh: a patched function must not meet a cache."""

  def decode(params, prompt, controls):
    return generate_lib.generate(
      recipe, params, prompt, controls, max_new_tokens=LENGTH
    )

  return jax.jit(decode)


def _p_value(decode, encoder_decoder=False, tables=(TARGET, DRAFT), **settings):
  """How likely a right program is to deviate from the law as far as this."""
  cells, prompt, controls = _batch(**settings)
  params = generate_lib.Params(*tables)
  got = jax.device_get(decode(params, prompt, controls))
  first = got.prompt_length[:, None]
  column = np.arange(got.tokens.shape[1])
  after = (column >= first) & (column < first + got.num_tokens[:, None])
  rows = [
    tuple(row[keep].tolist())
    for row, keep in zip(got.tokens, after, strict=True)
  ]
  statistic = freedom = 0
  for cell, (given, values) in enumerate(cells):
    seen = {}
    for tokens in rows[cell :: len(cells)]:
      seen[tokens] = seen.get(tokens, 0) + 1
    part, cells_seen = references.chi_square(
      seen, _law(tables[0], given, values, encoder_decoder)
    )
    statistic, freedom = statistic + part, freedom + cells_seen
  return stats.chi2.sf(statistic, freedom)


def _recipe(verify, drafter, encoder_decoder=False, **changes):
  target = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  if drafter == 'model':
    drafter = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  recipe = recipes.recipe(
    target, drafter, num_draft=NUM_DRAFT, verify=verify, warp=SPEC, **changes
  )
  return recipe


@pytest.mark.parametrize('drafter', ['model', 'prompt_lookup'])
@pytest.mark.parametrize('verify', ['sampling', 'block', 'coupled', 'match'])
def test_law(verify, drafter):
  # The plain-sampling samplers take turns; ratio rules know only one.
  sampler = 'gumbel' if drafter == 'model' else 'inverse_cdf'
  recipe = _recipe(verify, drafter, sampler=sampler)
  assert recipe.verifier == recipes.rule(verify, sampler)
  assert _p_value(_program(recipe)) > ALARM


def test_law_of_plain_decoding():
  assert _p_value(_program(_recipe('auto', None))) > ALARM


def test_law_of_an_encoder_decoder():
  assert _p_value(_program(_recipe('block', 'model', True)), True) > ALARM


def _stopping(drafter):
  """Ends a draft where a 2 was, or (rows of `wish` 2) where a 2 would come."""

  def propose(params, state, view):
    draft, state = drafter.propose(params, state, view)
    hit = draft.tokens == 2
    before = jnp.pad(hit, ((0, 0), (1, 0)))[:, :-1]
    wish = view.context.controls.rule['wish'][:, None]
    keep = jnp.cumsum(jnp.where(wish == 2, hit, before), axis=1) == 0
    return (
      base.Draft(
        jnp.where(keep, draft.tokens, base.EMPTY),
        jnp.where(keep[..., None], draft.log_probs, -jnp.inf),
      ),
      state,
    )

  return drafter._replace(propose=propose)


def test_law_of_drafts_of_varying_length():
  recipe = _recipe('block', 'model')
  recipe = recipe._replace(drafter=_stopping(recipe.drafter))
  decode = _program(recipe)
  assert _p_value(decode, wish=1) > ALARM
  # Looking at the token that is then dropped is wrong, and is found out.
  assert _p_value(decode, wish=2) < ALARM


# Wrong programs. Each differs from a right one in a single thing.


def test_lenient_is_found_out():
  assert _p_value(_program(_recipe('lenient', 'model')), lenience=0.5) < ALARM


def _drafter(noise):
  style = drawing.Style(noise, True, SPEC)
  return autoregressive(fakes.markov_lm(VOCAB), NUM_DRAFT, style)


def test_argmax_draft_with_softmax_q_is_found_out():
  recipe = _recipe('sampling', 'model')
  drafter = _drafter('argmax')
  assert _p_value(_program(recipe._replace(drafter=drafter))) < ALARM


RIGHT, FROM_P, STALE_BONUS, SHARED_NOISE = range(1, 5)


def _wrong_next_token(context, draft, logits):
  """The rule `sampling`; `controls.rule` names the bug in what follows."""
  verdict = recipes.rule('sampling').verify(context, draft, logits)
  bug = context.controls.rule['bug']
  slot = verdict.num_accepted
  inside = jnp.minimum(slot, NUM_DRAFT - 1)
  p = jax.nn.softmax(common.take_slot(logits, slot))
  q = jnp.exp(common.take_slot(draft.log_probs, inside))
  keep_q = (slot < NUM_DRAFT) | (bug == STALE_BONUS)
  q = jnp.where((keep_q & (bug != FROM_P))[:, None], q, 0.0)
  weights = jnp.maximum(p - q, 0)
  weights = jnp.where(weights.sum(-1, keepdims=True) > 0, weights, p)
  fresh = common.round_noise(context, NUM_DRAFT)[1]
  drafts = sampling.node_keys(
    context.controls.row_key, context.length, NUM_DRAFT, sampling.DRAFT
  )
  shared = common.take_slot(drafts, inside)
  keys = jnp.where(bug == SHARED_NOISE, shared, fresh)
  return verdict.replace(next_token=sampling.draw(weights, keys))


def test_wrong_next_tokens_are_found_out():
  recipe = _recipe('sampling', 'model')
  verifier = recipe.verifier._replace(verify=_wrong_next_token)
  decode = _program(recipe._replace(verifier=verifier))
  assert _p_value(decode, bug=RIGHT) > ALARM
  assert _p_value(decode, bug=FROM_P) < ALARM
  assert _p_value(decode, bug=STALE_BONUS) < ALARM
  assert _p_value(decode, bug=SHARED_NOISE) < ALARM


def test_swapped_warp_order_is_found_out(monkeypatch):
  right = warp_lib.warp

  def swapped(spec, logits, context, path=None, path_length=None):
    temperature = context.controls.temperature
    hot = jnp.where(temperature > 0, 1.0, 0.0)
    context = context.replace(
      controls=context.controls.replace(temperature=hot)
    )
    x = right(spec, logits, context, path, path_length)
    return x / jnp.where(temperature > 0, temperature, 1.0)[:, None, None]

  monkeypatch.setattr(warp_lib, 'warp', swapped)
  assert _p_value(_program(_recipe('sampling', 'model'))) < ALARM


def _constant(probabilities):
  """Tables of a model that forgets everything."""
  logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
  return jax.tree.map(lambda x: jnp.broadcast_to(logits, x.shape), TARGET)


def test_block_noise_keyed_by_position_is_found_out(monkeypatch):
  # Likely tokens of p are unlikely in q and the other way round, so that the
  # noise of slots behind the accepted ones says much about why they failed.
  tables = (
    _constant([0.02, 0.03, 0.3, 0.65]),
    _constant([0.02, 0.03, 0.65, 0.3]),
  )
  recipe = _recipe('block', 'model')
  assert _p_value(_program(recipe), tables=tables) > ALARM

  def by_position(row_key, length, nodes, roles):
    keys = [
      sampling.position_keys(row_key, (length + node)[:, None], role)
      for node, role in zip(nodes, roles, strict=True)
    ]
    return jnp.concatenate(keys, axis=1)

  monkeypatch.setattr(sampling, 'round_keys', by_position)
  assert _p_value(_program(recipe), tables=tables) < ALARM
