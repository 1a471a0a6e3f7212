"""Disks that have no room."""

from collections.abc import Iterator
import contextlib
import resource


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
  """No file may grow beyond `size` bytes, as if the disk were full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
