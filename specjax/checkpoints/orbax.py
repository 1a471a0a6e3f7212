"""Orbax checkpoints of a run: saving, keeping, restoring.

Saving is asynchronous and atomic: a step's folder appears under its own name
only when it is complete, so a run killed in the middle of a save leaves the
previous checkpoint whole, and a disk that fills up costs the new one alone.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import sys
from typing import Any

import jax
from orbax import checkpoint as ocp

from specjax import base
from specjax.checkpoints import checksum

_POLICY = ocp.checkpoint_managers.preservation_policy
_RANK = 'rank'
_CHECKSUM = 'checksum'
# The rank of a state that nobody has measured: below every measured one.
_UNKNOWN = -1e30
# Name of the arrays' folder in that of a step.
_STATE = 'default'
# Letters of another library's error that are shown.
_MAX_WORDS = 200
# Bytes of a checkpoint that describe its arrays.
_BESIDE = 1 << 20


@dataclasses.dataclass
class _LatestPlanned(_POLICY.PreservationPolicy):
  """Keeps the newest `count` of the steps that are `planned`."""

  count: int
  planned: Callable[[int], bool]

  def should_preserve(self, checkpoints, *, context):
    del context
    kept = [c.step for c in checkpoints if self.planned(c.step)][-self.count :]
    return [c.step in kept for c in checkpoints]


def open_manager(
  folder: str,
  keep_last: int = 3,
  read_only: bool = False,
  planned: Callable[[int], bool] = lambda step: True,
) -> ocp.CheckpointManager:
  """Opens (and makes) the folder of a run's checkpoints.

  Only one manager at a time may write to a folder: it removes what a killed
  run left half written, which looks like a step that another is writing.

  Args:
    folder: place of the step folders.
    keep_last: newest planned checkpoints to keep, beside the newest and the
      best one.
    read_only: whether to leave the folder as it is; another may write to it.
    planned: whether a step's checkpoint is one that a run without stops has.

  Returns:
    `ocp.CheckpointManager`; close it to finish what is being written.

  Raises:
    ValueError: the rank of a checkpoint is damaged, and with it the list.
  """
  _silence_late_futures()
  for step in steps_of(folder):
    _check_rank(folder, step)
  # Orbax logs every file on the root logger otherwise, and a full disk in some
  # hundred lines. Errors are raised all the same.
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  policy = _POLICY.AnyPreservationPolicy(
    [
      # The newest is what a run goes on from, planned or not; a stop saves
      # between the planned steps.
      _POLICY.LatestN(1),
      _LatestPlanned(keep_last, planned),
      _POLICY.BestN(get_metric_fn=lambda m: m[_RANK], n=1),
    ]
  )
  return ocp.CheckpointManager(
    os.path.abspath(folder),
    options=ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=True,
      read_only=read_only,
      best_fn=lambda m: m[_RANK],
    ),
  )


@functools.cache
def _silence_late_futures() -> None:
  """Drops what tensorstore prints about futures that nobody awaits any more.

  A save that fails ends its event loop with the first error; every array that
  is still being written then raises in a thread of its own, behind the one
  sentence about it.
  """
  before = sys.unraisablehook

  def hook(about):
    if not _is_late(about.exc_value):
      before(about)

  sys.unraisablehook = hook


def _is_late(error: BaseException | None) -> bool:
  return isinstance(error, RuntimeError) and str(error) == (
    'Event loop is closed'
  )


def _check_rank(folder, step):
  """Raises ValueError where Orbax could not read how good a step is."""
  path = os.path.join(folder, str(step), 'metrics', 'metrics')
  if not os.path.exists(path):
    return
  try:
    with open(path, encoding='utf-8') as file:
      json.load(file)
  except ValueError:
    raise ValueError(
      f'Checkpoint {step} in {folder} is damaged: {path} is not JSON.'
    ) from None


def steps_of(folder: str) -> list[int]:
  """Steps that a folder holds complete, rising; read from names alone."""
  names = os.listdir(folder) if os.path.isdir(folder) else ()
  return sorted(int(name) for name in names if name.isdigit())


def drop_after(folder: str, step: int) -> list[int]:
  """Removes the checkpoints behind a step, so that a run can write them anew.

  Args:
    folder: place of the step folders.
    step: the last one to keep.

  Returns:
    The steps that were removed.
  """
  dropped = [other for other in steps_of(folder) if other > step]
  for other in dropped:
    shutil.rmtree(os.path.join(folder, str(other)))
  return dropped


def save(
  manager: ocp.CheckpointManager,
  step: int,
  state: base.PyTree,
  rank: float | None = None,
  about: dict[str, Any] | None = None,
) -> None:
  """Starts saving `state` as `step`; the arrays may be reused on return.

  Args:
    manager: manager of `open_manager`.
    step: its number; a step already saved is not saved again.
    state: pytree of arrays.
    rank: quality of the state, larger being better; None if unknown, and
      then it is not kept as the best.
    about: plain values that are kept beside it; see `about`.

  Raises:
    OSError: this step, or the one before it, could not be written.
  """
  if step in manager.all_steps():
    return
  with _naming_last_step(manager):
    # One save at a time: two would compete for the disk, and an error of the
    # first would be raised by a call that it does not belong to.
    manager.wait_until_finished()
    _check_room(manager, state)
    manager.save(
      step,
      args=ocp.args.StandardSave(state),
      metrics={_RANK: _UNKNOWN if rank is None else float(rank)},
      force=True,
      custom_metadata=(about or {}) | {_CHECKSUM: checksum.of(state)},
    )


def close(manager: ocp.CheckpointManager) -> None:
  """Finishes what is being written.

  Raises:
    OSError: it could not be written; as `save`.
  """
  with _naming_last_step(manager):
    manager.close()


def _check_room(manager, state):
  """Raises OSError before a save that does not fit: Orbax leaves half of it."""
  needed = _BESIDE + sum(x.nbytes for x in jax.tree.leaves(state))
  free = shutil.disk_usage(manager.directory).free
  if free < needed:
    raise OSError(
      f'it takes up to {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free'
    )


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
  """Turns errors of writing into an OSError of one sentence.

  They are an OSError, or tensorstore's ValueError around its number.

  Args:
    what: the beginning of the sentence.

  Raises:
    OSError: in place of these errors; others pass unchanged.
  """
  try:
    yield
  except (OSError, ValueError) as error:
    # tensorstore puts the system's number into a text of several lines.
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is None and not isinstance(error, OSError):
      raise
    words = os.strerror(int(number[1])) if number else error.strerror or error
    raise OSError(f'{what}: {words}.') from None


@contextlib.contextmanager
def _naming_last_step(manager):
  """Adds the newest whole step to an error.

  A save runs in the background, so the next call raises its error.
  """
  try:
    with writing(f'A checkpoint could not be written to {manager.directory}'):
      yield
  except OSError as error:
    whole = max(steps_of(manager.directory), default=None)
    last = 'no older one is' if whole is None else f'checkpoint {whole} is'
    raise OSError(
      f'{str(error).removesuffix(".")}; {last} there whole, and the same '
      'command continues.'
    ) from None


def abstract(tree: base.PyTree, sharding: Any = None) -> base.PyTree:
  """Shapes and dtypes of a pytree, to be restored onto `sharding`.

  Args:
    tree: pytree of arrays or shapes.
    sharding: one for all, or a pytree of them like `tree`.
  """
  if sharding is None or isinstance(sharding, jax.sharding.Sharding):
    sharding = jax.tree.map(lambda x: sharding, tree)
    if not jax.tree.leaves(sharding):
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree
      )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    sharding,
  )


def restore(folder: str, step: int, like: base.PyTree) -> base.PyTree:
  """Reads a step.

  Args:
    folder: place of the step folders.
    step: an existing step.
    like: pytree of `jax.ShapeDtypeStruct` (see `abstract`), with shardings to
      restore onto.

  Returns:
    The pytree that was saved, with the shardings of `like`.

  Raises:
    ValueError: the checkpoint holds another structure or other shapes, or it is
      damaged.
  """
  _silence_late_futures()
  _check_rank(folder, step)
  path = os.path.join(os.path.abspath(folder), str(step), _STATE)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      state = checkpointer.restore(path, like)
  # A damaged file raises anything, from JSON, tensorstore or Orbax.
  except Exception as error:
    words = (str(error).strip() or repr(error)).splitlines()[0]
    # Orbax formats a method of the error in the place of its details.
    words = words.partition(' See full TensorStore details')[0]
    raise ValueError(
      f'Checkpoint {step} in {folder} is damaged or does not fit this model: '
      f'{words[:_MAX_WORDS].rstrip(".")}.'
    ) from None
  wanted = about(folder, step).get(_CHECKSUM)
  if wanted is not None and checksum.of(state) != wanted:
    raise ValueError(
      f'Checkpoint {step} in {folder} is damaged: its numbers are not those '
      'that were saved.'
    )
  return state


def names_of(tree: base.PyTree) -> set[str]:
  """Names of the arrays of a pytree, as in 'params/embed/weight'."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves
  }


def array_names(folder: str, step: int) -> set[str] | None:
  """`names_of` what a step holds; None where that cannot be read."""
  path = os.path.join(os.path.abspath(folder), str(step), _STATE)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return names_of(checkpointer.metadata(path).item_metadata.tree)
  # A damaged file raises anything; `restore` will have words for it.
  except Exception:
    return None


def about(folder: str, step: int) -> dict[str, Any]:
  """The plain values beside a step; {} where they cannot be read."""
  path = os.path.join(folder, str(step), '_CHECKPOINT_METADATA')
  try:
    with open(path, encoding='utf-8') as file:
      return dict(json.load(file).get('custom_metadata') or {})
  except (OSError, ValueError, TypeError, AttributeError):
    return {}
