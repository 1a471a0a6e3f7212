"""Files and folders that one run at a time may write.

A lock belongs to the open file and ends with the process, however it ends, so
no lock is ever left behind.
"""

from collections.abc import Callable, Iterator
import contextlib
import os

from specjax import files

try:
  import fcntl
except ImportError:  # Windows has none.
  fcntl = None

Note = Callable[[str], None]


@contextlib.contextmanager
def file(path: str, note: Note) -> Iterator[Callable[[], None]]:
  """Holds a file, which is made if it is missing, for this run alone.

  Args:
    path: path of the file; streams, such as a pipe, are held by nobody.
    note: callback with a line where the file system knows no locks.

  Yields:
    A function that keeps the file although it may stay empty. A file that was
    made here is removed at the end if it is empty and was not kept, or if the
    block raises an OSError, such as that of a full disk.

  Raises:
    OSError: another run holds it, or it cannot be written; one sentence.
  """
  if files.is_stream(path):
    yield lambda: None
    return
  kept = []
  handle, is_new = _open(path, note)
  try:
    yield lambda: kept.append(True)
  except OSError:
    kept.clear()
    raise
  finally:
    if is_new and not kept and os.path.exists(path):
      # Before the lock ends, so that no other run has begun to write it.
      if not os.path.getsize(path):
        os.remove(path)
    os.close(handle)


@contextlib.contextmanager
def folder(path: str, note: Note) -> Iterator[None]:
  """Holds a folder, which is made if it is missing, for this run alone.

  Args:
    path: path of the folder.
    note: callback with a line where the file system knows no locks.

  Yields:
    Nothing. Folders that were made here and are empty at the end are removed.

  Raises:
    OSError: another run holds it, or it cannot be made; one sentence.
  """
  missing, above = [], os.path.abspath(path)
  while not os.path.exists(above):
    missing.append(above)
    above = os.path.dirname(above)
  try:
    os.makedirs(path, exist_ok=True)
    handle = os.open(path, os.O_RDONLY)
  except OSError as error:
    raise OSError(f'Cannot write to {path}: {error.strerror}.') from None
  try:
    _lock(handle, path, note)
    yield
  finally:
    with contextlib.suppress(OSError):  # One that is not empty stays.
      for one in missing:
        os.rmdir(one)
    os.close(handle)


def _open(path: str, note: Note) -> tuple[int, bool]:
  """(descriptor of a file that is held, whether the file was made here)."""
  while True:
    is_new = not os.path.exists(path)
    try:
      handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
      raise OSError(f'Cannot write to {path}: {error.strerror}.') from None
    try:
      _lock(handle, path, note)
    except OSError:
      os.close(handle)
      raise
    # A run that ended in between may have removed the file that was opened.
    if os.path.exists(path) and os.path.samestat(
      os.fstat(handle), os.stat(path)
    ):
      return handle, is_new
    os.close(handle)


def _lock(handle: int, path: str, note: Note) -> None:
  if fcntl is None:
    note(_unsupported(path))
    return
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise OSError(
      f'Another run is writing {path}; wait until it has ended, or give '
      'another name.'
    ) from None
  except OSError:  # NFS locks what is open to be written, so no folder.
    note(_unsupported(path))


def _unsupported(path: str) -> str:
  return (
    f'Note: the file system of {path} does not lock it, so nothing keeps '
    'another run from writing it at the same time.'
  )
