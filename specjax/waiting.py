"""A line in the log where somebody waits for more than two seconds.

A compiled program serves all calls with arrays of the same shapes, so the first
such call takes seconds and the next ones milliseconds. The line explains
the wait of the first.
"""

from collections.abc import Hashable, Iterator
import contextlib
import logging
import threading
import time

from specjax.distributed import processes

# Shorter waits are not logged.
SECONDS = 2.0

_log = logging.getLogger('specjax')
_seen: set[int] = set()


@contextlib.contextmanager
def noted(sentence: str) -> Iterator[None]:
  """Logs a sentence if the block inside takes over two seconds.

  Its level is a warning, since those are shown without a configuration of
  logging. Of several processes the first logs.

  Args:
    sentence: description of the work.
  """
  if not processes.is_first():
    yield
    return
  timer = threading.Timer(SECONDS, _log.warning, (sentence,))
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


@contextlib.contextmanager
def compiling(what: str, *key: Hashable) -> Iterator[None]:
  """As `noted`, for the first call with a key: the one that compiles.

  Args:
    what: name of the compiled program, in words.
    *key: values on which the program depends beside its name; without any,
      every call is watched.
  """
  mark = hash((what, *key))
  if key and mark in _seen:
    yield
    return
  begin = time.perf_counter()
  with noted(f'Compiling {what}; the next such call is fast.'):
    yield
  _seen.add(mark)
  _log.info('Compiled %s in %.1f s.', what, time.perf_counter() - begin)
