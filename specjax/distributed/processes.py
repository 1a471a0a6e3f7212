"""Several processes as one job: starting together, agreeing, ending together.

Every host runs the same command. `start` joins them with `jax.distributed`,
refuses processes whose settings differ, and watches: each process keeps a
connection to process 0, which the system closes when the process dies, so that
the others end with a sentence and not with a collective that waits for ever.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from typing import Any, Optional

import jax
from jax.experimental import multihost_utils
import numpy as np

from specjax import validation
from specjax.distributed import rendezvous

# Seconds to wait for the coordinator and for the other processes.
START_SECONDS = 90
# Seconds after which a host that is silent counts as lost.
SILENT_SECONDS = 60
_DONE = b'd'
_links: list[socket.socket] = []
_server: list[socket.socket] = []
_over = threading.Event()


@dataclasses.dataclass(frozen=True)
class Processes:
  """Who takes part: what the flags of a command say.

  Attributes:
    coordinator: HOST:PORT of process 0, 'auto' to ask the cluster (TPU VMs,
      Slurm), or '' for one process (TPU VMs are asked all the same).
    num_processes: how many there are.
    process_id: which one this is, from 0.
  """

  coordinator: str = ''
  num_processes: Optional[int] = None
  process_id: Optional[int] = None

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
  seconds: int = START_SECONDS,
) -> None:
  """Joins the processes of a job; nothing to do for a single one.

  Must come before anything that touches a device.

  Args:
    processes: who takes part.
    settings: what must be the same everywhere, JSON-able, nested dicts.
    seconds: to wait for the others.

  Raises:
    ValueError: the settings differ; names the first field that does.
    TimeoutError: the coordinator, or another process, does not answer.
  """
  processes.validate()
  if not _initialize(processes, seconds) or jax.process_count() == 1:
    return
  everyone = gather({'settings': settings, 'address': _address(processes)})
  # First of all, so that a process that leaves is noticed by the others.
  _connect(*everyone[0]['address'])
  for number, other in enumerate(everyone):
    found = difference(everyone[0]['settings'], other['settings'])
    if found:
      time.sleep(1.0)  # So that all of them get to say it.
      raise ValueError(
        f'the processes do not run the same command: {found} in process '
        f'{number}.'
      )


def _initialize(processes: Processes, seconds: int) -> bool:
  """Whether there may be other processes."""
  settings = dict(
    initialization_timeout=seconds, heartbeat_timeout_seconds=SILENT_SECONDS
  )
  explicit = processes.coordinator not in ('', 'auto')
  if not explicit and (processes.coordinator or _on_tpu()):
    found, settings['local_device_ids'] = _ask_cluster(seconds)
    processes, explicit = found or processes, found is not None
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


def _ask_cluster(seconds: int) -> tuple[Optional[Processes], Any]:
  """Who takes part, and this process's devices, as the cluster tells.

  JAX asks clusters too, but only where it goes on to wait for them by itself,
  and a process that never comes then ends the others without a word.
  """
  try:
    from jax._src import clusters

    address, count, number, devices = (
      clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, seconds
      )
    )
    found = Processes(address, count, number)
    found.validate()
  except Exception:  # Another JAX, or half a cluster: JAX itself will see.
    return None, None
  # A host of its own needs no meeting.
  return (found, devices) if count > 1 else (None, None)


def _keep_output_clean() -> None:
  """Sends to standard error what libraries below Python print.

  The CPU's messages are carried by one that tells standard output of every
  connection; results have a copy of that output to themselves.
  """
  sys.stdout.flush()
  results = os.dup(1)
  os.dup2(2, 1)
  sys.stdout = os.fdopen(results, 'w', encoding='utf-8', errors='replace')


def _on_tpu() -> bool:
  there = any(map(os.path.exists, ('/dev/accel0', '/dev/vfio/0')))
  return there and os.environ.get('JAX_PLATFORMS', 'tpu').startswith('tpu')


def is_first() -> bool:
  """Whether this process writes files and talks."""
  return not _links or jax.process_index() == 0


def is_alone() -> bool:
  """Whether there is no other process."""
  return not _links


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
  return value if is_alone() else gather(value if is_first() else None)[0]


def check_same(what: str, value: Any) -> None:
  """Raises ValueError if a JSON-able value differs between processes."""
  if is_alone():
    return
  values = gather(value)
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


def _address(processes: Processes):
  """Where process 0 listens; the others send nothing."""
  if jax.process_index():
    return None
  host = processes.coordinator.rpartition(':')[0]
  return host or _own_address(), _listen()


def _own_address() -> str:
  """Where other hosts reach this one."""
  found = '127.0.0.1'
  with contextlib.suppress(OSError):
    found = socket.gethostbyname(socket.gethostname())
  if found.startswith('127.'):
    # /etc/hosts often calls this host so. What it calls itself towards others
    # is known from a route to an address that nobody has; nothing is sent.
    with contextlib.suppress(OSError):
      with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(('192.0.2.1', 9))
        found = probe.getsockname()[0]
  return found


def _listen() -> int:
  _server.append(socket.create_server(('', 0)))
  return _server[0].getsockname()[1]


def _connect(host: str, port: int) -> None:
  """Opens the connections that break when a process dies."""
  index, count = jax.process_index(), jax.process_count()
  try:
    if index:
      link = socket.create_connection((host, port), timeout=START_SECONDS)
      link.sendall(index.to_bytes(4, 'big'))
      _follow(link, 0)
    for _ in range(count - 1 if index == 0 else 0):
      _server[0].settimeout(START_SECONDS)
      link, _ = _server[0].accept()
      _follow(link, int.from_bytes(link.recv(4), 'big'))
  except OSError as error:
    raise TimeoutError(
      f'process {index} found no connection to process 0 at {host}, port '
      f'{port} ({error.strerror or error}); the hosts must reach each other on '
      'every port, not on that of the coordinator alone.'
    ) from None
  # Python runs these in reverse: before JAX waits for the others.
  atexit.register(_leave)


def _follow(link: socket.socket, number: int) -> None:
  """Watches one connection, in a thread of its own."""
  link.settimeout(None)
  link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in (
    ('TCP_KEEPIDLE', SILENT_SECONDS // 2),
    ('TCP_KEEPINTVL', SILENT_SECONDS // 6),
    ('TCP_KEEPCNT', 3),
  ):
    if hasattr(socket, name):
      link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
  _links.append(link)
  threading.Thread(target=_wait, args=(link, number), daemon=True).start()


def _wait(link: socket.socket, number: int) -> None:
  try:
    word = link.recv(1)
  except OSError:
    word = b''
  if word == _DONE or _over.is_set():
    return
  _over.set()
  where = '' if number else ', or another one,'
  print(
    # A progress bar may stand on the line.
    f'\nerror: process {number}{where} of {jax.process_count()} was lost, so '
    'the job ends here; start all of them again (decoding goes on with '
    '--resume, training by itself).',
    file=sys.stderr,
    flush=True,
  )
  # A collective may be waiting in the main thread; nothing else ends it.
  os._exit(1)


def _leave() -> None:
  """Tells the others that this process is done, and not lost."""
  _over.set()
  for link in _links:
    with contextlib.suppress(OSError):
      link.sendall(_DONE)


def before_failure() -> None:
  """Gives a lost process time to be noticed.

  A failed collective is most often its echo, and the watch has the better
  sentence, with which it ends this process.
  """
  if _links:
    time.sleep(2.0)


def after_failure(status: int) -> None:
  """Ends a process of several; JAX's own farewell would wait for the others."""
  if _links:
    sys.stdout.flush()
    os._exit(status)
