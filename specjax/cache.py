"""The cache folder: files kept between runs, written whole, bounded.

`$SPECJAX_CACHE_DIR`, by default `~/.cache/specjax`. Nothing in it is needed: a
missing, damaged or read-only folder costs time and nothing else.
"""

import os
import pathlib
import tempfile

VARIABLE = 'SPECJAX_CACHE_DIR'
# Bound of all files together.
LARGEST_BYTES = 8 * 10**9


def root() -> pathlib.Path:
  """Where the folder is, or would be."""
  return pathlib.Path(os.environ.get(VARIABLE) or '~/.cache/specjax')


def folder(*parts: str) -> pathlib.Path | None:
  """The folder, or one inside it, made if missing; None if it cannot be.

  Args:
    *parts: names of folders inside it.
  """
  try:
    where = root().expanduser()
    # For this user alone: compiled programs are code that is run when it is
    # read.
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = where.joinpath(*parts)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
  except (OSError, RuntimeError):
    return None
  return path


def read(*parts: str) -> bytes | None:
  """The contents of a file, or None where there is none to be read.

  Args:
    *parts: folders and the file's name.
  """
  where = folder(*parts[:-1])
  if where is None:
    return None
  try:
    return (where / parts[-1]).read_bytes()
  except OSError:
    return None


def is_writable(*parts: str) -> bool:
  """Whether files can be put into a folder of the cache.

  Args:
    *parts: names of folders inside it.
  """
  where = folder(*parts)
  if where is None:
    return False
  try:
    # Permissions alone do not show a file system that is read-only or full.
    with tempfile.TemporaryFile(dir=where):
      return True
  except OSError:
    return False


def remove(*parts: str) -> None:
  """Removes a file, where that is possible.

  Args:
    *parts: folders and the file's name.
  """
  where = folder(*parts[:-1])
  try:
    if where is not None:
      (where / parts[-1]).unlink()
  except OSError:
    pass  # Nothing in the cache is needed.


def write(data: bytes, *parts: str) -> bool:
  """Writes a file whole, by renaming, and trims; whether that worked.

  Args:
    data: its contents.
    *parts: folders and the file's name.
  """
  where = folder(*parts[:-1])
  if where is None:
    return False
  try:
    # In the same folder, as only there a rename replaces a file in one step.
    number, part = tempfile.mkstemp(dir=where, prefix='.part')
  except OSError:
    return False
  try:
    with os.fdopen(number, 'wb') as file:
      file.write(data)
    # A reader finds the old file or the new one, never half of one.
    os.replace(part, where / parts[-1])
  except OSError:
    pathlib.Path(part).unlink(missing_ok=True)
    return False
  trim(LARGEST_BYTES)
  return True


def trim(most: int = LARGEST_BYTES) -> int:
  """Removes the oldest files until at most so many bytes are left.

  Args:
    most: bytes.

  Returns:
    Bytes removed.
  """
  where = folder()
  if where is None:
    return 0
  found = []
  for path in where.rglob('*'):
    try:
      if path.is_file() and not path.is_symlink():
        status = path.stat()
        found.append((status.st_mtime, status.st_size, path))
    except OSError:
      pass  # Another process removed it.
  total = sum(size for _, size, _ in found)
  removed = 0
  for _, size, path in sorted(found, key=lambda one: one[0]):
    if total - removed <= most:
      break
    try:
      path.unlink()
      removed += size
    except OSError:
      pass
  return removed
