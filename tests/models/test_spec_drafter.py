"""Inputs that a slot of the Spec-Drafter sees, and those it must not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.models.common import cpu_layout
from specjax.models.spec_drafter import modeling as spec_drafter

CONFIG = models.SpecDrafterConfig(
  *(20, 16, 8, 32, 1, 2, 2),
  block=6,
  window=5,
  max_positions=12,
  max_source_positions=9,
)
BARE = dataclasses.replace(
  CONFIG, source_copy=False, tie_word_embeddings=False, output_ids=(0, 1, 4, 7)
)
SLOTS = 3


@functools.cache
def params_of(config, seed=0):
  params = models.init_params(config, jax.random.key(seed))
  return jax.tree.map(lambda x: 2 * x if x.ndim > 1 else x, params)


@functools.cache
def program(config):
  """One compiled program a config."""

  @jax.jit
  def call(params, source, length, tokens, committed):
    network = spec_drafter.make_network(config)
    prompt = base.Prompt(source, length)
    memory = network.prefill(params, prompt, capacity=tokens.shape[1])
    out, there = network.logits(params, memory, tokens, committed, SLOTS)
    whole = spec_drafter.draftable(config, out, 20)
    at_head, ids = spec_drafter.at_head(config, out, 20)
    return whole, there, ids[jnp.argmax(at_head, -1)]

  return call


def run(config, source, length, tokens, committed):
  """(logits, which slots are there); rows are filled up to eight."""
  rows = len(tokens)

  def whole(x, *width):
    pad = [(0, 8 - rows)] + [
      (0, w - n) for w, n in zip(width, x.shape[1:], strict=True)
    ]
    return np.pad(np.asarray(x, np.int32), pad, mode='edge')

  made, there, best = jax.device_get(
    program(config)(
      params_of(config),
      whole(source, 6),
      whole(length),
      whole(tokens, 16),
      whole(committed),
    )
  )
  np.testing.assert_array_equal(best, made.argmax(-1))
  return made[:rows], there[:rows]


@pytest.mark.parametrize('config', [CONFIG, BARE], ids=['copy', 'bare'])
def test_who_sees_whom(config):
  """Rows are variations of row 0, so that one program serves all."""
  rng = np.random.default_rng(0)
  source = np.tile(rng.integers(2, 20, 6), (8, 1)).astype(np.int32)
  length = np.full(8, 4, np.int32)
  tokens = np.tile(rng.integers(2, 20, 11), (8, 1)).astype(np.int32)
  committed = np.full(8, 7, np.int32)
  tokens[1, 2] += 1  # the oldest token of the window: y_2
  tokens[2, 6] += 1  # the newest
  tokens[3, [0, 1]] += 1  # the start token, and one before the window
  tokens[4, 7:] += 1  # behind the committed ones
  source[5, 4:] += 1  # behind the source
  source[6, 3] -= 1  # the source
  committed[7] = 6
  made, there = run(config, source, length, tokens, committed)
  row = made[0]
  assert there.all() and row.shape == (SLOTS, 20)
  for other in (1, 2, 6, 7):
    changed = np.where(np.isfinite(row), row != made[other], False)
    assert changed.any(-1).all(), other
  for other in (3, 4, 5):
    np.testing.assert_array_equal(row, made[other])
  # Every slot is a query of its own.
  assert not np.allclose(row[0], row[1]) and not np.allclose(row[1], row[2])
  # Padding (also the start token) is never drafted, the end token may be.
  known = [4, 7] if config is BARE else list(range(2, 20))
  finite = np.isfinite(made).all((0, 1)).nonzero()[0].tolist()
  assert finite == [1, *known] and (made[..., 0] == -np.inf).all()


def test_slots_without_a_position_are_not_there():
  tokens = np.ones((3, 16), np.int32)
  committed = np.array([1, 11, 14], np.int32)
  made, there = run(
    CONFIG, np.full((3, 4), 3, np.int32), np.array([4, 1, 2]), tokens, committed
  )
  assert there.tolist() == [[True] * 3, [True, True, False], [False] * 3]
  assert np.isfinite(made[..., 1:]).all()  # nothing to see, but no NaN


def test_decoding_is_the_network_over_the_whole_prefix():
  """Prepared for rounds or called plainly, with slots in another order."""
  params, module = params_of(CONFIG), spec_drafter.SpecDrafter(CONFIG)
  source = np.array([[3, 8, 5, 2]], np.int32)
  verified = [9, 4, 11]
  made, _ = run(
    CONFIG,
    source,
    np.array([4]),
    np.array([[0, *verified, *[0] * 6]]),
    np.array([4]),
  )
  mask_id = CONFIG.mask_id

  @jax.jit
  def plainly(tokens, positions):
    return module.apply(
      {'params': params},
      source,
      jnp.ones((1, 4), bool),
      tokens[None],
      positions[None],
      jnp.ones((1, 6), bool),
      6,
    )[0]

  tokens = np.array([*verified, mask_id, mask_id, mask_id])
  want = plainly(tokens, np.arange(6))
  np.testing.assert_allclose(made[0, :, 1:], want[3:, 1:], atol=1e-4)
  # Attention is full, so order is in the positions alone.
  order = np.array([4, 0, 5, 3, 1, 2])
  moved = plainly(tokens[order], np.arange(6)[order])
  np.testing.assert_allclose(moved, np.asarray(want)[order], atol=1e-4)
  # Other positions for the same slots: other outputs.
  swapped = plainly(tokens, np.array([0, 1, 2, 5, 4, 3]))
  np.testing.assert_allclose(swapped[5], want[3], atol=1e-4)
  assert not np.allclose(swapped[3], want[3], atol=1e-2)


@pytest.mark.parametrize(
  'config', [CONFIG, BARE, models.BlockwiseConfig(20, 16, 8, block=4)]
)
def test_a_folder_holds_all_of_it(config, tmp_path):
  params = params_of(config)
  hf.save_hf(str(tmp_path), params, config)
  model = loading.load(tmp_path)
  assert model.lm is None and model.config == config
  stored = cpu_layout.stored(model.params)
  jax.tree.map(np.testing.assert_array_equal, stored, params)
  half = loading.load(tmp_path, dtype='bfloat16')
  assert half.config.dtype == 'bfloat16'
  # Hugging Face spells no such thing; a broken file is refused in one sentence.
  path = tmp_path / 'config.json'
  path.write_text(path.read_text().replace('"d_ff"', '"dff"'))
  with pytest.raises(ValueError, match="lacks 'd_ff'"):
    loading.load(tmp_path)


def test_tables_begin_alike_on_host_and_device():
  host = models.init_params(CONFIG, jax.random.key(1))
  device = jax.eval_shape(
    lambda key: models.init_params(CONFIG, key), jax.random.key(1)
  )
  assert jax.tree.map(jnp.shape, host) == jax.tree.map(jnp.shape, device)
  table = np.asarray(host['positions']['weight'])
  near = [float(table[5] @ table[i]) for i in (5, 6, 11)]
  assert near == sorted(near, reverse=True)
