"""Objectives of drafters that fill slots: masks with glancing, or heads.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
  Stern et al. Blockwise parallel decoding. NeurIPS 2018.
    https://arxiv.org/abs/1811.03115
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from specjax import models
from specjax.training import losses
from specjax.training import objectives
from specjax.training import step as step_lib
from specjax.training.families import block_mask
from specjax.training.families.family import TrainingInputs


class _Task(NamedTuple):
  """Static inputs of both losses.

  Attributes:
    module: the network.
    spec: sizes of the examples.
    output_ids: tokens that the head scores; () for all.
    vocab_size: V.
    smoothing: label smoothing in training.
    reveal: step [B, 1] -> share of the wrong guesses that glancing shows.
  """

  module: Any
  spec: block_mask.Spec
  output_ids: tuple
  vocab_size: int
  smoothing: float
  reveal: Callable


def objective(
  given: TrainingInputs, made: Any, module: Any
) -> step_lib.Objective:
  """The objective of a drafter that fills slots.

  Its loss counts the labelled masks; the sums are 'accuracy' over them and, in
  training, 'revealed', how many labels glancing showed.

  Args:
    given: models and settings of the run.
    made: config of the network.
    module: Flax module of the network.
  """
  config, settings = given.config, given.options
  is_heads = config.model.family == 'blockwise'
  task = _Task(
    module,
    block_mask.Spec(
      block=settings.block,
      block_min=settings.block_min or settings.block,
      window=settings.window,
      max_positions=(
        config.data.target_length if is_heads else made.max_positions
      ),
      mask_id=made.vocab_size,
      cuts=settings.cuts,
    ),
    made.output_ids,
    made.vocab_size,
    config.objective.label_smoothing,
    lambda step: block_mask.reveal_ratio(
      step, config.steps, settings.reveal_first, settings.reveal_last
    ),
  )
  loss = functools.partial(_glancing_loss, task)
  if is_heads:
    teacher = objectives.network_of(given.teacher.config, given.teacher.module)
    loss = functools.partial(_heads_loss, task, teacher)
  return step_lib.Objective(functools.partial(models.init_params, made), loss)


def _scored(task, logits, cuts, mask, training):
  """(loss, weight, right guesses), sums over labelled slots."""
  labels = cuts.labels
  if task.output_ids:
    ids = jnp.asarray(task.output_ids, jnp.int32)
    labels, known = objectives.place_of(labels, ids, task.vocab_size)
    # A label that the reduced head cannot score teaches nothing: its loss would
    # be infinite.
    mask = mask & known
  smooth = task.smoothing if training else 0.0
  values = losses.cross_entropy(logits, labels, mask, smooth)
  right = (jnp.argmax(logits, -1) == labels) & mask
  return (
    jnp.sum(values),
    jnp.sum(mask.astype(jnp.float32)),
    jnp.sum(right.astype(jnp.float32)),
  )


def _glancing_loss(task, params, frozen, batch, key):
  """Loss of a Spec-Drafter; in training some of its wrong guesses are shown."""
  del frozen
  training = key is not None
  keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
  cuts = block_mask.examples(batch, keys[0], task.spec)
  run = passes(task.module, params, batch, cuts, keys[2:] if training else None)
  sums = {}
  if training:
    # Two passes a step: the first finds which guesses are wrong, the second is
    # trained with some of these shown. Only the second has gradients.
    guess = jax.lax.stop_gradient(jnp.argmax(run(cuts), -1))
    if task.output_ids:
      guess = jnp.asarray(task.output_ids, jnp.int32)[guess]
    before = jnp.sum(cuts.labelled)
    ratio = task.reveal(batch['step'][:, None])
    cuts = block_mask.reveal(cuts, guess, ratio, keys[1])
    shown = before - jnp.sum(cuts.labelled)
    sums['revealed'] = shown.astype(jnp.float32)
  total, weight, right = _scored(task, run(cuts), cuts, cuts.labelled, training)
  return total, weight, sums | {'accuracy': right}


def _heads_loss(task, teacher, params, frozen, batch, key):
  """Loss of heads on the target's last state."""
  training = key is not None
  base_key = jax.random.key(0) if key is None else key
  cuts = block_mask.examples(batch, base_key, task.spec)
  states = jax.lax.stop_gradient(teacher.hidden(frozen, batch, None))
  # before -1 means that nothing was verified yet, and then there is no state;
  # place 0 is read and masked.
  at = jnp.maximum(cuts.before, 0)[..., None]
  states = jnp.take_along_axis(states, at, axis=1)
  logits = task.module.apply({'params': params}, states, task.spec.block)
  mask = cuts.labelled & (cuts.before >= 0)[..., None]
  total, weight, right = _scored(task, logits, cuts, mask, training)
  return total, weight, {'accuracy': right}


def passes(
  module: Any, params: Any, batch: dict, cuts: Any, keys: Any
) -> Callable:
  """`(examples) -> logits [B, C, K, V]`; encodes once.

  Every pass draws the same dropout, so that glancing evaluates the network that
  is then trained.
  """
  source = batch['source_segments']
  same = source[:, :, None] == source[:, None, :]
  rest = dict(deterministic=keys is None)
  rngs = [None, None]
  if keys is not None:
    rngs = [{'dropout': key} for key in keys]
  rows, count, size = cuts.tokens.shape
  slots = cuts.labels.shape[-1]
  # In:  segment [[2 0]] of two cuts, source_segments [[1 1 2 0]]
  # Out: [[[0 0 1 0]
  #        [1 1 1 1]]]
  # An empty row may read everything, so that no softmax is over nothing.
  mask = cuts.segment[..., None] == source[:, None, :]
  mask |= cuts.segment[..., None] == 0
  place = block_mask.places(source)

  def encode(net):
    encoded = net.encode(batch['source'], same, **rest)
    positions = cuts.positions[..., size - slots :].reshape(rows, -1)
    content = net.masked_content(
      batch['source'], place, positions, jnp.repeat(mask, slots, axis=1)
    )
    return net.project_source(encoded), content.reshape(rows * count, slots, -1)

  variables = {'params': params}
  pairs, content = module.apply(variables, method=encode, rngs=rngs[0])

  def run(cuts):
    def flat(x):
      return x.reshape(rows * count, size)

    def decode(net):
      states = net.decode(
        flat(cuts.tokens),
        flat(cuts.positions),
        flat(cuts.valid),
        content,
        (pairs, mask),
        slots,
        **rest,
      )
      return net.logits_from_hidden(states)

    out = module.apply(variables, method=decode, rngs=rngs[1])
    return out.reshape(rows, count, slots, -1)

  return run
