"""Batches whose targets the trained drafter generates itself.

The drafter generates from the sources of a batch with its present weights. The
loss then compares it with the target along its own path, as in decoding. No
gradient flows through the sampling.

References:
  Agarwal et al. On-policy distillation of language models. ICLR 2024.
    https://arxiv.org/abs/2306.13649
  Zhou et al. DistillSpec. ICLR 2024. https://arxiv.org/abs/2310.08461
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base

# `(params, prompt, key) -> (tokens int32 [B, N], num_tokens int32 [B])`: N new
# tokens a row at most, an end token included.
Generate = Callable[..., tuple[base.Array, base.Array]]

# Share of a text row that is given as the prompt.
_GIVEN = 0.25


def is_on_policy(step: int, seed: int, fraction: float) -> bool:
  """Whether the batch of this step is generated; the same on every host."""
  # A function of seed and step, and not of a generator's state: a resumed run
  # makes the same choices, and hosts agree without a message.
  return np.random.default_rng([seed, step, 1]).random() < fraction


def prompt_of(batch: dict) -> base.Prompt:
  """Returns the prompts of a batch of unpacked rows.

  A prompt is the source of a pair, or the first quarter of a text row.
  """
  if 'source' in batch:
    lengths = jnp.sum(batch['source_segments'] > 0, 1)
    return base.Prompt(batch['source'], jnp.maximum(lengths, 1))
  lengths = jnp.sum(batch['segments'] > 0, 1)
  # length 5: 2 tokens are given, and at least one of a row with any.
  given = jnp.ceil(_GIVEN * lengths).astype(jnp.int32)
  return base.Prompt(batch['tokens'], jnp.maximum(given, 1))


def rewrite(batch: dict, tokens: base.Array, num_tokens: base.Array) -> dict:
  """Puts generated tokens in the place of a batch's targets.

  Args:
    batch: batch of `packing.pair_rows` or `packing.text_rows`, one example a
      row.
    tokens: int32 [B, N], generated from `prompt_of(batch)`.
    num_tokens: int32 [B], how many of them count.

  Returns:
    A batch of the same shapes. Empty rows stay empty.
  """
  if 'source' in batch:
    # In:  tokens [5 6 1 9], num_tokens 3, T = 5, start token 0
    # Out: target [5 6 1 0 0], target_in [0 5 6 0 0], segments [1 1 1 0 0]
    width = batch['target'].shape[1]
    live = jnp.any(batch['source_segments'] > 0, 1)
    count = jnp.where(live, jnp.minimum(num_tokens, width), 0)
    mask = jnp.arange(width) < count[:, None]
    target = jnp.where(mask, _fit(tokens, width), 0)
    moved = jnp.concatenate([batch['target_in'][:, :1], target[:, :-1]], 1)
    return dict(
      batch,
      target=target,
      target_in=jnp.where(mask, moved, 0),
      target_segments=mask.astype(jnp.int32),
    )
  # A row of five, so a prompt of two, and an answer of three:
  # In:  batch tokens [3 4 x x x], tokens [5 6 1], num_tokens 3
  # Out: tokens [3 4 5 6 0], target [4 5 6 1 0], weight [0 1 1 1 0]
  width = batch['tokens'].shape[1]
  prompt = prompt_of(batch)
  live = jnp.any(batch['segments'] > 0, 1)
  place = jnp.arange(width + 1)[None]
  given = prompt.length[:, None]
  old = jnp.pad(batch['tokens'], ((0, 0), (0, 1)))
  new = jnp.take_along_axis(
    tokens, jnp.clip(place - given, 0, tokens.shape[1] - 1), 1
  )
  # One token more than the row: the last is predicted and never read.
  total = jnp.minimum(prompt.length + num_tokens, width + 1)
  whole = jnp.where(place < given, old, new)
  whole = jnp.where((place < total[:, None]) & live[:, None], whole, 0)
  place = place[:, :-1]
  mask = (place < total[:, None] - 1) & live[:, None]
  return dict(
    batch,
    tokens=jnp.where(mask, whole[:, :-1], 0),
    target=jnp.where(mask, whole[:, 1:], 0),
    segments=mask.astype(jnp.int32),
    positions=jnp.where(mask, place, 0),
    weight=(mask & (place >= given - 1)).astype(jnp.float32),
  )


def _fit(tokens, width):
  """Cuts or pads [B, N] to [B, width]."""
  short = max(width - tokens.shape[1], 0)
  return jnp.pad(tokens, ((0, 0), (0, short)))[:, :width]


def make(generate: Generate, seed: int, fraction: float) -> Callable[..., dict]:
  """Makes `(params, batch, step) -> batch` for the training loop.

  Args:
    generate: decodes with the trained model; see `Generate`.
    seed: seed of the choice of steps and of the sampling.
    fraction: share of the steps whose batch is generated.
  """
  # Compiled once here; a jit inside `apply` would be a new function every step.
  write = jax.jit(rewrite)

  def apply(params, batch, step):
    if not is_on_policy(step, seed, fraction):
      return batch
    key = jax.random.fold_in(jax.random.key(seed), step)
    tokens, num_tokens = generate(params, prompt_of(batch), key)
    return write(batch, tokens, num_tokens)

  return apply
