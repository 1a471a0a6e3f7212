"""Processes that look for each other, as threads with real sockets."""

import concurrent.futures
import contextlib
import socket
import threading

import pytest

from specjax.distributed import rendezvous
from tests.helpers.ports import free_port


def outcomes(*numbers, count, seconds=2.0, counts=None):
  """Results of all processes: None or the exception."""
  address = f'127.0.0.1:{free_port()}'
  done = threading.Event()

  def one(place):
    number = numbers[place]
    try:
      rendezvous.meet(
        address, number, (counts or {}).get(place, count), seconds
      )
      if number == 0:  # As JAX does next.
        with socket.create_server(('127.0.0.1', int(address.split(':')[1]))):
          done.wait(20)
    except (OSError, ValueError) as error:
      return error
    return None

  with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
    jobs = [pool.submit(one, place) for place in range(len(numbers))]
    others = [job for job, number in zip(jobs, numbers, strict=True) if number]
    concurrent.futures.wait(others)
    done.set()
    return [job.result() for job in jobs]


def test_all_of_them_meet():
  assert outcomes(0, 1, 2, count=3, seconds=20) == [None] * 3
  assert outcomes(0, count=1) == [None]


@pytest.mark.parametrize(
  'numbers, counts, words',
  [
    ((0,), {}, 'Of 3 processes, 1, 2 did not come'),
    ((0, 2), {}, 'Of 3 processes, 1 did not come'),
    ((0, 1), {1: 4}, '--num_processes is 3 in process 0 and 4 in process 1'),
    ((0, 1, 1), {}, 'two processes have --process_id=1'),
  ],
)
def test_all_hear_what_is_wrong(numbers, counts, words):
  found = outcomes(*numbers, count=3, counts=counts)
  assert words in str(found[0])
  # One that nobody let in before it was over finds nobody instead.
  told = [words in str(error) for error in found]
  assert all(found) and sum(told) >= len(numbers) - (len(numbers) > 2)


def test_a_port_that_is_taken():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    with pytest.raises(OSError, match=f'cannot listen at port {port}'):
      rendezvous.meet(f'127.0.0.1:{port}', 0, 2, 1.0)


@pytest.mark.parametrize('reply', [b'', b'HTTP/1.1 400 Bad Request\r\n\r\n'])
def test_somebody_else_listens(reply):
  def serve():
    with contextlib.suppress(OSError):
      link, _ = server.accept()
      with link:
        link.sendall(reply)

  with socket.create_server(('127.0.0.1', 0)) as server:
    thread = threading.Thread(target=serve)
    thread.start()
    address = f'127.0.0.1:{server.getsockname()[1]}'
    with pytest.raises(TimeoutError, match='did not answer as process 0'):
      rendezvous.meet(address, 1, 2, 1.0)
    thread.join()


def test_strangers_are_left_standing():
  """Who looks which ports are open is no process."""
  port = free_port()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(rendezvous.meet, f'127.0.0.1:{port}', 0, 2, 20.0)
    for word in (b'', b'GET / HTTP/1.1\n', b'specjax 1 2\n'):
      with rendezvous._connected(('127.0.0.1', port), '', 20, 1e12) as link:
        link.sendall(word)
        link.shutdown(socket.SHUT_WR)
        answer = rendezvous._line(link)
    first.result()
  assert answer == 'go'
