"""Objectives: how a model's parameters and a batch become a loss.

A `Network` holds the functions of a model that an objective calls.
`cross_entropy_objective` trains a target, `distillation_objective` a drafter.
Both compute final states for whole rows and logits for a chunk of positions at
a time.

References:
  Zhou et al. DistillSpec: improving speculative decoding via knowledge
    distillation. ICLR 2024. https://arxiv.org/abs/2310.08461
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.models import registry
from specjax.training import losses
from specjax.training import settings as settings_lib
from specjax.training import step as step_lib


class Network(NamedTuple):
  """A model as training sees it.

  Attributes:
    init: `(key) -> params`.
    hidden: `(params, batch, key or None) -> [B, T, D]`, final states at every
      target position, with dropout where there is a key.
    logits: `(params, hidden [..., D]) -> float32 [..., V]`.
  """

  init: Callable[..., base.PyTree]
  hidden: Callable[..., base.Array]
  logits: Callable[..., base.Array]


def same_segment(
  query_segments: base.Array, key_segments: base.Array
) -> base.Array:
  """Returns bool [B, T, S], True where query and key share a segment."""
  return query_segments[:, :, None] == key_segments[:, None, :]


def states(
  module: Any,
  params: base.PyTree,
  batch: dict,
  key: base.Array | None = None,
) -> tuple[base.Array, base.Array | None, base.Array | None]:
  """A model's forward pass over a batch of packed rows.

  Args:
    module: a T5 over the batches of `packing.pair_rows`, or a decoder-only
      model over those of `packing.text_rows`.
    params: its parameters.
    batch: arrays of the batch, with `source` for a T5.
    key: PRNG key of dropout; None for no dropout.

  Returns:
    Final states [B, T, D] at every target position; of a T5 also the encoded
    source [B, S, D] and which of it each position may read, bool [B, T, S].
  """
  rest = dict(deterministic=key is None)

  def pairs(net):
    source, target = batch['source_segments'], batch['target_segments']
    readable = same_segment(target, source)
    encoded = net.encode(batch['source'], same_segment(source, source), **rest)
    (state,) = net.decode(
      encoded,
      readable,
      batch['target_in'],
      target_mask=same_segment(target, target),
      **rest,
    )
    return state, encoded, readable

  def text(net):
    state = net.hidden(
      batch['tokens'],
      positions=batch['positions'],
      segment_ids=batch['segments'],
      **rest,
    )
    return state, None, None

  rngs = None if key is None else {'dropout': key}
  # The batch decides and not the config, so that a caller need not know the
  # kind of model.
  call = pairs if 'source' in batch else text
  return module.apply({'params': params}, method=call, rngs=rngs)


def projection(module: Any) -> Callable[..., base.Array]:
  """`(params, states [..., D]) -> float32 logits [..., V]` of a module."""

  def logits(params, hidden):
    return module.apply({'params': params}, hidden, method='logits_from_hidden')

  return logits


def network_of(config: Any, module: Any) -> Network:
  """`Network` of a language model.

  Args:
    config: config of its model family.
    module: its Flax module; see `ModelFamily.network`.
  """

  def hidden(params, batch, key):
    return states(module, params, batch, key)[0]

  init = functools.partial(registry.family_of(config).init, config)
  return Network(init, hidden, projection(module))


def loss_mask(batch: dict) -> base.Array:
  """bool [B, T], the positions that carry loss."""
  if 'weight' in batch:
    return batch['weight'] > 0
  return batch['target_segments'] > 0


def sum_chunks(chunk: int, function: Callable, arrays: Any) -> Any:
  """Sums `function(chunk of arrays)` over chunks of the second axis.

  The logits of a chunk are recomputed in the backward pass, so only one
  chunk's exist at any time.

  Args:
    chunk: positions a chunk; 0 takes all at once. The axis is padded with
      zeros (False in masks) to a multiple.
    function: arrays -> pytree of scalars.
    arrays: pytree of [B, T, ...].
  """
  # In:  chunk 2, one array [[a b c d e]]
  # Out: f([[a b]]) + f([[c d]]) + f([[e 0]])
  length = jax.tree.leaves(arrays)[0].shape[1]
  if not chunk or chunk >= length:
    return function(arrays)
  count = -(-length // chunk)

  def split(x):
    widths = [(0, 0)] * x.ndim
    widths[1] = (0, count * chunk - length)
    x = jnp.pad(x, widths)
    x = x.reshape(x.shape[0], count, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  # A loop that is compiled once, whatever the number of chunks: unrolled, long
  # rows would take minutes to compile.
  sums = lax.map(jax.checkpoint(function), jax.tree.map(split, arrays))
  return jax.tree.map(lambda x: jnp.sum(x, 0), sums)


def cross_entropy_objective(
  network: Network,
  config: settings_lib.ObjectiveConfig,
  output_ids: tuple = (),
) -> step_lib.Objective:
  """Trains a model on the tokens of the data.

  Args:
    network: the model's.
    config: its chunk and label smoothing.
    output_ids: tokens that the head scores, in the order of its logits; () for
      all. Labels among the others are skipped and count as missed.

  Returns:
    `Objective`; its sum is 'accuracy', the labels that are the argmax.
  """

  def loss(params, frozen, batch, key):
    del frozen
    hidden = network.hidden(params, batch, key)

    def sums(part):
      hidden, labels, mask = part
      logits = network.logits(params, hidden)
      if output_ids:
        # A table up to the largest id will do: labels beyond it fall out of the
        # table and count as unknown.
        ids = jnp.asarray(output_ids, jnp.int32)
        labels, known = place_of(labels, ids, 1 + max(output_ids))
        mask = mask & known
      smooth = config.label_smoothing if key is not None else 0.0
      values = losses.cross_entropy(logits, labels, mask, smooth)
      right = (jnp.argmax(logits, -1) == labels) & mask
      return {
        'total': jnp.sum(values),
        'accuracy': jnp.sum(right.astype(jnp.float32)),
      }

    mask = loss_mask(batch)
    out = sum_chunks(config.chunk, sums, (hidden, batch['target'], mask))
    total = out.pop('total')
    return total, jnp.sum(mask.astype(jnp.float32)), out

  return step_lib.Objective(network.init, loss)


def compare(
  config: settings_lib.ObjectiveConfig,
  draft: base.Array,
  whole: base.Array,
  labels: base.Array,
  mask: base.Array,
  *,
  output_ids: tuple,
  training: bool,
) -> tuple[base.Array, base.Array, base.Array]:
  """Compares a drafter's logits with the target's.

  Args:
    config: `ObjectiveConfig`.
    draft: [..., V'], one logit for each of `output_ids`.
    whole: [..., V], the target's.
    labels: int32 [...].
    mask: bool [...].
    output_ids: as in `distillation_objective`.
    training: whether labels are smoothed.

  Returns:
    The loss [...], 0 where masked; the acceptance rate and whether the two
    argmaxes agree, [...] each, anything where masked.
  """
  # p below is normalised over all tokens: those without a logit are rejected.
  ids = jnp.asarray(output_ids or range(draft.shape[-1]), jnp.int32)
  target = whole[..., ids] if output_ids else whole[..., : ids.size]
  labels, has_label = place_of(labels, ids, whole.shape[-1])
  hard_mask = mask & has_label
  is_hard = config.name == 'cross_entropy'
  values = losses.token_divergence(
    config.name,
    target,
    draft,
    hard_mask if is_hard else mask,
    config.temperature,
    labels=labels if is_hard else None,
    beta=config.beta,
    label_smoothing=config.label_smoothing if training else 0.0,
  )
  if config.hard_weight:
    hard = losses.cross_entropy(draft, labels, hard_mask)
    values = (1 - config.hard_weight) * values + config.hard_weight * hard
  # p [.5 .3 .2], q [.6 .4 0]: sampling accepts .5 + .3 + 0 = .8 of the drafts.
  q = jax.nn.softmax(lax.stop_gradient(draft) / config.temperature)
  p = jax.nn.softmax(whole / config.temperature)[..., ids]
  near = jnp.sum(jnp.minimum(p, q), -1)
  agree = ids[jnp.argmax(draft, -1)] == jnp.argmax(whole, -1)
  return values, near, agree


def distillation_objective(
  network: Network,
  teacher: Network,
  config: settings_lib.ObjectiveConfig,
  output_ids: tuple = (),
) -> step_lib.Objective:
  """Trains a drafter on the distribution of its target.

  Args:
    network: the drafter's.
    teacher: the target's; its parameters are the `frozen` of the loss.
    config: `ObjectiveConfig`.
    output_ids: tokens that the drafter's head scores, in the order of its
      logits; () for all. The loss then compares with the target's
      distribution over these tokens, renormalised, and skips labels among the
      others. The metrics count the others as rejected.

  Returns:
    `Objective`; its sums are 'acceptance' (of plain sampling at the
    objective's temperature, 1 - TV) and 'agreement' (of the two argmaxes). A
    training step on labels alone is one of `cross_entropy_objective`, without
    the teacher.
  """
  on_labels = cross_entropy_objective(network, config, output_ids)

  def sums(params, frozen, training, part):
    hidden, known, labels, mask = part
    draft = network.logits(params, hidden)
    whole = lax.stop_gradient(teacher.logits(frozen, known))
    values, near, agree = compare(
      config,
      draft,
      whole,
      labels,
      mask,
      output_ids=output_ids,
      training=training,
    )
    return {
      'total': jnp.sum(values),
      'acceptance': jnp.sum(jnp.where(mask, near, 0.0)),
      'agreement': jnp.sum(jnp.where(mask, agree, False), dtype=jnp.float32),
    }

  def loss(params, frozen, batch, key):
    # Steps alone do without the teacher: an evaluation compares with it.
    if config.name == 'cross_entropy' and key is not None:
      return on_labels.loss(params, frozen, batch, key)
    hidden = network.hidden(params, batch, key)
    known = lax.stop_gradient(teacher.hidden(frozen, batch, None))
    mask = loss_mask(batch)
    out = sum_chunks(
      config.chunk,
      lambda part: sums(params, frozen, key is not None, part),
      (hidden, known, batch['target'], mask),
    )
    total = out.pop('total')
    return total, jnp.sum(mask.astype(jnp.float32)), out

  return step_lib.Objective(network.init, loss)


def place_of(
  labels: base.Array, ids: base.Array, vocab_size: int
) -> tuple[base.Array, base.Array]:
  """Which of `ids`, all below `vocab_size`, each label is, and whether any."""
  # In:  labels [7 4 3], ids [3 5 7]
  # Out: [2 0 0], [1 0 1]
  place = jnp.full((vocab_size,), -1, jnp.int32)
  place = place.at[ids].set(jnp.arange(ids.size, dtype=jnp.int32))
  found = place.at[labels].get(mode='fill', fill_value=-1)
  return jnp.maximum(found, 0), found >= 0
