"""Rows that group-wise training reads, and the groups of masks that it runs."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.training import objectives
from specjax.training.families import block_mask


class Rows(NamedTuple):
  """The inputs and labels of a drafter; [B, N] unless stated.

  Attributes:
    tokens, target: int32, each token and the one after it.
    segments, positions: int32, number of its document, and its place there.
    mask: bool, whether `target` carries loss.
    features: [B, N, D], the target's state that predicted each token.
    known: [B, N, D], the target's state after reading it.
    encoded: [B, S, De] or None.
    readable: bool [B, N, S], the source each token may read, or None.
  """

  tokens: base.Array
  target: base.Array
  segments: base.Array
  positions: base.Array
  mask: base.Array
  features: base.Array
  known: base.Array
  encoded: base.Array | None
  readable: base.Array | None


class Teacher(NamedTuple):
  """The target as group-wise training sees it.

  Attributes:
    states: `(params, batch) -> (final states [B, N, D], encoded or None,
      readable or None)`.
    logits: `(params, states [..., D]) -> float32 [..., V]`.
  """

  states: Callable[..., tuple]
  logits: Callable[..., base.Array]


def teacher_of(module: Any) -> Teacher:
  """`Teacher` of a T5 or decoder module."""
  return Teacher(
    functools.partial(objectives.states, module), objectives.projection(module)
  )


def rows_of(
  teacher: Teacher,
  frozen: base.PyTree,
  batch: dict,
  noise: float = 0.0,
  key: base.Array | None = None,
) -> Rows:
  """`Rows` of a batch of `packing`; with a key, features are moved by noise."""
  known, encoded, readable = lax.stop_gradient(teacher.states(frozen, batch))
  is_pairs = 'source' in batch
  segments = batch['target_segments' if is_pairs else 'segments']
  positions = block_mask.places(segments) if is_pairs else batch['positions']
  # In:  known [h0 h1 h2 h3 h4], positions [0 1 2 0 1] of two documents
  # Out: features [0 h0 h1 0 h3]
  before = jnp.pad(known, ((0, 0), (1, 0), (0, 0)))[:, :-1]
  features = jnp.where((positions > 0)[..., None], before, 0)
  if key is not None and noise:
    moved = jax.random.uniform(key, features.shape, minval=-1.0, maxval=1.0)
    features = features + noise * moved.astype(features.dtype)
  return Rows(
    tokens=batch['target_in' if is_pairs else 'tokens'],
    target=batch['target'],
    segments=segments,
    positions=positions,
    mask=objectives.loss_mask(batch),
    features=features,
    known=known,
    encoded=encoded,
    readable=readable,
  )


class Part(NamedTuple):
  """Chunks of groups that go equally deep.

  Attributes:
    first, count: number of the first chunk, and how many chunks.
    depth: masks that each of their groups has.
  """

  first: int
  count: int
  depth: int


def kept_groups(anchors: int, settings: Any, num_draft: int) -> list[int]:
  """Numbers of a row's groups that reach depth 1, 2, ..., num_draft - 1."""
  # In:  8 anchors, keep 0.5, keep_least 0.2, num_draft 5
  # Out: shares [0.5 0.25 0.2 0.2], groups [4 2 2 2]
  shares = [
    max(settings.keep**d, settings.keep_least) for d in range(1, num_draft)
  ]
  if settings.keep == 1:
    shares = [1.0] * (num_draft - 1)
  return [max(1, math.ceil(anchors * share)) for share in shares]


def plan(kept: list[int], chunk: int) -> list[Part]:
  """Cuts ranked groups into chunks; group r reaches depth d if r < kept[d - 1].

  A kept slot's earlier slots of its group are so kept too.
  """
  # In:  kept [6 2 2], chunk 2: groups 0 and 1 reach depth 3, 2 to 5 depth 1
  # Out: Part(first=0, count=1, depth=3), Part(first=1, count=2, depth=1)
  parts = []
  for index in range(-(-kept[0] // chunk) if kept else 0):
    depth = sum(n > index * chunk for n in kept)
    if parts and parts[-1].depth == depth:
      parts[-1] = parts[-1]._replace(count=parts[-1].count + 1)
    else:
      parts.append(Part(index, 1, depth))
  return parts


def choose_anchors(
  segments: base.Array, count: int, key: base.Array | None = None
) -> base.Array:
  """Distinct anchors a row, int32 [B, count], in random order, real ones first.

  Without a key they are the same every time.
  """
  key = jax.random.key(0) if key is None else key
  # In:  segments [1 1 2 0], random numbers [0.3 0.9 0.5 0.8], count 3
  # Out: [1 2 0], by the scores [0.3 0.9 0.5 -0.2]
  score = jax.random.uniform(key, segments.shape) - (segments == 0)
  return lax.top_k(score, count)[1].astype(jnp.int32)


def at(rows: base.Array, index: base.Array) -> base.Array:
  """rows[b, index[b, i]] for rows [B, N, ...], clipped at the end."""
  index = index.reshape(*index.shape, *([1] * (rows.ndim - 2)))
  return jnp.take_along_axis(rows, index, axis=1, mode='clip')


def is_valid(rows: Rows, anchor: base.Array, where: base.Array) -> base.Array:
  """bool: whether a slot that predicts the token after `where` carries loss."""
  # In:  segments [1 1 2 2], all with loss, anchor [1 1 2], where [1 2 3]
  # Out: [1 0 1]; index 2 is another document's
  inside = where < rows.segments.shape[1]
  mine, there = at(rows.segments, anchor), at(rows.segments, where)
  return inside & (mine == there) & (mine > 0) & at(rows.mask, where)
