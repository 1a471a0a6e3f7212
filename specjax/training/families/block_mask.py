"""Examples for drafters that fill a block of slots, and GLAT's glancing.

From each target t_1..t_T (t_T is the end token) a cut leaves p verified tokens,
0 <= p < T. The input is the latest of these, and then masks; the labels are
t_{p+1}, t_{p+2}, ..., and masks behind t_T have none. Everything is made on the
device from the batch of the step and a key, so a packed row gives cuts of
several examples, and several cuts share one pass of the encoder.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
  Qian et al. Glancing Transformer for non-autoregressive neural machine
    translation. ACL 2021. https://arxiv.org/abs/2008.07905
"""

from typing import NamedTuple

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base


class Spec(NamedTuple):
  """Sizes of examples; static.

  Attributes:
    block: K, slots for masks in an example.
    block_min: fewest masks of an example; each draws its own number from here
      to K. Equal to K: always all.
    window: W, verified tokens of an example.
    max_positions: positions; a mask at or behind this one is left out.
    mask_id: id of a mask.
    cuts: C, cuts of a row.
  """

  block: int
  block_min: int
  window: int
  max_positions: int
  mask_id: int
  cuts: int


@struct.dataclass
class Examples:
  """C cuts of each of B rows; N = W + K entries, masks last.

  Attributes:
    tokens: int32 [B, C, N], verified ones and `mask_id`.
    positions: int32 [B, C, N], 0 for a target's first token.
    valid: bool [B, C, N], entries that are not padding.
    labels: int32 [B, C, K].
    labelled: bool [B, C, K], masks that carry loss.
    segment: int32 [B, C], which example of the row; 0 in an empty row.
    before: int32 [B, C], the place in the row of the last verified token, -1 if
      there is none.
  """

  tokens: base.Array
  positions: base.Array
  valid: base.Array
  labels: base.Array
  labelled: base.Array
  segment: base.Array
  before: base.Array


def places(segments: base.Array) -> base.Array:
  """int32 [B, T]: each token's place inside its segment, from 0."""
  # In:  [1 1 1 2 2 0]
  # Out: [0 1 2 0 1 0]
  index = jnp.arange(segments.shape[1], dtype=jnp.int32)
  # segments [1 1 1 2 2 0]: begins [1 0 0 1 0 1], their index [0 . . 3 . 5], and
  # a running maximum of it [0 0 0 3 3 5] is where each token's segment begins.
  begins = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
  begins = begins.at[:, 0].set(True)
  first = lax.cummax(jnp.where(begins, index, 0), axis=1)
  return index - first


def examples(batch: dict, key: base.Array, spec: Spec) -> Examples:
  """Cuts the targets of a batch of `packing.pair_rows`.

  Args:
    batch: `target` and `target_segments` int32 [B, T] are read.
    key: PRNG key of the cuts. Every token of a row is as likely as the others
      to be the first label.
    spec: sizes of the examples.
  """
  target, segments = batch['target'], batch['target_segments']
  cut_key, size_key = jax.random.split(key)
  shape = (target.shape[0], spec.cuts)
  used = jnp.sum(segments > 0, axis=1)[:, None]
  # Drawn as a fraction, since `used` differs from row to row and is data.
  cut = jax.random.uniform(cut_key, shape) * used
  cut = jnp.minimum(cut.astype(jnp.int32), jnp.maximum(used - 1, 0))
  size = jax.random.randint(size_key, shape, spec.block_min, spec.block + 1)
  return at_cuts(target, segments, cut, size, spec)


def at_cuts(
  target: base.Array,
  segments: base.Array,
  cut: base.Array,
  size: base.Array,
  spec: Spec,
) -> Examples:
  """Examples of the given cuts.

  Args:
    target: int32 [B, T], tokens.
    segments: int32 [B, T], number of the example of each token; 0 is padding.
    cut: int32 [B, C], the place in the row of the first label.
    size: int32 [B, C], number of masks.
    spec: sizes of the examples.
  """
  # A row with the targets a b c and d e, W = 2, K = 2, two masks `M` a cut:
  # In:  target [a b c d e 0], segments [1 1 1 2 2 0], cut [2 3]
  # Out: tokens    [[a b M M] [. . M M]]   labels   [[c 0] [d e]]
  #      positions [[0 1 2 3] [0 0 0 1]]   labelled [[1 0] [1 1]]
  #      valid     [[1 1 1 1] [0 0 1 1]]   before   [1 -1], segment [1 2]
  # The mask behind c stays, without a label: decoding does not know the end.
  width = target.shape[1]
  offset = jnp.arange(-spec.window, spec.block, dtype=jnp.int32)
  index = cut[..., None] + offset
  inside = (index >= 0) & (index < width)

  def gather(rows):
    flat = jnp.clip(index, 0, width - 1).reshape(index.shape[0], -1)
    return jnp.take_along_axis(rows, flat, axis=1).reshape(index.shape)

  segment = jnp.take_along_axis(segments, cut, axis=1)
  own = inside & (gather(segments) == segment[..., None])
  own &= segment[..., None] > 0
  # Positions count inside an example and go on behind its end: decoding does
  # not know the end either.
  place = jnp.take_along_axis(places(segments), cut, axis=1)
  positions = place[..., None] + offset
  is_slot = offset >= 0
  there = is_slot & (offset < size[..., None]) & (segment[..., None] > 0)
  valid = jnp.where(is_slot, there, own) & (positions < spec.max_positions)
  labels = gather(target)
  labelled = (valid & own)[..., spec.window :]
  return Examples(
    tokens=jnp.where(is_slot, spec.mask_id, jnp.where(valid, labels, 0)),
    positions=jnp.maximum(positions, 0),
    valid=valid,
    labels=jnp.where(labelled, labels[..., spec.window :], 0),
    labelled=labelled,
    segment=segment,
    before=jnp.where((place > 0) & (segment > 0), cut - 1, -1),
  )


def reveal_ratio(
  step: base.Array, steps: int, first: float, last: float
) -> base.Array:
  """The share of wrong guesses to reveal: from `first` falling to `last`."""
  done = jnp.minimum(1.0, jnp.asarray(step, jnp.float32) / steps)
  return first + (last - first) * done


def reveal(
  made: Examples, guess: base.Array, ratio: base.Array, key: base.Array
) -> Examples:
  """Puts gold tokens into some masks and takes these out of the loss.

  Of an example with M labels of which C are guessed right, floor((M - C) r) are
  revealed, chosen among all M with equal chance.

  Args:
    made: examples.
    guess: int32 [B, C, K], the network's tokens with nothing revealed.
    ratio: r, float32, a scalar or [B, 1].
    key: PRNG key of the choice.
  """
  # W = 1, ratio 0.5; two of four guesses are wrong, so one label is revealed:
  # In:  tokens [a M M M M], labels [b c d e], guess [b c x y]
  # Out: tokens [a M M d M], labelled [1 1 0 1], or another of the four places
  right = made.labelled & (guess == made.labels)
  wrong = jnp.sum(made.labelled, -1) - jnp.sum(right, -1)
  count = jnp.floor(wrong * ratio).astype(jnp.int32)
  noise = jax.random.uniform(key, made.labels.shape)
  noise = jnp.where(made.labelled, noise, 2.0)
  # A rank by comparing all pairs compiles in no time; sorting does not.
  slot = jnp.arange(noise.shape[-1])
  ahead = noise[..., None, :] < noise[..., None]
  ahead |= (noise[..., None, :] == noise[..., None]) & (slot < slot[:, None])
  rank = jnp.sum(ahead, axis=-1)
  shown = made.labelled & (rank < count[..., None])
  start = made.tokens.shape[-1] - made.labels.shape[-1]
  slots = jnp.where(shown, made.labels, made.tokens[..., start:])
  return made.replace(
    tokens=jnp.concatenate([made.tokens[..., :start], slots], axis=-1),
    labelled=made.labelled & ~shown,
  )
