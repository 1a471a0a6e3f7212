"""Checkpoints of a run: which are kept, and where a run begins."""

from collections.abc import Callable
import functools
import os
from typing import NamedTuple

import jax
import optax
import orbax.checkpoint as ocp

from specjax import models
from specjax.checkpoints import orbax
from specjax.distributed import processes
from specjax.distributed import transfer
from specjax.training import build as build_lib
from specjax.training import config as config_lib
from specjax.training import optimizers
from specjax.training import placement as placement_lib
from specjax.training import state as state_lib
from specjax.training import workdir as workdir_lib
from specjax.training.data import changes

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
  # Checkpoints by the clock or of a stop are saved between these. They do not
  # push planned ones out, so that runs with and without stops keep the same.
  return step % every == 0 or step == config.steps


def optimizer_of(run: build_lib.Run) -> optax.GradientTransformation:
  """The gradient transformation of a run."""
  config = run.config
  maps = models.maps(run.model_config)
  return optimizers.make_optimizer(config.optimizer, config.steps, maps)


def newest(run: build_lib.Run, workdir: str, step: int = 0) -> Outcome:
  """A checkpoint of a run, as if it had just been stopped there.

  Args:
    run: result of `build_lib.build`.
    workdir: folder of the run.
    step: step of the checkpoint; 0 takes the newest.

  Raises:
    FileNotFoundError: there is none at all.
    ValueError: as `first_state`.
  """
  config = run.config
  folder = os.path.join(workdir, CHECKPOINTS)
  if not orbax.steps_of(folder):
    raise FileNotFoundError(f'{workdir} holds no checkpoint yet.')
  optimizer = optimizer_of(run)
  place = placement_lib.placement(config, run.model_config)
  state, step = first_state(run, optimizer, folder, place, step)
  return Outcome(state, step, step < config.steps, {})


def first_state(
  run: build_lib.Run,
  optimizer: optax.GradientTransformation,
  folder: str,
  place: Callable,
  resume_from: int = 0,
) -> tuple[state_lib.TrainState, int]:
  """Returns a checkpoint, or a fresh state; and its step.

  Args:
    run: result of `build_lib.build`.
    optimizer: the gradient transformation.
    folder: folder of the checkpoints.
    place: function that places a pytree on devices.
    resume_from: step of the checkpoint; 0 takes the newest, and a fresh state
      where there is none.

  Raises:
    ValueError: there is no such checkpoint, it is of another version, or it is
      damaged; then the newest whole one is named.
  """
  steps = orbax.steps_of(folder)
  if resume_from and resume_from not in steps:
    there = ', '.join(map(str, steps)) or 'none'
    raise ValueError(
      f'There is no checkpoint {resume_from} in {folder}; there are: {there}.'
    )
  step = resume_from or max(steps, default=0)
  # Arrays only where nothing is read: otherwise the state would be in memory
  # twice while it is restored.
  made, like = fresh_state(run, optimizer, place, build=not step)
  if not step:
    return made, 0
  _check_arrays(folder, step, like)
  try:
    return orbax.restore(folder, step, like), step
  except ValueError as error:
    raise ValueError(f'{error} {_way_out(folder, step, like)}') from None


def _check_arrays(folder, step, like):
  """Refuses a state with other arrays, of which Orbax would read a part.

  Settings were compared before, so another version made it: Muon's state, for
  example, had moments of lookup tables once.
  """
  found, wanted = orbax.array_names(folder, step), orbax.names_of(like)
  if found is None or found == wanted:
    return
  raise ValueError(
    f'Checkpoint {step} in {folder} was made by another version of specjax, '
    f'whose state differs in {min(found ^ wanted)}, so the run cannot go on; '
    'begin it anew in another --workdir.'
  )


def _way_out(folder, step, like):
  """The newest whole checkpoint before a damaged one, in a sentence."""
  # Damage shows in reading alone, so each is read until one is whole.
  for older in reversed(orbax.steps_of(folder)):
    if older >= step:
      continue
    try:
      orbax.restore(folder, older, like)
    except ValueError:
      continue
    return (
      f'The newest whole one is {older}, and --resume_from={older} goes on '
      'from it.'
    )
  return 'No older one is whole; take another --workdir.'


def begin(
  run: build_lib.Run,
  workdir: str,
  optimizer: optax.GradientTransformation,
  place: Callable,
  data: dict[str, list],
  resume_from: int = 0,
) -> tuple[state_lib.TrainState, int, list[str]]:
  """The state that a run begins with, its step, and what a user should know.

  Args:
    run: result of `build_lib.build`.
    workdir: folder of the run.
    optimizer: the gradient transformation.
    place: function that places a pytree on devices.
    data: result of `changes.digests` for the files of the run.
    resume_from: as in `first_state`; later checkpoints are removed.

  Raises:
    ValueError: as `first_state`.
  """
  folder = os.path.join(workdir, CHECKPOINTS)
  state, first = first_state(run, optimizer, folder, place, resume_from)
  if not first:
    return state, 0, []
  notes = [f'Continuing {workdir} at step {first}.']
  if resume_from:
    dropped = orbax.drop_after(folder, first) if processes.is_first() else []
    # Also a barrier: nobody lists the folder before.
    dropped = processes.from_first(dropped)
    if dropped:
      steps = ', '.join(map(str, dropped))
      notes.append(f'Removed the later checkpoints: {steps}.')
  before = orbax.about(folder, first).get('data')
  if before is not None:
    notes += changes.between(before, data, first)
  planned, steps = workdir_lib.steps_before(workdir), run.config.steps
  if planned < steps:
    notes.append(f'The run goes on to {steps} steps, from {planned}.')
  return state, first, notes


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

  # On the devices of the state: a program takes arguments of one set of
  # devices.
  key = transfer.put(jax.random.key(run.config.seed), place.layout)
  shapes = jax.eval_shape(make, key)
  shardings = place.shardings(shapes)
  like = orbax.abstract(shapes, shardings)
  # Drawn where it lies: a state that fills all devices fits on none of them.
  state = jax.jit(make, out_shardings=shardings)(key) if build else None
  return state, like
