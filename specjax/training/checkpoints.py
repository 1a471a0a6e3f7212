"""Checkpoints of a run: which are kept, and where a run begins."""

from collections.abc import Callable
import functools
import os
from typing import NamedTuple

import jax
import optax
import orbax.checkpoint as ocp

from specjax.checkpoints import orbax
from specjax.distributed import transfer
from specjax.training import build as build_lib
from specjax.training import config as config_lib
from specjax.training import optimizers
from specjax.training import placement as placement_lib
from specjax.training import state as state_lib

CHECKPOINTS = 'checkpoints'


class Outcome(NamedTuple):
  """End of a run.

  Attributes:
    state: the last `TrainState`.
    step: steps done.
    stopped: whether a signal stopped it before its last step.
    metrics: metrics of the last evaluation.
    signal: number of that signal, or 0.
  """

  state: state_lib.TrainState
  step: int
  stopped: bool
  metrics: dict
  signal: int = 0


def open_checkpoints(
  workdir: str, config: config_lib.TrainConfig, read_only: bool = False
) -> ocp.CheckpointManager:
  """The manager of a run's checkpoints."""
  return orbax.open_manager(
    os.path.join(workdir, CHECKPOINTS),
    config.keep_last,
    read_only,
    functools.partial(is_planned, config),
  )


def is_planned(config: config_lib.TrainConfig, step: int) -> bool:
  """Whether a run that nobody stops has a checkpoint of this step."""
  every = config.save_every or 1
  return step % every == 0 or step == config.steps


def newest(run: build_lib.Run, workdir: str) -> Outcome:
  """The newest checkpoint of a run, as if it had just been stopped there.

  Raises:
    FileNotFoundError: there is none.
  """
  config = run.config
  if not os.path.isdir(os.path.join(workdir, CHECKPOINTS)):
    raise FileNotFoundError(f'{workdir} holds no checkpoint yet.')
  manager = open_checkpoints(workdir, config, read_only=True)
  optimizer = optimizers.make_optimizer(config.optimizer, config.steps)
  try:
    if orbax.latest_step(manager) is None:
      raise FileNotFoundError(f'{workdir} holds no checkpoint yet.')
    place = placement_lib.placement(config, run.model_config)
    state, step = first_state(run, optimizer, manager, place)
  finally:
    manager.close()
  return Outcome(state, step, step < config.steps, {})


def first_state(
  run: build_lib.Run,
  optimizer: optax.GradientTransformation,
  manager: ocp.CheckpointManager,
  place: Callable,
) -> tuple[state_lib.TrainState, int]:
  """The newest checkpoint, or a fresh state; and its step."""
  step = orbax.latest_step(manager)
  made, like = fresh_state(run, optimizer, place, build=step is None)
  if step is None:
    return made, 0
  return orbax.restore(manager, step, like), step


def fresh_state(
  run: build_lib.Run,
  optimizer: optax.GradientTransformation,
  place: Callable,
  *,
  build: bool = True,
) -> tuple:
  """The state before the first step.

  Args:
    run: result of `build_lib.build`.
    optimizer: the gradient transformation.
    place: function that places a pytree on devices.
    build: whether arrays are made, and not only shapes.

  Returns:
    (`TrainState` or None, the same as shapes with shardings).
  """

  def make(key):
    return state_lib.create(run.init(key), optimizer, run.config.optimizer.ema)

  key = transfer.put(jax.random.key(run.config.seed), place.layout)
  shapes = jax.eval_shape(make, key)
  shardings = place.shardings(shapes)
  like = orbax.abstract(shapes, shardings)
  state = jax.jit(make, out_shardings=shardings)(key) if build else None
  return state, like
