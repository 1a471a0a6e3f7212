"""Block masks against a plain reading of the recipe; what glancing reveals."""

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.models.spec_drafter import modeling as spec_drafter
from specjax.training.data import packing
from specjax.training.families import block_mask
from specjax.training.families import slot_objective

EOS = 1
SPEC = block_mask.Spec(
  block=4, block_min=4, window=3, max_positions=9, mask_id=50, cuts=3
)


def batch():
  """Two examples in the first row, a long one in the second, then nothing."""
  first = np.array([11, 12, 13, 14, EOS])
  second = np.array([21, 22, EOS])
  long = np.array([*range(31, 42), EOS])
  source = np.array([7, 8, EOS])
  rows = [[(source, first), (source, second)], [(source, long)], []]
  return packing.pair_rows(rows, 8, 12, 3, 0), (first, second, long)


def plain(target, cut, spec, size):
  """(tokens, positions, valid, labels, labelled) of one cut, in words."""
  tokens, positions, valid, labels, labelled = [], [], [], [], []
  for place in range(cut - spec.window, cut):
    there = 0 <= place < spec.max_positions
    tokens.append(target[place] if there else 0)
    positions.append(max(place, 0))
    valid.append(there)
  for slot in range(spec.block):
    place = cut + slot
    there = slot < size and place < spec.max_positions
    known = there and place < len(target)
    tokens.append(spec.mask_id)
    positions.append(place)
    valid.append(there)
    labels.append(target[place] if known else 0)
    labelled.append(known)
  return tokens, positions, valid, labels, labelled


def test_examples_are_as_the_recipe_says():
  made, (first, second, long) = batch()
  cuts = np.array([[0, 4, 6], [2, 7, 11], [0, 0, 0]])
  size = np.array([[4, 4, 2], [3, 4, 4], [4, 4, 4]])
  got = jax.device_get(
    jax.jit(block_mask.at_cuts, static_argnums=4)(
      made['target'], made['target_segments'], cuts, size, SPEC
    )
  )
  inside = {
    (0, 0): (first, 0),
    (0, 1): (first, 4),
    (0, 2): (second, 1),
    (1, 0): (long, 2),
    (1, 1): (long, 7),
    (1, 2): (long, 11),
  }
  for (row, c), (target, cut) in inside.items():
    want = plain(target, cut, SPEC, size[row, c])
    for name, value in zip(
      ('tokens', 'positions', 'valid', 'labels', 'labelled'), want, strict=True
    ):
      np.testing.assert_array_equal(getattr(got, name)[row, c], value, name)
  # Heads read the state before the cut: it predicted the last verified token.
  assert got.before.tolist() == [[-1, 3, 5], [1, 6, 10], [-1, -1, -1]]
  assert got.segment.tolist() == [[1, 1, 2], [1, 1, 1], [0, 0, 0]]
  assert not got.valid[2].any() and not got.labelled[2].any()


def test_every_place_is_cut_and_block_sizes_vary():
  made, _ = batch()
  spec = SPEC._replace(cuts=400, block_min=2)
  key = jax.random.key(0)
  got = jax.device_get(
    jax.jit(block_mask.examples, static_argnums=2)(
      {k: jnp.asarray(v) for k, v in made.items()}, key, spec
    )
  )
  assert set(got.before[1]) == set(range(-1, 11))
  counts = np.bincount(got.before[1] + 1) / 400
  assert abs(counts - 1 / 12).max() < 0.07
  slots = got.valid[1][got.before[1] < 3][:, SPEC.window :].sum(1)
  assert set(slots) == {2, 3, 4}


def test_glancing_reveals_what_it_should():
  made, _ = batch()
  spec = SPEC._replace(cuts=300)

  @jax.jit
  def call(made, ratio):
    cuts = block_mask.examples(made, jax.random.key(1), spec)
    # The network is right at every second slot.
    guess = jnp.where(jnp.arange(4) % 2 == 0, cuts.labels, 0)
    return cuts, block_mask.reveal(cuts, guess, ratio, jax.random.key(2))

  made = {k: jnp.asarray(v) for k, v in made.items()}
  for ratio in (0.0, 0.5, 1.0):
    cuts, shown = jax.device_get(call(made, jnp.float32(ratio)))
    right = (cuts.labelled & (np.arange(4) % 2 == 0)).sum(-1)
    wanted = np.floor((cuts.labelled.sum(-1) - right) * ratio)
    hidden = cuts.labelled & ~shown.labelled
    np.testing.assert_array_equal(hidden.sum(-1), wanted)
    # Where revealed, the gold token stands in the input and carries no loss.
    slots, before = shown.tokens[..., 3:], cuts.tokens[..., 3:]
    np.testing.assert_array_equal(slots[hidden], cuts.labels[hidden])
    np.testing.assert_array_equal(slots[~hidden], before[~hidden])
    assert not (shown.labelled & ~cuts.labelled).any()
    if ratio == 0:
      jax.tree.map(np.testing.assert_array_equal, cuts, shown)
    else:
      # Any labelled mask may be chosen, also one that was guessed.
      assert hidden.any((0, 1)).all()
  ratios = [
    float(block_mask.reveal_ratio(s, 100, 0.5, 0.3)) for s in (0, 50, 100, 200)
  ]
  np.testing.assert_allclose(ratios, [0.5, 0.4, 0.3, 0.3], atol=1e-6)


def test_training_sees_what_decoding_sees():
  """Packed rows, several cuts: the logits of the drafter at each prefix."""
  made, (first, second, long) = batch()
  config = models.SpecDrafterConfig(
    *(50, 16, 8, 32, 1, 2, 2),
    block=4,
    window=3,
    max_positions=9,
    max_source_positions=8,
  )
  params = models.init_params(config, jax.random.key(0))
  module = spec_drafter.SpecDrafter(config)
  made['source'][0, :3] = [17, 18, EOS]
  cuts = np.array([[0, 4, 6], [2, 7, 11], [0, 0, 0]])

  @jax.jit
  def train(made):
    examples = block_mask.at_cuts(
      made['target'], made['target_segments'], cuts, jnp.full((3, 3), 4), SPEC
    )
    return slot_objective.passes(module, params, made, examples, None)(examples)

  @jax.jit
  def draft(source, tokens, length):
    network = spec_drafter.make_network(config)
    prompt = base.Prompt(source, jnp.full((6,), 3))
    memory = network.prefill(params, prompt, capacity=16)
    return network.logits(params, memory, tokens, length, 4)

  got = train({k: jnp.asarray(v) for k, v in made.items()})
  prefixes = [first[:0], first[:4], second[:1], long[:2], long[:7], long[:11]]
  sources = [[17, 18, EOS]] * 2 + [[7, 8, EOS]] * 4
  tokens = np.zeros((6, 16), np.int32)
  for row, prefix in enumerate(prefixes):
    tokens[row, 1 : 1 + len(prefix)] = prefix
  want, there = draft(
    np.array(sources), tokens, np.array([len(p) + 1 for p in prefixes])
  )
  got = np.asarray(got)[:2].reshape(6, 4, -1)
  want, there = np.asarray(want), np.asarray(there)
  np.testing.assert_allclose(got[there][:, 1:], want[there][:, 1:], atol=1e-4)
  assert there.sum() == 4 * 4 + 2  # the last two places have fewer slots
