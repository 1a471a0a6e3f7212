"""Group-wise training: every position of a row with its own group of masks.

Slots (anchor, depth) follow the rule of `models.speculator.modeling`. Real
slots are run once for the whole row. Groups of masks then read the kept keys
and values, a chunk of groups at a time, so that long rows need bounded memory.
A slot counts if its label carries loss and lies in its anchor's segment.

References:
  Xiao et al. ParallelSpec. 2024. https://arxiv.org/abs/2410.05589
  An et al. PARD (conditional drop-token). 2025.
    https://arxiv.org/abs/2504.18583
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from specjax import models
from specjax.models.common import cache as cache_lib
from specjax.models.speculator import modeling as network_lib
from specjax.training import objectives
from specjax.training import settings as settings_lib
from specjax.training import step as step_lib
from specjax.training.families import speculator_options
from specjax.training.families import speculator_rows
from specjax.training.families.speculator_rows import at
from specjax.training.families.speculator_rows import is_valid


class _Task(NamedTuple):
  """Static inputs of the loss.

  Attributes:
    module: the network.
    teacher: the target.
    settings: `SpeculatorTraining`.
    learning: `ObjectiveConfig`.
  """

  module: network_lib.Parallel
  teacher: speculator_rows.Teacher
  settings: speculator_options.SpeculatorTraining
  learning: settings_lib.ObjectiveConfig


class _Step(NamedTuple):
  """Traced inputs of one loss.

  Attributes:
    bound: the network's parameters, with the target's tables.
    frozen: the target's parameters.
    rows: `Rows` of the batch.
    keys: PRNG keys of noise, dropout and anchors; None in evaluation.
  """

  bound: Any
  frozen: Any
  rows: speculator_rows.Rows
  keys: tuple


def objective(
  config: models.ParallelConfig,
  teacher_module: Any,
  settings: speculator_options.SpeculatorTraining,
  learning: settings_lib.ObjectiveConfig,
) -> step_lib.Objective:
  """Trains a drafter network for every position and depth of a row.

  Args:
    config: config of the network.
    teacher_module: the target's module; the loss's `frozen` are its parameters.
    settings: `SpeculatorTraining`.
    learning: `ObjectiveConfig`; 'cross_entropy' has the data's tokens as
      labels, the others the target's distribution at the predicted position.

  Returns:
    `Objective`. The loss is the mean over slots, weighted by depth; with fewer
    groups than positions its expectation is that of all of them. Its sums are
    'acceptance' (1 - TV) and 'agreement' (of the argmaxes), weighted alike,
    and 'acceptance_d' for each depth d from 1 to K.
  """
  task = _Task(
    network_lib.Parallel(config),
    speculator_rows.teacher_of(teacher_module),
    settings,
    learning,
  )
  weights = jnp.asarray(
    [settings.depth_decay**d for d in range(config.num_draft)], jnp.float32
  )

  def loss(params, frozen, batch, key):
    keys = (None, None, None) if key is None else jax.random.split(key, 3)
    rows = speculator_rows.rows_of(
      task.teacher, frozen, batch, settings.feature_noise, keys[0]
    )
    bound = network_lib.bind(config, params, frozen)
    step = _Step(bound, frozen, rows, tuple(keys))
    found = (_heads_pass if config.is_heads else _trunk_pass)(task, step)
    return _totals(config, rows, weights, found)

  return step_lib.Objective(functools.partial(network_lib.init, config), loss)


def _score(task, step, state, where, valid):
  """Scores of slots with final states [B, S, D]: dict of [B, S]."""
  module, settings = task.module, task.settings
  known, labels = at(step.rows.known, where), at(step.rows.target, where)
  draft = module.apply(
    {'params': step.bound}, state, method='logits_from_hidden'
  )
  whole = lax.stop_gradient(task.teacher.logits(step.frozen, known))
  values, near, agree = objectives.compare(
    task.learning,
    draft,
    whole,
    labels,
    valid,
    output_ids=module.config.output_ids,
    training=step.keys[1] is not None,
  )
  if settings.feature_weight:
    apart = (state - known).astype(jnp.float32)
    apart = jnp.where(valid[..., None], apart, 0.0)
    size = jnp.abs(apart)
    smooth = jnp.where(size < 1, 0.5 * size * size, size - 0.5)
    values = values + settings.feature_weight * jnp.mean(smooth, axis=-1)
  return {
    'value': values,
    'acceptance': jnp.where(valid, near, 0.0),
    'agreement': jnp.where(valid, agree, False).astype(jnp.float32),
    'count': valid.astype(jnp.float32),
  }


def _heads_pass(task, step):
  """Sums by depth, dict of [K], of Medusa's heads."""
  module, rows = task.module, step.rows
  size = module.config.num_draft
  place = jnp.arange(rows.tokens.shape[1], dtype=jnp.int32)
  place = jnp.broadcast_to(place, rows.tokens.shape)

  def sums(part):
    anchor, feature = part
    state = module.apply({'params': step.bound}, feature, method='head_states')
    batch, count = anchor.shape
    where = (anchor[..., None] + jnp.arange(size)).reshape(batch, -1)
    whose = jnp.repeat(anchor, size, axis=1)
    # The first token of a document has no state to draft from.
    valid = is_valid(rows, whose, where) & (at(rows.positions, whose) > 0)
    state = state.reshape(batch, count * size, -1)
    made = _score(task, step, state, where, valid)
    return {
      k: jnp.sum(v.reshape(-1, count, size), (0, 1)) for k, v in made.items()
    }

  return objectives.sum_chunks(
    task.learning.chunk, sums, (place, rows.features)
  )


def _applied(task, step):
  """(the module on the bound parameters, whether without dropout)."""
  drop = {} if step.keys[1] is None else {'dropout': step.keys[1]}
  apply = functools.partial(
    task.module.apply, {'params': step.bound}, rngs=drop
  )
  return apply, not drop


def _trunk_pass(task, step):
  """Sums by depth, dict of [K], of a network with layers."""
  config, settings, rows = task.module.config, task.settings, step.rows
  apply, deterministic = _applied(task, step)
  count = rows.tokens.shape[1]
  real = real_states(config, apply, rows, deterministic=deterministic)

  def first_depth(part):
    return {k: jnp.sum(v) for k, v in _score(task, step, *part).items()}

  place = jnp.arange(count, dtype=jnp.int32)[None]
  where = jnp.broadcast_to(place, rows.tokens.shape)
  found = objectives.sum_chunks(
    task.learning.chunk,
    first_depth,
    (real.state, where, is_valid(rows, where, where)),
  )
  found = {k: v[None] for k, v in found.items()}
  if config.num_draft == 1 or not config.masks:
    return found
  anchors = min(settings.anchors or count, count)
  ranks = speculator_rows.kept_groups(anchors, settings, config.num_draft)
  size = min(settings.anchor_chunk or anchors, anchors)
  chosen = where
  if anchors < count or settings.keep < 1:
    chosen = speculator_rows.choose_anchors(
      rows.segments, anchors, step.keys[2]
    )
  groups = functools.partial(_group_sums, task, step, real, ranks)
  parts = speculator_rows.plan(ranks, size)
  deeper = _over_chunks(groups, chosen, parts, size, config)
  return {k: jnp.concatenate([v, deeper[k]]) for k, v in found.items()}


def _over_chunks(groups, chosen, parts, size, config):
  """Adds up `groups` over all chunks: dict of [K - 1]."""
  batch, anchors = chosen.shape
  total = None
  for first, count, depth in parts:
    ranks = jnp.arange(first * size, (first + count) * size, dtype=jnp.int32)
    rows = jnp.take(chosen, jnp.minimum(ranks, anchors - 1), axis=1)
    rows = jnp.moveaxis(rows.reshape(batch, count, size), 1, 0)
    call = jax.checkpoint(functools.partial(groups, depth=depth))
    if count == 1:
      made = call((rows[0], ranks))
    else:
      made = lax.map(call, (rows, ranks.reshape(count, size)))
      made = jax.tree.map(lambda x: jnp.sum(x, 0), made)
    made = {
      k: jnp.pad(v, (0, config.num_draft - 1 - depth)) for k, v in made.items()
    }
    total = made if total is None else jax.tree.map(jnp.add, total, made)
  return total


class Real(NamedTuple):
  """Results of the real slots of rows, which masks read.

  Attributes:
    state: [B, N, D], final states.
    kept: (keys, values) of each layer.
    sources: (keys, values) of the encoded source, or None.
  """

  state: Any
  kept: tuple
  sources: Any


def real_states(
  config: Any, apply: Callable, rows: Any, *, deterministic: bool = True
) -> Real:
  """Runs the slots of depth 0; `apply(*args, method=name)` runs the module."""
  place = jnp.arange(rows.tokens.shape[1], dtype=jnp.int32)[None]
  real = (place, jnp.zeros_like(place))
  sources = None
  if config.encoder_width:
    sources = apply(rows.encoded, method='project_source')
  state, kept = apply(
    apply(rows.tokens, real[1], rows.features, method='inputs'),
    rows.positions,
    network_lib.slot_mask(real, real, rows.segments),
    sources=sources,
    source_mask=rows.readable,
    deterministic=deterministic,
    method='run',
  )
  return Real(state, kept, sources)


def group_states(
  apply: Callable,
  rows: Any,
  real: Real,
  anchors: jax.Array,
  depth: int,
  *,
  deterministic: bool = True,
) -> jax.Array:
  """Final states [B, C * depth, D] of the masks behind anchors int32 [B, C].

  Slots stand by group, then by depth. Anchors 3 and 7 with depth 2 have the
  slots (3, 1) (3, 2) (7, 1) (7, 2).
  """
  batch, count = rows.tokens.shape
  depths = jnp.arange(1, depth + 1, dtype=jnp.int32)
  level = jnp.tile(depths, (batch, anchors.shape[1]))
  anchor = jnp.repeat(anchors, depth, axis=1)
  place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (batch, count))
  key = (
    jnp.concatenate([place, anchor], axis=1),
    jnp.concatenate([jnp.zeros_like(place), level], axis=1),
  )
  width = count + anchor.shape[1]
  start = jnp.full((batch,), count, jnp.int32)
  grown = [cache_lib.grow(pair, width) for pair in real.kept]
  features = at(rows.features, anchor)
  state, _ = apply(
    apply(jnp.zeros_like(anchor), level, features, method='inputs'),
    at(rows.positions, anchor) + level,
    network_lib.slot_mask((anchor, level), key, rows.segments),
    pasts=tuple(cache_lib.Past(*pair, start) for pair in grown),
    sources=real.sources,
    source_mask=None if real.sources is None else at(rows.readable, anchor),
    deterministic=deterministic,
    method='run',
  )
  return state


def _group_sums(task, step, real, ranks, part, *, depth):
  """Sums by depth of one chunk of groups: dict of [depth].

  `part` is (anchors int32 [B, C], their ranks int32 [C]).
  """
  (anchors, order), rows = part, step.rows
  batch, size = anchors.shape
  apply, deterministic = _applied(task, step)
  state = group_states(
    apply, rows, real, anchors, depth, deterministic=deterministic
  )
  where = anchors[:, :, None] + jnp.arange(1, depth + 1, dtype=jnp.int32)
  where = where.reshape(batch, -1)
  reached = order[:, None] < jnp.asarray(ranks[:depth])
  whose = jnp.repeat(anchors, depth, axis=1)
  valid = is_valid(rows, whose, where) & reached.reshape(1, -1)
  made = _score(task, step, state, where, valid)
  return {
    k: jnp.sum(v.reshape(batch, size, depth), (0, 1)) for k, v in made.items()
  }


def _totals(config, rows, weights, found):
  """(total, weight, sums) of an objective, from sums by depth."""
  place = jnp.arange(rows.tokens.shape[1], dtype=jnp.int32)
  place = jnp.broadcast_to(place, rows.tokens.shape)
  depths = found['count'].shape[0]
  first = 1 if config.is_heads else 0
  every = jnp.stack(
    [
      jnp.sum(
        is_valid(rows, place, place + d) & (rows.positions >= first),
        dtype=jnp.float32,
      )
      for d in range(depths)
    ]
  )
  # Slots that were not drawn count as the mean of those drawn at their depth.
  scale = weights[:depths] * every / jnp.maximum(found['count'], 1.0)
  weight = jnp.sum(weights[:depths] * every)
  sums = {k: jnp.sum(scale * found[k]) for k in ('acceptance', 'agreement')}
  # A depth that no row reaches has weight 0, and no rate.
  by_depth = zip(found['acceptance'], found['count'], strict=True)
  sums |= {f'acceptance_{d}': pair for d, pair in enumerate(by_depth, 1)}
  return jnp.sum(scale * found['value']), weight, sums
