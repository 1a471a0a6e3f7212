"""Several processes as one job: starting together, agreeing, ending together.

Every host runs the same command. `start` joins them with `jax.distributed`,
refuses processes whose settings differ, and watches for lost ones (`watch`).
"""

import dataclasses
import hashlib
import json
import os
import sys
import time
from typing import Any
import warnings

import jax
from jax.experimental import multihost_utils
import numpy as np

from specjax import validation
from specjax.distributed import clusters
from specjax.distributed import rendezvous
from specjax.distributed import watch


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes of a job, as the flags of a command state them.

  Attributes:
    coordinator: HOST:PORT of process 0, 'auto' to ask the cluster (TPU VMs,
      Slurm), or '' for one process (TPU VMs are asked all the same).
    num_processes: number of processes.
    process_id: number of this process, from 0.
  """

  coordinator: str = ''
  num_processes: int | None = None
  process_id: int | None = None

  def validate(self) -> None:
    """Raises ValueError with one sentence about what does not fit."""
    explicit = self.coordinator not in ('', 'auto')
    given = self.num_processes is not None, self.process_id is not None
    if not explicit:
      if any(given):
        raise ValueError(
          '--num_processes and --process_id need --coordinator=HOST:PORT, the '
          'address of process 0.'
        )
      return
    host, _, port = self.coordinator.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
      raise ValueError(
        '--coordinator must be HOST:PORT (a port from 1 to 65535) or auto, not '
        f'{self.coordinator!r}.'
      )
    if not all(given):
      raise ValueError(
        '--coordinator=HOST:PORT needs --num_processes and --process_id too.'
      )
    if self.num_processes < 1:
      raise ValueError(
        f'--num_processes must be at least 1, not {self.num_processes}.'
      )
    if not 0 <= self.process_id < self.num_processes:
      raise ValueError(
        f'--process_id must be from 0 to {self.num_processes - 1}, not '
        f'{self.process_id}.'
      )


def start(
  processes: Processes,
  settings: dict[str, Any],
  seconds: int = watch.START_SECONDS,
  on_lost: watch.OnLost = warnings.warn,
) -> None:
  """Joins the processes of a job; nothing to do for a single one.

  Must come before anything that touches a device.

  Args:
    processes: who takes part.
    settings: nested JSON-able dicts that must be equal on all processes.
    seconds: seconds to wait for the others.
    on_lost: takes a sentence when a process was lost; see `watch.OnLost`.

  Raises:
    ValueError: the settings differ; names the first field that does.
    TimeoutError: the coordinator, or another process, does not answer.
  """
  processes.validate()
  if not _initialize(processes, seconds) or jax.process_count() == 1:
    return
  everyone = gather(
    {'settings': settings, 'address': watch.address(processes.coordinator)}
  )
  # Before the comparison, so that the others notice a process that leaves.
  watch.connect(*everyone[0]['address'], on_lost)
  for number, other in enumerate(everyone):
    found = difference(everyone[0]['settings'], other['settings'])
    if found:
      time.sleep(1.0)  # Every process has to raise before one ends.
      raise ValueError(
        f'the processes do not run the same command: {found} in process '
        f'{number}.'
      )


def _initialize(processes: Processes, seconds: int) -> bool:
  """Whether there may be other processes."""
  settings = dict(
    initialization_timeout=seconds,
    heartbeat_timeout_seconds=watch.SILENT_SECONDS,
  )
  explicit = processes.coordinator not in ('', 'auto')
  if not explicit and (processes.coordinator or _on_tpu()):
    # JAX finds clusters too, but a process that never comes then ends the
    # others with a stack trace.
    found = clusters.find(os.environ)
    if found is not None:
      processes = Processes(*found[:3])
      processes.validate()
      settings['local_device_ids'] = found.local_device_ids
      explicit = True
  if explicit:
    rendezvous.meet(
      processes.coordinator,
      processes.process_id,
      processes.num_processes,
      seconds,
    )
    settings |= dict(
      coordinator_address=processes.coordinator,
      num_processes=processes.num_processes,
      process_id=processes.process_id,
    )
  elif not processes.coordinator and not _on_tpu():
    return False
  _keep_output_clean()
  try:
    jax.distributed.initialize(**settings)
  except (RuntimeError, ValueError) as error:
    if not processes.coordinator:
      return False  # A TPU VM on its own.
    if not explicit and isinstance(error, ValueError):
      raise ValueError(
        '--coordinator=auto finds no cluster here (it knows TPU VMs, Slurm, '
        'Kubernetes and MPI); give --coordinator=HOST:PORT, --num_processes '
        'and --process_id.'
      ) from None
    raise TimeoutError(
      f'The {processes.num_processes or ""} processes did not meet at '
      f'{processes.coordinator} within {seconds} seconds '
      f'({str(error).splitlines()[0]}).'
    ) from None
  return True


def _keep_output_clean() -> None:
  """Redirects output of libraries below Python to standard error.

  The CPU's collectives print a line for every connection to standard output.
  Results go to a private copy of that output.
  """
  sys.stdout.flush()
  results = os.dup(1)
  os.dup2(2, 1)
  sys.stdout = os.fdopen(results, 'w', encoding='utf-8', errors='replace')


def _on_tpu() -> bool:
  there = any(map(os.path.exists, ('/dev/accel0', '/dev/vfio/0')))
  return there and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')


def is_first() -> bool:
  """Whether this process writes files and messages."""
  return watch.is_alone() or jax.process_index() == 0


def gather(value: Any) -> list:
  """JSON-able values of all processes, by process; a collective."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(data.size))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: data.size] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)
  ]


def from_first(value: Any) -> Any:
  """Process 0's value, on every process; a collective."""
  return value if watch.is_alone() else gather(value if is_first() else None)[0]


def check_same(what: str, value: Any) -> None:
  """Raises ValueError if a JSON-able value differs between processes."""
  if watch.is_alone():
    return
  content = json.dumps(value, sort_keys=True).encode()
  values = gather(hashlib.sha256(content).hexdigest())
  for number, other in enumerate(values):
    if other != values[0]:
      raise ValueError(f'{what} differ between process 0 and {number}.')


def difference(one: dict, other: dict) -> str:
  """Names the first field in which two nested dicts differ, or ''."""
  found = validation.difference(one, other)
  if found is None:
    return ''
  a, b = (
    None if x is validation.ABSENT else x for x in (found.one, found.other)
  )
  return f'{found.path} is {a!r} in process 0 and {b!r}'
