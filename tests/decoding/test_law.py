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
import pytest

from specjax import base
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.draft_model import autoregressive
from specjax.decoding.verifiers import common
from tests.helpers import fakes
from tests.helpers import laws
from tests.helpers import recipes


def _recipe(verify, drafter, encoder_decoder=False, **changes):
  target = fakes.markov_lm(laws.VOCAB, encoder_decoder=encoder_decoder)
  if drafter == 'model':
    drafter = fakes.markov_lm(laws.VOCAB, encoder_decoder=encoder_decoder)
  recipe = recipes.recipe(
    target,
    drafter,
    num_draft=laws.NUM_DRAFT,
    verify=verify,
    warp=laws.SPEC,
    **changes,
  )
  return recipe


@pytest.mark.parametrize('drafter', ['model', 'prompt_lookup'])
@pytest.mark.parametrize('verify', ['sampling', 'block', 'coupled', 'match'])
def test_law(verify, drafter):
  # The plain-sampling samplers take turns; ratio rules know only one.
  sampler = 'gumbel' if drafter == 'model' else 'inverse_cdf'
  recipe = _recipe(verify, drafter, sampler=sampler)
  rule, match = recipes.rule(verify, sampler), recipes.rule('match', sampler)
  exchanged = drafter == 'prompt_lookup' and verify in ('sampling', 'block')
  assert recipe.verifier == (match if exchanged else rule)
  # Exchanged rules must have the law too: drafters of a user's own may run them
  # with point masses.
  decode = laws.program(recipe._replace(verifier=rule))
  assert laws.p_value(decode) > laws.ALARM


def test_law_of_plain_decoding():
  assert laws.p_value(laws.program(_recipe('auto', None))) > laws.ALARM


def test_law_of_an_encoder_decoder():
  assert (
    laws.p_value(laws.program(_recipe('block', 'model', True)), True)
    > laws.ALARM
  )


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
  decode = laws.program(recipe)
  assert laws.p_value(decode, wish=1) > laws.ALARM
  # Looking at the token that is then dropped is wrong, and is found out.
  assert laws.p_value(decode, wish=2) < laws.ALARM


# Wrong programs. Each differs from a right one in a single thing.


def test_lenient_is_found_out():
  assert (
    laws.p_value(laws.program(_recipe('lenient', 'model')), lenience=0.5)
    < laws.ALARM
  )


def _drafter(noise):
  style = drawing.Style(noise, True, laws.SPEC)
  return autoregressive(fakes.markov_lm(laws.VOCAB), laws.NUM_DRAFT, style)


def test_argmax_draft_with_softmax_q_is_found_out():
  recipe = _recipe('sampling', 'model')
  drafter = _drafter('argmax')
  assert (
    laws.p_value(laws.program(recipe._replace(drafter=drafter))) < laws.ALARM
  )


RIGHT, FROM_P, STALE_BONUS, SHARED_NOISE = range(1, 5)


def _wrong_next_token(context, draft, logits):
  """The rule `sampling`; `controls.rule` names the bug in what follows."""
  verdict = recipes.rule('sampling').verify(context, draft, logits)
  bug = context.controls.rule['bug']
  slot = verdict.num_accepted
  inside = jnp.minimum(slot, laws.NUM_DRAFT - 1)
  p = jax.nn.softmax(common.take_slot(logits, slot))
  q = jnp.exp(common.take_slot(draft.log_probs, inside))
  keep_q = (slot < laws.NUM_DRAFT) | (bug == STALE_BONUS)
  q = jnp.where((keep_q & (bug != FROM_P))[:, None], q, 0.0)
  weights = jnp.maximum(p - q, 0)
  weights = jnp.where(weights.sum(-1, keepdims=True) > 0, weights, p)
  fresh = common.round_noise(context, laws.NUM_DRAFT)[1]
  drafts = sampling.node_keys(
    context.controls.row_key, context.length, laws.NUM_DRAFT, sampling.DRAFT
  )
  shared = common.take_slot(drafts, inside)
  keys = jnp.where(bug == SHARED_NOISE, shared, fresh)
  return verdict.replace(next_token=sampling.draw(weights, keys))


def test_wrong_next_tokens_are_found_out():
  recipe = _recipe('sampling', 'model')
  verifier = recipe.verifier._replace(verify=_wrong_next_token)
  decode = laws.program(recipe._replace(verifier=verifier))
  assert laws.p_value(decode, bug=RIGHT) > laws.ALARM
  assert laws.p_value(decode, bug=FROM_P) < laws.ALARM
  assert laws.p_value(decode, bug=STALE_BONUS) < laws.ALARM
  assert laws.p_value(decode, bug=SHARED_NOISE) < laws.ALARM


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
  assert laws.p_value(laws.program(_recipe('sampling', 'model'))) < laws.ALARM


def _constant(probabilities):
  """Tables of a model that forgets everything."""
  logits = jnp.log(jnp.asarray(probabilities, jnp.float32))
  return jax.tree.map(lambda x: jnp.broadcast_to(logits, x.shape), laws.TARGET)


def test_block_noise_keyed_by_position_is_found_out(monkeypatch):
  # Likely tokens of p are unlikely in q and the other way round, so that the
  # noise of slots behind the accepted ones depends strongly on why they failed.
  tables = (
    _constant([0.02, 0.03, 0.3, 0.65]),
    _constant([0.02, 0.03, 0.65, 0.3]),
  )
  recipe = _recipe('block', 'model')
  assert laws.p_value(laws.program(recipe), tables=tables) > laws.ALARM

  def by_position(row_key, length, nodes, roles):
    keys = [
      sampling.position_keys(row_key, (length + node)[:, None], role)
      for node, role in zip(nodes, roles, strict=True)
    ]
    return jnp.concatenate(keys, axis=1)

  monkeypatch.setattr(sampling, 'round_keys', by_position)
  assert laws.p_value(laws.program(recipe), tables=tables) < laws.ALARM
