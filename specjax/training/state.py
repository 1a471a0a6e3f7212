"""The state of a run: everything the next step needs and nothing else."""

from flax import struct
import jax
import jax.numpy as jnp
import optax

from specjax import base


@struct.dataclass
class TrainState:
  """Attributes:
  step: int32 scalar, optimiser steps done.
  params: the parameters, float32.
  opt_state: state of the optimiser.
  ema: averaged parameters, or None.
  """

  step: base.Array
  params: base.PyTree
  opt_state: base.PyTree
  ema: base.PyTree | None = None


def create(
  params: base.PyTree, optimizer: optax.GradientTransformation, ema: float = 0.0
) -> TrainState:
  """A fresh state around `params`; with `ema` > 0 it also keeps an average."""
  params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    # Copies: the step donates its state, and one buffer cannot be donated
    # twice.
    ema=jax.tree.map(jnp.copy, params) if ema else None,
  )


def best_params(state: TrainState) -> base.PyTree:
  """Returns the parameters to evaluate and export: the average, if kept."""
  return state.params if state.ema is None else state.ema


def update_ema(
  ema: base.PyTree, params: base.PyTree, decay: float, step: base.Array
) -> base.PyTree:
  """Moves the average; early steps use a smaller decay, so that the random
  initial weights fade: min(decay, (1 + step) / (10 + step))."""
  step = step.astype(jnp.float32)
  rate = jnp.minimum(decay, (1 + step) / (10 + step))
  # As e + (1 - r)(p - e): with r near 1 the two products of r e + (1 - r) p
  # would round differently and drift.
  return jax.tree.map(lambda e, p: e + (1 - rate) * (p - e), ema, params)
