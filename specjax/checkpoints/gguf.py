"""GGUF files wherever a folder is taken: converted once, kept in the cache.

What a file is turned into is an ordinary folder of config.json, safetensors and
tokenizer.json, kept by the digest of the file's bytes. The reader of GGUF is
imported only where a file is turned, which costs seconds.

References:
  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import atexit
from collections.abc import Sequence
import functools
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile

from specjax import cache
from specjax import waiting

# Counted up whenever the same file gives another folder.
_VERSION = 2
_ROOM = 'gguf'
_SPLIT = re.compile(r'(.*)-(\d{5})-of-(\d{5})\.gguf')
# Written last: a folder without it is not whole.
_LIST = 'files'

_log = logging.getLogger('specjax')


def is_file(name: str) -> bool:
  """Whether a name is that of a file, or ends as that of a GGUF file."""
  is_named = name.endswith('.gguf') and not os.path.isdir(name)
  return is_named or os.path.isfile(name)


def paths_of(path: str) -> tuple[str, ...]:
  """The files of a model, of which one is named.

  Raises:
    FileNotFoundError: one of them is missing.
    ValueError: the name is that of no part.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'there is no file {path}.')
  found = _SPLIT.fullmatch(path)
  if found is None:
    return (path,)
  # a-00002-of-00003.gguf: all three
  head, number, count = found.group(1), int(found.group(2)), found.group(3)
  if not 1 <= number <= int(count):
    raise ValueError(f'{path} is none of the {int(count)} parts of its name.')
  parts = [f'{head}-{i:05d}-of-{count}.gguf' for i in range(1, int(count) + 1)]
  for part in parts:
    if not os.path.isfile(part):
      raise FileNotFoundError(
        f'{path} is one of {int(count)} parts of a model, of which {part} is '
        'missing.'
      )
  return tuple(parts)


def folder_of(path: str) -> str:
  """The folder that a GGUF file was turned into, now or earlier.

  Args:
    path: a GGUF file; of a model in parts, any of them.

  Raises:
    OSError, ValueError: one sentence about the file.
  """
  paths = paths_of(path)
  key = _digest(paths, tuple(_state(one) for one in paths))
  where = cache.folder(_ROOM)
  kept = None if where is None else where / key
  if kept is not None and _is_whole(kept):
    _touch(kept)
    return str(kept)
  with waiting.noted(f'Converting {path}; later starts are faster.'):
    return _convert(paths, kept)


def _state(path: str) -> tuple:
  status = os.stat(path)
  return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _digest(paths: Sequence[str], states: Sequence[tuple]) -> str:
  """Hexadecimal digest of all bytes, once a process for a file's state."""
  made = hashlib.sha256(f'{_VERSION}'.encode())
  for path in paths:
    with open(path, 'rb') as file:
      made.update(hashlib.file_digest(file, 'sha256').digest())
  return made.hexdigest()


def _is_whole(folder: pathlib.Path) -> bool:
  """Whether a kept folder has all its files: the cache drops the oldest."""
  try:
    sizes = json.loads((folder / _LIST).read_text(encoding='utf-8'))
    return all((folder / name).stat().st_size == n for name, n in sizes.items())
  except (OSError, ValueError, AttributeError):
    return False


def _touch(folder: pathlib.Path) -> None:
  """Makes the files of a folder the newest of the cache."""
  try:
    for path in folder.iterdir():
      os.utime(path)
  except OSError:
    pass  # A cache that is read-only serves as well.


def _convert(paths, kept) -> str:
  """Turns files into a folder, kept if there is a place for it."""
  made = None if kept is None else _new(kept.parent)
  place = _temporary() if made is None else made
  try:
    _write(paths, place)
    size = sum(path.stat().st_size for path in place.iterdir())
    if made is None:
      return str(place)
    if size > cache.LARGEST_BYTES:
      _log.warning(
        'The converted model has %.1f GB, more than the cache keeps; every '
        'start converts %s again, which train.convert does once.',
        size / 1e9,
        paths[0],
      )
      return str(_moved(made, _temporary() / 'model'))
    return str(_placed(made, kept))
  except BaseException as error:
    shutil.rmtree(place, ignore_errors=True)
    if isinstance(error, OSError) and error.errno is not None:
      variable = 'TMPDIR' if made is None else cache.VARIABLE
      raise OSError(
        f'Cannot write {place}: {error.strerror}; {variable} names another '
        'folder.'
      ) from None
    raise


def _new(folder: pathlib.Path) -> pathlib.Path | None:
  try:
    return pathlib.Path(tempfile.mkdtemp(dir=folder, prefix='.part'))
  except OSError:
    return None


def _temporary() -> pathlib.Path:
  """A folder that goes with the process."""
  made = tempfile.mkdtemp(prefix='specjax-gguf-')
  atexit.register(shutil.rmtree, made, ignore_errors=True)
  return pathlib.Path(made)


def _moved(made, place) -> pathlib.Path:
  shutil.move(made, place)
  return place


def _placed(made, kept) -> pathlib.Path:
  """Renames a folder to its place in the cache, which another may have done."""
  try:
    made.rename(kept)
  except OSError:
    # Another process reads what it put there; only what is not whole may go.
    if _is_whole(kept):
      shutil.rmtree(made, ignore_errors=True)
      return kept
    shutil.rmtree(kept, ignore_errors=True)
    made.rename(kept)
  cache.trim()
  return kept


def _write(paths, folder: pathlib.Path) -> None:
  """Writes the folder of a model."""
  from specjax.checkpoints import gguf_folder  # Slow to import.

  gguf_folder.write(paths, str(folder))
  sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
  text = json.dumps(sizes, sort_keys=True)
  (folder / _LIST).write_text(text, encoding='utf-8')
