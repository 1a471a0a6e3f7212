"""Objectives: how a model's parameters and a batch become a loss.

A `Network` is what an objective needs to know of a model; `t5_network` and
`decoder_network` make one. `cross_entropy_objective` trains a target,
`distillation_objective` a drafter. Both compute final states for whole rows
and logits for a chunk of positions at a time.

References:
  Zhou et al. DistillSpec: improving speculative decoding via knowledge
    distillation. ICLR 2024. https://arxiv.org/abs/2310.08461
"""

from typing import Any, Callable, NamedTuple, Optional

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.training import config as config_lib
from specjax.training import losses
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


def _same(query_segments, key_segments):
  """bool [B, T, S]: may this query read this key?"""
  return query_segments[:, :, None] == key_segments[:, None, :]


def _apply(module, params, call, key):
  rngs = None if key is None else {'dropout': key}
  return module.apply({'params': params}, method=call, rngs=rngs)


def _logits(module):
  def logits(params, hidden):
    return module.apply({'params': params}, hidden, method='logits_from_hidden')

  return logits


def t5_network(module: Any) -> Network:
  """`Network` of a T5 over the batches of `packing.pair_rows`."""

  def run(params, batch, key):
    source, target = batch['source_segments'], batch['target_segments']

    def call(net):
      rest = dict(deterministic=key is None)
      encoded = net.encode(batch['source'], _same(source, source), **rest)
      return net.decode(
        encoded,
        _same(target, source),
        batch['target_in'],
        target_mask=_same(target, target),
        **rest,
      )[0]

    return _apply(module, params, call, key)

  def init(key):
    ids = jnp.zeros((1, 2), jnp.int32)
    return module.init(key, ids, ids == 0, ids)['params']

  return Network(init, run, _logits(module))


def decoder_network(module: Any) -> Network:
  """`Network` of a decoder-only model over `packing.text_rows`."""

  def run(params, batch, key):
    def call(net):
      return net.hidden(
        batch['tokens'],
        positions=batch['positions'],
        segment_ids=batch['segments'],
        deterministic=key is None,
      )

    return _apply(module, params, call, key)

  def init(key):
    return module.init(key, jnp.zeros((1, 2), jnp.int32))['params']

  return Network(init, run, _logits(module))


def loss_mask(batch: dict) -> base.Array:
  """bool [B, T], the positions that carry loss."""
  if 'weight' in batch:
    return batch['weight'] > 0
  return batch['target_segments'] > 0


def _sum_chunks(chunk: int, function: Callable, arrays: Any) -> Any:
  """Sums `function(chunk of arrays)` over chunks of the second axis.

  The logits of a chunk are recomputed in the backward pass, so only one
  chunk's exist at any time.

  Args:
    chunk: positions a chunk; 0 takes all at once. The axis is padded with
      zeros (False in masks) to a multiple.
    function: arrays -> pytree of scalars.
    arrays: pytree of [B, T, ...].
  """
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

  sums = lax.map(jax.checkpoint(function), jax.tree.map(split, arrays))
  return jax.tree.map(lambda x: jnp.sum(x, 0), sums)


def cross_entropy_objective(
  network: Network, config: config_lib.ObjectiveConfig
) -> step_lib.Objective:
  """Trains a model on the tokens of the data."""

  def loss(params, frozen, batch, key):
    del frozen
    hidden = network.hidden(params, batch, key)

    def sums(part):
      hidden, labels, mask = part
      logits = network.logits(params, hidden)
      smooth = config.label_smoothing if key is not None else 0.0
      values = losses.cross_entropy(logits, labels, mask, smooth)
      right = (jnp.argmax(logits, -1) == labels) & mask
      return {
        'total': jnp.sum(values),
        'accuracy': jnp.sum(right.astype(jnp.float32)),
      }

    mask = loss_mask(batch)
    out = _sum_chunks(config.chunk, sums, (hidden, batch['target'], mask))
    total = out.pop('total')
    return total, jnp.sum(mask.astype(jnp.float32)), out

  return step_lib.Objective(network.init, loss)


def distillation_objective(
  network: Network,
  teacher: Network,
  config: config_lib.ObjectiveConfig,
  kept_ids: Optional[base.Array] = None,
) -> step_lib.Objective:
  """Trains a drafter to speak like its target.

  Args:
    network: the drafter's.
    teacher: the target's; its parameters are the `frozen` of the loss.
    config: `ObjectiveConfig`.
    kept_ids: int32 [V'] where the drafter's head knows only these tokens, in
      this order; the teacher's other tokens then have no drafter probability.
      None for a whole vocabulary.

  Returns:
    `Objective`; its sums are 'acceptance' (of plain sampling at the
    objective's temperature, 1 - TV) and 'agreement' (of the two argmaxes).
  """

  def loss(params, frozen, batch, key):
    hidden = network.hidden(params, batch, key)
    known = lax.stop_gradient(teacher.hidden(frozen, batch, None))

    def sums(part):
      hidden, known, labels, mask = part
      draft = network.logits(params, hidden)
      target = lax.stop_gradient(teacher.logits(frozen, known))
      width = min(draft.shape[-1], target.shape[-1])
      if kept_ids is None:
        draft, target = draft[..., :width], target[..., :width]
      else:
        draft = spread(draft, kept_ids, target.shape[-1])
      options = dict(
        beta=config.beta,
        label_smoothing=config.label_smoothing if key is not None else 0.0,
      )
      values = losses.token_divergence(
        config.name,
        target,
        draft,
        mask,
        config.temperature,
        labels=labels if config.name == 'cross_entropy' else None,
        **options,
      )
      if config.hard_weight:
        hard = losses.cross_entropy(draft, labels, mask)
        values = (1 - config.hard_weight) * values + config.hard_weight * hard
      far = losses.token_divergence(
        'total_variation',
        target,
        lax.stop_gradient(draft),
        mask,
        config.temperature,
      )
      agree = (jnp.argmax(draft, -1) == jnp.argmax(target, -1)) & mask
      near = jnp.where(mask, 1 - far, 0.0)
      return {
        'total': jnp.sum(values),
        'acceptance': jnp.sum(near),
        'agreement': jnp.sum(agree.astype(jnp.float32)),
      }

    mask = loss_mask(batch)
    out = _sum_chunks(
      config.chunk, sums, (hidden, known, batch['target'], mask)
    )
    total = out.pop('total')
    return total, jnp.sum(mask.astype(jnp.float32)), out

  return step_lib.Objective(network.init, loss)


def spread(
  logits: base.Array, kept_ids: base.Array, vocab_size: int
) -> base.Array:
  """Logits [..., V'] of a reduced head to [..., V], the rest practically -inf.

  Finite, so that divergences from a target that uses other tokens stay
  finite and their gradients defined.
  """
  out = jnp.full((*logits.shape[:-1], vocab_size), -1e4, logits.dtype)
  return out.at[..., kept_ids].set(logits)
