"""Files that others wrote, and files that appear whole or not at all."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import gzip
import json
import os
import stat
from typing import Any, BinaryIO
import zlib

# Levels of nested JSON; the deepest files of models have about ten.
MOST_LEVELS = 128


def parse_json(
  text: str | bytes, *, strict: bool = True, unique: bool = False
) -> Any:
  """Parses JSON.

  Args:
    text: JSON.
    strict: whether control characters in strings are errors.
    unique: whether a key that an object has twice is an error; else its last
      value counts.

  Raises:
    ValueError: it is no JSON, is nested more than `MOST_LEVELS` deep, or has a
      key twice.
  """
  deep = f'it is nested more than {MOST_LEVELS} levels deep'
  try:
    made = json.loads(
      text, strict=strict, object_pairs_hook=_of_pairs if unique else None
    )
  except RecursionError:
    raise ValueError(deep) from None
  # Other code recurses too, so what is parsed may still be too deep.
  brackets = ('[', '{') if isinstance(text, str) else (b'[', b'{')
  if sum(map(text.count, brackets)) > MOST_LEVELS and _is_deep(made):
    raise ValueError(deep)
  return made


def _of_pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  """The object of some (key, value), of which no key is there twice."""
  made = dict(pairs)
  if len(made) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'the key {twice!r} is there twice')
  return made


def _is_deep(value: Any) -> bool:
  """Whether a value has more than `MOST_LEVELS` levels, without recursion."""
  # [1, [2]]: first [value], then [1, [2]], then [2]
  level = [value]
  for _ in range(MOST_LEVELS):
    level = [
      child
      for item in level
      if isinstance(item, (dict, list))
      for child in (item.values() if isinstance(item, dict) else item)
    ]
  return any(isinstance(item, (dict, list)) for item in level)


def is_packed(path: str) -> bool:
  """Whether a file is one of gzip, by its name."""
  return path.endswith('.gz')


def kind(path: str) -> str:
  """The ending that decides a file's form: a.jsonl.gz gives .jsonl."""
  return os.path.splitext(path.removesuffix('.gz'))[1]


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
  """Opens a file to read its bytes; those of a .gz file come unpacked.

  Args:
    path: path of a file.

  Yields:
    The open file.

  Raises:
    ValueError: a .gz file is cut short, or no such file; one sentence.
  """
  if not is_packed(path):
    with open(path, 'rb') as file:
      yield file
    return
  try:
    with gzip.open(path, 'rb') as file:
      yield file
  except EOFError:
    raise ValueError(
      f'{path} is cut short: its gzip data end in the middle; copy it anew.'
    ) from None
  except (gzip.BadGzipFile, zlib.error) as error:
    raise ValueError(
      f'{path} ends in .gz but holds no whole gzip data ({error}); pack it '
      'anew, or take the ending off its name.'
    ) from None


def check_writable(path: str) -> None:
  """Raises OSError with a sentence if `write_whole` could not write a file."""
  try:
    if os.path.isdir(path):
      raise IsADirectoryError(0, 'it is a folder')
    if is_stream(path):  # Opening a pipe would wait for a reader.
      return
    part = part_of(path)
    open(part, 'wb').close()
    os.remove(part)
  except OSError as error:
    raise OSError(f'Cannot write to {path}: {error.strerror}.') from None


def is_stream(path: str) -> bool:
  """Whether a path is something else than a file, such as a pipe."""
  return os.path.exists(path) and not os.path.isfile(path)


def part_of(path: str) -> str:
  """Where a file is written before it is renamed; links are followed."""
  return f'{os.path.realpath(path)}.part{os.getpid()}'


def write_whole(path: str, write: Callable[[str], None]) -> None:
  """Writes beside `path` and renames, so that no half file ever shows.

  Args:
    path: path of the file; a stream, such as /dev/stderr, is written directly.
    write: function that writes a file at the path it is given.

  Raises:
    OSError: in one sentence that names the file.
  """
  is_direct = is_stream(path)
  part = path if is_direct else part_of(path)
  try:
    write(part)
    if not is_direct:
      os.chmod(part, _rights(path))
      os.replace(part, os.path.realpath(path))
  except OSError as error:
    words = error.strerror or error
    raise OSError(f'Cannot write to {path}: {words}.') from None
  finally:
    if not is_direct:
      with contextlib.suppress(OSError):
        os.remove(part)


def _rights(path: str) -> int:
  """Rights of a file that is written anew: those it has, else the usual ones.

  Some writers write for the owner alone, so they are given in every case.
  """
  # A file of mode 0600 stays the owner's own; a new one has 0644 at umask 022.
  with contextlib.suppress(FileNotFoundError):
    return stat.S_IMODE(os.stat(path).st_mode)
  mask = os.umask(0)
  os.umask(mask)
  return 0o666 & ~mask


def write_text(path: str, text: str) -> None:
  """Writes UTF-8 text to a file by `write_whole`; raises as it does."""
  write_bytes(path, text.encode())


def write_bytes(path: str, data: bytes) -> None:
  """Writes bytes to a file by `write_whole`; raises as it does."""

  def write(part):
    with open(part, 'wb') as file:
      file.write(data)

  write_whole(path, write)
