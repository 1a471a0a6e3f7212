"""Processes meet before JAX joins them, so that errors name who is missing.

JAX ends a process whose partners do not come, or whose port is taken, with a
stack trace or a fault. So process 0 first listens at the coordinator's port
itself. Each of the others sends its number, and all receive the same answer: to
go on, or an error. Then JAX takes the port.
"""

import contextlib
import os
import socket
import time

_GREETING, _GO, _NO = 'specjax', 'go', 'no '
# Seconds for a greeting, and the most bytes of a message.
_HELLO_SECONDS, _MOST = 5, 4096


def meet(address: str, number: int, count: int, seconds: float) -> None:
  """Returns once all processes are there.

  Args:
    address: HOST:PORT of process 0.
    number: number of this process.
    count: number of processes.
    seconds: seconds to wait for the others.

  Raises:
    OSError: process 0 cannot listen there.
    TimeoutError: a process did not come.
    ValueError: the processes do not agree on who they are.
  """
  host, _, port = address.rpartition(':')
  end = time.monotonic() + seconds
  if number == 0:
    _receive(address, int(port), count, seconds, end)
    return
  where = host.strip('[]'), int(port)
  with _connected(where, address, seconds, end) as link:
    # A little longer than process 0 waits, so that its sentence arrives first.
    link.settimeout(max(end - time.monotonic(), 0) + _HELLO_SECONDS)
    answer = ''
    with contextlib.suppress(OSError):
      link.sendall(f'{_GREETING} {number} {count}\n'.encode())
      answer = _line(link)
  if answer.startswith(_NO):
    raise ValueError(answer.removeprefix(_NO))
  if answer != _GO:
    raise TimeoutError(
      f'What listens at {address} did not answer as process 0 of this job '
      f'does within {seconds} seconds; give --coordinator a port that is free '
      'on the host of process 0, and start process 0 there.'
    )
  # JAX begins to listen a moment later; it would not wait for itself.
  _connected(where, address, seconds, end + _HELLO_SECONDS).close()


def _connected(where, address, seconds, end) -> socket.socket:
  """Connects as soon as process 0 listens."""
  while True:
    try:
      return socket.create_connection(where, timeout=5)
    except OSError as error:
      if time.monotonic() > end:
        raise TimeoutError(
          f'The coordinator {address} did not answer within {seconds} seconds '
          f'({error.strerror or error}); start process 0 there, and see that '
          'the port is open.'
        ) from None
      # Hosts start minutes apart; a refused connection returns at once.
      time.sleep(0.3)


def _receive(address, port, count, seconds, end) -> None:
  """Process 0: waits for the others and answers all of them at once."""
  try:
    server = _listening(port)
  except OSError as error:
    why = os.strerror(error.errno)
    raise OSError(
      f'Process 0 cannot listen at port {port} ({why}); give --coordinator '
      'another port.'
    ) from None
  links: dict[int, socket.socket] = {}
  try:
    with server:
      problem = _gathered(server, links, address, count, seconds, end)
    # The port is free again before the others are sent on to use it.
    for link in links.values():
      with contextlib.suppress(OSError):
        link.sendall(f'{_NO + str(problem) if problem else _GO}\n'.encode())
  finally:
    for link in links.values():
      link.close()
  if problem:
    raise problem


def _listening(port: int) -> socket.socket:
  # One socket for both families, since nobody knows by which one others come.
  if socket.has_dualstack_ipv6():
    with contextlib.suppress(OSError):
      return socket.create_server(
        ('', port), family=socket.AF_INET6, dualstack_ipv6=True
      )
  return socket.create_server(('', port))


def _gathered(server, links, address, count, seconds, end) -> Exception | None:
  """Fills `links` by process; returns an error, if there is one."""
  while len(links) < count - 1:
    server.settimeout(max(end - time.monotonic(), 0.01))
    try:
      link, _ = server.accept()
    except TimeoutError:
      missing = [str(i) for i in range(1, count) if i not in links]
      return TimeoutError(
        f'Of {count} processes, {", ".join(missing)} did not come to {address} '
        f'within {seconds} seconds; start all of them, with the same '
        '--coordinator and --num_processes.'
      )
    found = _who(link)
    if found is None:
      link.close()  # Somebody who only looks which ports are open.
      continue
    number, theirs = found
    taken = number in links or number == 0
    # Under a number that no process has, so that the second one is answered
    # too.
    links[-number if taken else number] = link
    if theirs != count:
      return ValueError(
        f'the processes do not run the same command: --num_processes is '
        f'{count} in process 0 and {theirs} in process {number}.'
      )
    if taken:
      return ValueError(
        f'two processes have --process_id={number}; give each a number of its '
        f'own, from 0 to {count - 1}.'
      )
  return None


def _who(link: socket.socket) -> tuple[int, int] | None:
  """(process, number of processes) of a caller; None for any other program."""
  link.settimeout(_HELLO_SECONDS)
  try:
    greeting, number, count = _line(link).split()
    return (int(number), int(count)) if greeting == _GREETING else None
  except (OSError, ValueError):
    return None


def _line(link: socket.socket) -> str:
  """Reads up to a line end; what there is if the other hangs up."""
  data = b''
  while not data.endswith(b'\n') and len(data) < _MOST:
    # Byte by byte: what follows the line belongs to the next reader.
    piece = link.recv(1)
    if not piece:
      break
    data += piece
  return data.decode(errors='replace').rstrip('\n')
