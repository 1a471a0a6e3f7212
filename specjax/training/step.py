"""One optimiser step, compiled once."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import optax

from specjax import base
from specjax.decoding import precision
from specjax.training import state as state_lib


class Objective(NamedTuple):
  """An objective: initial parameters and a loss.

  Attributes:
    init: `(key) -> params`.
    loss: `(params, frozen, batch, key or None) -> (total, weight, sums)`:
      the loss summed over positions, how many positions it counts, and a dict
      of further sums, each over the same positions or a tuple (sum, its own
      weight); `key` draws dropout and None means evaluation.
      `frozen` holds parameters that are not trained, such as a teacher's.
  """

  init: Callable[..., base.PyTree]
  loss: Callable[..., tuple[base.Array, base.Array, dict]]


def _gradients(objective, in_use, params, frozen, batch, key):
  """Gradient of the summed loss, and the sums."""

  def scalar(params):
    if in_use is not None:
      params = lax.with_sharding_constraint(params, in_use)
    total, weight, sums = objective.loss(params, frozen, batch, key)
    return total, dict(sums, loss=total, weight=weight)

  grads, sums = jax.grad(scalar, has_aux=True)(params)
  return grads, sums


def _accumulated(gradients, parts, params, frozen, batch, key):
  """`gradients` of a batch, a part of its rows at a time."""
  if parts == 1:
    return gradients(params, frozen, batch, key)
  # In:  batch [B, T], parts 2
  # Out: [2, B / 2, T], the first half of the rows and the second
  rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
  keys = jax.random.split(key, parts)
  first = jax.tree.map(lambda x: x[0], (rows, keys))
  shapes = jax.eval_shape(gradients, params, frozen, *first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(carry, part):
    return jax.tree.map(jnp.add, carry, gradients(params, frozen, *part)), None

  # A scan keeps the activations of one part alive, which is the purpose; an
  # unrolled sum lets the compiler interleave the parts.
  return lax.scan(add, zeros, (rows, keys))[0]


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  ema: float = 0.0,
  accumulation: int = 1,
  matmul_precision: str = precision.DEFAULT,
  shardings: base.PyTree = None,
  in_use: base.PyTree = None,
) -> Callable[..., tuple]:
  """Makes the compiled step.

  Args:
    objective: `Objective`.
    optimizer: the gradient transformation.
    seed: seed of dropout. Step s uses fold_in(key(seed), s) and nothing else,
      so a resumed run draws the same noise.
    ema: decay of the averaged weights, 0 where the state keeps none.
    accumulation: the batch is cut into this many parts along the rows, whose
      gradients are added before one update; the result is that of the whole
      batch, because the loss is divided by the positions of all parts.
    matmul_precision: precision of float32 products, see `precision`.
    shardings: shardings of the state; None leaves them to the compiler.
    in_use: shardings of the parameters while they are computed with; None
      leaves them where they lie.

  Returns:
    `(state, frozen, batch) -> (state, metrics)`; the state is donated. Float32
    scalars in `metrics`: 'loss' (mean over positions), 'weight' (positions),
    'grad_norm' before clipping, and the means of the objective's sums.
  """
  gradients = functools.partial(_gradients, objective, in_use)

  def train_step(state, frozen, batch):
    with precision.at(matmul_precision):
      return step(state, frozen, batch)

  def step(state, frozen, batch):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, sums = _accumulated(
      gradients, accumulation, state.params, frozen, batch, key
    )
    weight = jnp.maximum(sums['weight'], 1.0)
    grads = jax.tree.map(lambda g: g / weight, grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if ema:
      average = state_lib.update_ema(average, params, ema, state.step)
    metrics = _means(sums)
    metrics['grad_norm'] = optax.tree.norm(grads)
    state = state_lib.TrainState(
      step=state.step + 1, params=params, opt_state=opt_state, ema=average
    )
    return state, metrics

  if shardings is None:
    return jax.jit(train_step, donate_argnums=0)
  return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def _means(sums):
  weight = sums['weight']
  means = {k: _ratio(v, weight) for k, v in sums.items() if k != 'weight'}
  return dict(means, weight=weight)


def _ratio(value, weight):
  """A mean; nan for one with a weight of its own that is 0: never tested."""
  if isinstance(value, tuple):
    total, own = value
    return jnp.where(own > 0, total / jnp.maximum(own, 1.0), jnp.nan)
  return value / jnp.maximum(weight, 1.0)


def make_eval_step(
  objective: Objective, matmul_precision: str = precision.DEFAULT
) -> Callable[..., dict]:
  """Makes `(params, frozen, batch) -> sums` without dropout; see `mean`.

  Args:
    objective: `Objective`.
    matmul_precision: precision of float32 products, see `precision`.
  """

  def eval_step(params, frozen, batch):
    with precision.at(matmul_precision):
      total, weight, sums = objective.loss(params, frozen, batch, None)
    return dict(sums, loss=total, weight=weight)

  return jax.jit(eval_step)


def mean(all_sums: list[dict]) -> dict[str, float]:
  """Mean over positions of the sums of several batches."""
  totals = jax.tree.map(lambda *parts: sum(map(float, parts)), *all_sums)
  means = _means(totals)
  return {k: float(v) for k, v in means.items() if k != 'weight'}
