"""Connections between the processes of a job, which break when one dies.

`jax.distributed` notices a lost process too, but aborts the others with a stack
trace. Here each process keeps a connection to process 0, which the system
closes when the process dies, so that the others can end with a sentence.
"""

import atexit
from collections.abc import Callable
import contextlib
import socket
import threading
import time

import jax

# Seconds to wait for the other processes' connections.
START_SECONDS = 90
# Seconds after which a host that is silent counts as lost.
SILENT_SECONDS = 60
_DONE = b'd'
_links: list[socket.socket] = []
_server: list[socket.socket] = []
_over = threading.Event()

# Takes the sentence about a lost process; called in a thread, and expected to
# end this process: a collective may be waiting in the main thread.
OnLost = Callable[[str], None]


def is_alone() -> bool:
  """Whether there is no other process."""
  return not _links


def address(coordinator: str) -> tuple[str, int] | None:
  """Address at which process 0 listens; None in the others.

  Args:
    coordinator: HOST:PORT of process 0, or without a host.
  """
  if jax.process_index():
    return None
  host = coordinator.rpartition(':')[0]
  return host or _own_address(), _listen()


def _own_address() -> str:
  """Address at which other hosts reach this one."""
  found = '127.0.0.1'
  with contextlib.suppress(OSError):
    found = socket.gethostbyname(socket.gethostname())
  if found.startswith('127.'):
    # /etc/hosts often maps the host's own name to loopback. The route to a
    # reserved address has the outward address; nothing is sent.
    with contextlib.suppress(OSError):
      with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(('192.0.2.1', 9))
        found = probe.getsockname()[0]
  return found


def _listen() -> int:
  _server.append(socket.create_server(('', 0)))
  return _server[0].getsockname()[1]


def connect(host: str, port: int, on_lost: OnLost) -> None:
  """Opens the connections that break when a process dies.

  Args:
    host: host of `address` in process 0.
    port: port of `address` in process 0.
    on_lost: see `OnLost`.

  Raises:
    TimeoutError: they cannot be opened.
  """
  index, count = jax.process_index(), jax.process_count()
  try:
    if index:
      link = socket.create_connection((host, port), timeout=START_SECONDS)
      link.sendall(index.to_bytes(4, 'big'))
      _follow(link, 0, on_lost)
    for _ in range(count - 1 if index == 0 else 0):
      _server[0].settimeout(START_SECONDS)
      link, _ = _server[0].accept()
      _follow(link, int.from_bytes(link.recv(4), 'big'), on_lost)
  except OSError as error:
    raise TimeoutError(
      f'process {index} found no connection to process 0 at {host}, port '
      f'{port} ({error.strerror or error}); the hosts must reach each other on '
      'every port, not on that of the coordinator alone.'
    ) from None
  # Python runs these in reverse: before JAX waits for the others.
  atexit.register(_leave)


def _follow(link: socket.socket, number: int, on_lost: OnLost) -> None:
  """Watches one connection, in a thread of its own."""
  # The thread waits as long as the job runs. Keep-alive packets of the system
  # find a host that lost its power, which closes no connection.
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
  args = link, number, on_lost
  threading.Thread(target=_wait, args=args, daemon=True).start()


def _wait(link: socket.socket, number: int, on_lost: OnLost) -> None:
  try:
    word = link.recv(1)
  except OSError:
    word = b''
  # One loss breaks all connections of a job; only the first is reported.
  if word == _DONE or _over.is_set():
    return
  _over.set()
  where = '' if number else ', or another one,'
  on_lost(
    f'process {number}{where} of {jax.process_count()} was lost, so '
    'the job ends here; start all of them again (decoding goes on with '
    '--resume, training by itself).'
  )


def _leave() -> None:
  """Lets the others know that this process is done, and not lost."""
  _over.set()
  for link in _links:
    with contextlib.suppress(OSError):
      link.sendall(_DONE)


def before_failure() -> None:
  """Gives a lost process time to be noticed.

  A collective fails most often because a process was lost, and the error of the
  watch names that process.
  """
  if _links:
    time.sleep(2.0)
