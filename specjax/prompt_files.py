"""Files of prompts, read twice: all of them to check, then a line at a time.

Between the two readings a prompt takes 16 bytes: the place where its line ends
and a digest of its content. What cannot be read twice, such as standard input
or a .gz file, is copied to a temporary file first.
"""

import array
import bisect
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
from typing import BinaryIO

from specjax import files
from specjax import prompts as prompts_lib

STANDARD_INPUT = '-'
_DIGEST_BYTES = 8
# Letters of a digest in hexadecimal.
DIGEST_LETTERS = 2 * _DIGEST_BYTES
_BYTE_ORDER_MARK = b'\xef\xbb\xbf'


# A reader of JSON lines, as `prompts.parse`.
Parse = Callable[[str, str], prompts_lib.Line]


@dataclasses.dataclass(frozen=True)
class _File:
  """A file of lines.

  Attributes:
    path: path, or '-'.
    copy: temporary file with its bytes, None where the file itself serves.
    parse: function that reads a line; None where lines are text.
    first: number of lines in the files before it.
  """

  path: str
  copy: BinaryIO | None
  parse: Parse | None
  first: int

  @property
  def name(self) -> str:
    """Its name in messages."""
    return _name(self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class PromptFiles(Sequence):
  """Prompts of files in order, each read when it is asked for.

  Attributes:
    read: the files.
    ends: place behind each line in its file, in bytes.
    digests: digest of each line's content.
    first: place of the first prompt among all of the files; above 0 in a shard.
    size: number of prompts.
    keeps_bad: whether a bad line is a `Line` with an error.
  """

  read: tuple[_File, ...]
  ends: array.array
  digests: array.array
  first: int
  size: int
  keeps_bad: bool

  def __len__(self) -> int:
    """Number of prompts."""
    return self.size

  def __getitem__(self, index):
    """The prompt at a place, or a list of those in a slice.

    Raises:
      ValueError: its line is bad, or the file has changed since it was checked.
    """
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(self.size))]
    file, line = self._find(index)
    raw = self._line(file, line)
    prompt = _line(file, line - file.first, raw, self.keeps_bad)
    if _digest(prompt, raw) != self.digests[line]:
      raise ValueError(
        f'{file.name} has changed since it was checked; leave it as it is '
        'until the run has ended.'
      )
    return prompt

  def digest(self, index: int) -> str:
    """Hexadecimal digest of a prompt's whole content."""
    _, line = self._find(index)
    return f'{self.digests[line]:0{DIGEST_LETTERS}x}'

  def all_digests(self) -> str:
    """The digests of all prompts, one behind the other."""
    found = self.digests[self.first : self.first + self.size]
    if sys.byteorder == 'little':
      found.byteswap()
    return found.tobytes().hex()

  def shard(self, number: int, count: int) -> 'PromptFiles':
    """One of `count` runs of prompts whose answers, joined, are all answers.

    Args:
      number: number of the shard, from 1.
      count: number of shards, at least 1.

    Raises:
      ValueError: there is no such shard.
    """
    # 7 prompts, 3 shards: prompts 0 and 1, 2 and 3, 4 to 6.
    if not 1 <= number <= count:
      raise ValueError(
        f'There is no shard {number} of {count}; shards are numbered from 1 to '
        f'{count}.'
      )
    if count > self.size:
      raise ValueError(
        f'{self.size} prompts make at most {self.size} shards, not {count}.'
      )
    begin, end = (self.size * k // count for k in (number - 1, number))
    return dataclasses.replace(self, first=self.first + begin, size=end - begin)

  def _find(self, index: int) -> tuple[_File, int]:
    """(file, place of the line among those of all files) of a prompt."""
    if not -self.size <= index < self.size:
      raise IndexError(f'there are {self.size} prompts, not {index + 1}')
    line = self.first + index % self.size
    begins = [file.first for file in self.read]
    return self.read[bisect.bisect_right(begins, line) - 1], line

  def _line(self, file: _File, line: int) -> bytes:
    begin = self.ends[line - 1] if line > file.first else 0
    with _handle(file) as handle:
      handle.seek(begin)
      return handle.read(self.ends[line] - begin)


def read_prompts(
  paths: str | Sequence[str],
  *,
  keeps_bad: bool = False,
  parse: Parse = prompts_lib.parse,
  is_json: bool = False,
) -> PromptFiles:
  """Reads and checks files of prompts, one after the other.

  Args:
    paths: text files with a prompt a line, `.jsonl` files whose lines hold
      `prompt` or `messages`, either of them packed as `.gz`, or '-' for
      standard input, which may be either (it is taken for JSON lines if its
      first line is such an object).
    keeps_bad: whether a bad line is kept, as a `Line` with an error.
    parse: function that reads a JSON line.
    is_json: whether lines are JSON whatever the names of the files.

  Returns:
    A `prompts.Line` for each line, in order. Blank lines are kept, as ''.

  Raises:
    FileNotFoundError, IsADirectoryError: if there is no such file.
    ValueError: if one is empty, is not UTF-8 or holds a malformed line.
  """
  paths = [paths] if isinstance(paths, str) else list(paths)
  if paths.count(STANDARD_INPUT) > 1:
    raise ValueError('Standard input, -, can be read once only.')
  ends, digests, read = array.array('Q'), array.array('Q'), []
  for path in paths:
    file = _opened(path, len(ends), parse, is_json)
    read.append(file)
    end = 0
    with _handle(file) as handle:
      for number, raw in enumerate(handle):
        end += len(raw)
        ends.append(end)
        digests.append(_digest(_line(file, number, raw, keeps_bad), raw))
    if not end or (end == len(_BYTE_ORDER_MARK) and _is_only_mark(file)):
      raise ValueError(
        f'{_capital(file.name)} is empty; it needs a prompt a line.'
      )
  return PromptFiles(tuple(read), ends, digests, 0, len(ends), keeps_bad)


def shard_of(text: str) -> tuple[int, int]:
  """(number, count) of --shard=i/n; (1, 1) of ''.

  Raises:
    ValueError: it is no such text.
  """
  if not text:
    return 1, 1
  number, slash, count = text.partition('/')
  if not (slash and number.isdecimal() and count.isdecimal()):
    raise ValueError(
      f'--shard must be i/n, as 2/8 for the second of eight, not {text!r}.'
    )
  return int(number), int(count)


def read_lines(path: str) -> list[str]:
  """The lines of a UTF-8 file without their ends.

  Raises:
    FileNotFoundError, IsADirectoryError: if there is no such file.
    ValueError: if a line is not UTF-8.
  """
  file = _opened(path, 0)
  with _handle(file) as handle:
    return [_text(file, number, raw) for number, raw in enumerate(handle)]


def _name(path: str) -> str:
  return 'standard input' if path == STANDARD_INPUT else path


def _capital(name: str) -> str:
  return name.capitalize() if name == _name(STANDARD_INPUT) else name


def _opened(
  path: str,
  first: int,
  parse: Parse = prompts_lib.parse,
  is_json: bool = False,
) -> _File:
  """A file that can be read twice."""
  if path != STANDARD_INPUT:
    if os.path.isdir(path):
      raise IsADirectoryError(
        f'The input {path} is a folder; give a text file with a prompt a line, '
        'or a .jsonl file.'
      )
    if not os.path.exists(path):
      raise FileNotFoundError(f'There is no input file {path}.')
  copy = None
  if files.is_packed(path) or not os.path.isfile(path):
    copy = _copied(path)
  is_json |= files.kind(path) == '.jsonl'
  if path == STANDARD_INPUT and not is_json:
    is_json = _is_json_prompt(copy.readline())
  return _File(path, copy, parse if is_json else None, first)


def _copied(path: str) -> BinaryIO:
  """A temporary file with the bytes of a stream or of a packed file."""
  copy = tempfile.TemporaryFile()
  source = contextlib.nullcontext(sys.stdin.buffer)
  if path != STANDARD_INPUT:
    source = files.opened(path)
  with source as stream:
    try:
      shutil.copyfileobj(stream, copy)
      copy.seek(0)
    except OSError as error:
      if error.errno is None:  # Of gzip, about what is packed.
        raise
      raise OSError(
        f'Cannot copy {_name(path)} to {tempfile.gettempdir()}: '
        f'{error.strerror}.'
      ) from None
  return copy


@contextlib.contextmanager
def _handle(file: _File) -> Iterator[BinaryIO]:
  """The open file, at its beginning."""
  if file.copy is not None:
    file.copy.seek(0)
    yield file.copy
    return
  with open(file.path, 'rb') as handle:
    yield handle


def _is_only_mark(file: _File) -> bool:
  with _handle(file) as handle:
    return handle.read() == _BYTE_ORDER_MARK


def _text(file: _File, number: int, raw: bytes) -> str:
  """A line without its end, number counted from 0."""
  # At line feeds alone: `splitlines` would part a prompt at U+2028 as well, and
  # all answers behind it would belong to another prompt.
  raw = raw.removesuffix(b'\n').removesuffix(b'\r')
  if not number:
    raw = raw.removeprefix(_BYTE_ORDER_MARK)
  try:
    return raw.decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{_capital(file.name)}, line {number + 1} is not UTF-8 (byte '
      f'{error.start + 1} is 0x{raw[error.start]:02x}); convert the file to '
      'UTF-8.'
    ) from None


def _is_json_prompt(raw: bytes) -> bool:
  try:
    return prompts_lib.is_prompt(files.parse_json(raw))
  except ValueError:
    return False


def _line(
  file: _File, number: int, raw: bytes, keeps_bad: bool
) -> prompts_lib.Line:
  """The prompt of a line, number counted from 0."""
  where = f'{file.name}, line {number + 1}'
  try:
    text = _text(file, number, raw)
    if file.parse is not None:
      return file.parse(text, where)
  except ValueError as error:
    if not keeps_bad:
      raise
    return prompts_lib.Line('', where=where, error=str(error))
  return prompts_lib.Line(text if text.strip() else '', where=where)


def _digest(line: prompts_lib.Line, raw: bytes) -> int:
  """Digest of all that a line holds: text, turns and roles, id, settings."""
  content = raw
  if not line.error:
    content = json.dumps(
      [line.source, line.id, line.settings], sort_keys=True
    ).encode()
  made = hashlib.blake2b(content, digest_size=_DIGEST_BYTES)
  return int.from_bytes(made.digest(), 'big')
