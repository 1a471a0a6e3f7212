"""Groups of masks: who reads whom, and that training and decoding agree."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.decoding import trees
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.speculator import speculator
from specjax.decoding.drafters.vocabulary import Known
from specjax.models.speculator import config as speculator_config
from specjax.models.speculator import modeling as network_lib
from specjax.training.families import speculator_objective as training_lib
from tests.helpers import speculators
from tests.helpers import verdicts
from tests.helpers.speculator_logits import trained_logits

SLOTS = speculators.SLOTS


def _may_read(query, key, segments):
  """The rule, one pair of slots at a time."""
  (anchor, depth), (other, level) = query, key
  if not segments[anchor] or segments[anchor] != segments[other]:
    return False
  if level == 0:
    return other <= anchor
  return other == anchor and level <= depth


@pytest.mark.parametrize('order', ['interleaved', 'depth_major'])
def test_the_mask_is_the_rule(order):
  segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])
  slots = list(itertools.product(range(6), range(3)))
  if order == 'depth_major':
    slots.sort(key=lambda slot: slot[::-1])
  given = tuple(jnp.asarray([column]) for column in zip(*slots, strict=True))
  made = network_lib.slot_mask(given, given, jnp.asarray(segments))
  wanted = [
    [[_may_read(q, k, row) for k in slots] for q in slots] for row in segments
  ]
  np.testing.assert_array_equal(made, np.asarray(wanted))


def _anchors(rows):
  return jnp.broadcast_to(
    jnp.arange(rows.tokens.shape[1], dtype=jnp.int32), rows.tokens.shape
  )


def test_later_tokens_other_groups_and_documents_do_not_leak():
  config = speculators.EAGLE
  params = speculators.params(config)
  rows = speculators.rows(config, ['11111222222'])
  run = functools.partial(trained_logits(config), params)
  before = np.asarray(run(rows, _anchors(rows)))
  for changed in (3, 7):
    tokens = rows.tokens.at[0, changed].add(1) % speculators.VOCAB
    features = rows.features.at[0, changed].add(1.0)
    moved = rows._replace(tokens=tokens, features=features)
    after = np.asarray(run(moved, _anchors(rows)))
    same = (before == after).all(axis=(-1, -2))[0]
    document = np.asarray(rows.segments[0] == rows.segments[0, changed])
    unread = (np.arange(11) < changed) | ~document
    np.testing.assert_array_equal(same, unread)
  # A group is the same whatever groups run beside it, and real slots know
  # nothing of masks.
  alone = np.asarray(run(rows, jnp.asarray([[6]])))
  np.testing.assert_allclose(alone[:, 0], before[:, 6], atol=1e-5)
  weight = params['mask_embed']['weight'] + 1
  masks = params | {'mask_embed': {'weight': weight}}
  after = np.asarray(trained_logits(config)(masks, rows, _anchors(rows)))
  np.testing.assert_array_equal(after[:, :, 0], before[:, :, 0])
  assert (after[:, :, 1:] != before[:, :, 1:]).any(axis=-1).all()


def test_fewer_masks_change_nothing_before_them():
  config = speculators.TOKEN_ONLY
  params = speculators.params(config)
  rows = speculators.rows(config, ['1111122'])
  whole = trained_logits(config)(params, rows, _anchors(rows))
  cut = trained_logits(config, 1)(params, rows, _anchors(rows))
  np.testing.assert_allclose(whole[:, :, :2], cut, atol=1e-5)


def test_depth_zero_is_a_plain_causal_model():
  config = speculators.TOKEN_ONLY
  params = speculators.params(config)
  rows = speculators.rows(config, ['1111111'])
  ours = trained_logits(config)(params, rows, _anchors(rows))[:, :, 0]
  plain = {k: v for k, v in params.items() if not k.startswith('mask')}
  theirs = models.Decoder(config.trunk).apply({'params': plain}, rows.tokens)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


# Committed tokens at three successive rounds, for four rows.
_ROUNDS = np.array([[1, 2, 7, 12], [1, 4, 12, 13], [5, 7, 13, 18]])


def _proposed(config, params, rows, slots=SLOTS):
  """log q [rounds, B, K, V] of a drafter that sees the rounds go by."""
  drafter = speculator(
    config,
    trees.chain(slots),
    Known(speculators.VOCAB, speculators.VOCAB),
    drawing.Style('argmax', True, warp_lib.WarpSpec()),
  )
  is_pairs = config.encoder_width > 0
  rounds = np.ones_like(_ROUNDS[:1]) if is_pairs else _ROUNDS[:1]
  # An encoder-decoder begins with one token and is led on from there.
  while (rounds[-1] < _ROUNDS[0]).any():
    rounds = np.append(rounds, [np.minimum(rounds[-1] + 3, _ROUNDS[0])], 0)
  lead = len(rounds) - 1
  rounds = np.append(rounds, _ROUNDS[1:], 0)

  @jax.jit
  def begin(params, rows, length):
    prompt, hidden = (
      base.Prompt(rows.tokens[:, :12], length),
      rows.known[:, :12],
    )
    if is_pairs:
      prompt = base.Prompt(rows.tokens[:, :6], jnp.full((4,), 4))
      hidden = rows.encoded
    prefilled = base.Prefilled(None, rows.tokens[:, 0], (hidden,))
    return drafter.init(params, prompt, prefilled, capacity=24)

  @jax.jit
  def play(params, rows, state, now, after):
    context = verdicts.context(4).replace(tokens=rows.tokens, length=now)
    view = base.View(context, rows.tokens[:, 0], None, None)
    draft, state = drafter.propose(params, state, view)
    where = now[:, None] + np.arange(slots + 1)
    observation = base.Observation(
      tokens=jnp.take_along_axis(rows.tokens, where, axis=1),
      num_tokens=after - now,
      hidden=(jnp.take_along_axis(rows.known, where[..., None] - 1, axis=1),),
      length=after,
      num_accepted=jnp.zeros((4,), jnp.int32),
    )
    return draft.log_probs, drafter.observe(params, state, observation)

  rounds = jnp.asarray(rounds, jnp.int32)
  state = begin(params, rows, rounds[0])
  made = []
  for now, after in zip(rounds, [*rounds[1:], rounds[-1]], strict=True):
    log_probs, state = play(params, rows, state, now, after)
    made.append(log_probs)
  return made[lead:], state


@pytest.mark.parametrize('name', ['TOKEN_ONLY', 'EAGLE', 'EAGLE_T5', 'HEADS'])
def test_decoding_drafts_what_training_saw(name):
  config = getattr(speculators, name)
  params = speculators.params(config)
  rows = speculators.rows(config, ['1' * 24] * 4, seed=3)
  drafted, state = _proposed(config, params, rows)
  if config.is_heads:
    module = models.make_module(config)
    apply = functools.partial(module.apply, {'params': params})
    states = apply(rows.features, method='head_states')
    logits = apply(states, method='logits_from_hidden')
  else:
    logits = trained_logits(config)(params, rows, _anchors(rows))
  seen = np.asarray(jax.nn.log_softmax(logits))
  for length, draft in zip(_ROUNDS, drafted, strict=True):
    wanted = seen[np.arange(4), length - 1]
    np.testing.assert_allclose(draft, wanted, atol=1e-5, rtol=1e-5)
  if config.is_heads:
    return
  # What is kept are the real tokens' keys and values, and no mask's.
  fresh = training_lib.real_states(
    config,
    functools.partial(models.make_module(config).apply, {'params': params}),
    rows,
  )
  np.testing.assert_array_equal(state.cache.length, _ROUNDS[-1])
  for kept, (keys, _) in zip(state.cache.keys, fresh.kept, strict=True):
    for row, length in enumerate(_ROUNDS[-1]):
      np.testing.assert_allclose(
        kept[row, :, :length], keys[row, :, :length], atol=1e-4
      )


def test_settings_that_make_no_network():
  for changes, message in (
    (dict(kind='eagle', feature='none'), 'feature must be'),
    (dict(kind='medusa', feature='fuse', target_width=8), 'as wide as'),
    (dict(masks=False), 'ordinary draft model'),
    (dict(output_ids=(3, 1)), 'rising order'),
    (dict(mask_feature='guess'), 'must be one of'),
    (dict(num_draft=0), 'at least 1'),
  ):
    given = dict(trunk=speculators.TRUNK, target_width=16, target_layers=1)
    with pytest.raises(ValueError, match=message):
      models.ParallelConfig(**given | changes).validate()


def test_the_config_goes_through_its_file():
  for config in (speculators.EAGLE, speculators.EAGLE_T5, speculators.HEADS):
    raw = json.loads(json.dumps(speculator_config.to_hf(config)))
    made = speculator_config.from_hf(raw)
    assert made == config and hash(made) == hash(config)
  raw['trunk'].pop('head_dim')
  with pytest.raises(ValueError, match='not complete'):
    speculator_config.from_hf(raw)
