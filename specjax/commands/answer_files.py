"""Files of answers: whole lines only, in order, and resumable.

Of several processes the first alone holds and writes them.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import gzip
import json
import os
import signal
import sys
import threading
from typing import Any
import zlib

from specjax import files
from specjax import locks
from specjax import prompt_files
from specjax import prompts as prompts_lib
from specjax import text as text_lib
from specjax.commands import cli
from specjax.commands import made
from specjax.distributed import processes
from specjax.inference.generate import Answer

Write = Callable[[Sequence[Answer]], None]
WriteText = Callable[[str], None]

# Bytes of a file read at a time, and zlib's word for gzip.
_CHUNK, _GZIP = 1 << 16, 31


def record(answer: Answer) -> dict[str, Any]:
  """The fields of one JSON line; decode/README.md defines them."""
  return {
    # Of a line that carries one.
    **({} if answer.id is None else {'id': answer.id}),
    'prompt_index': answer.prompt_index,
    'sequence': answer.sequence,
    'prompt': answer.prompt,
    'text': answer.text,
    'tokens': list(answer.tokens),
    'finish_reason': answer.finish_reason,
    # Only a beam search has scores.
    **({} if answer.score is None else {'score': answer.score}),
    **_logprobs(answer),
    **({'num_truncated': cut} if (cut := answer.num_truncated) else {}),
    **answer.counts.as_dict(by_position=False),
  }


def _logprobs(answer: Answer) -> dict[str, Any]:
  if answer.logprobs is None:
    return {}
  return {'logprobs': [one.as_dict() for one in answer.logprobs]}


def line(answer: Answer, as_json: bool) -> str:
  """One line of output, its end included; an error is an empty line of text."""
  if as_json and answer.error:
    about = {
      'prompt_index': answer.prompt_index,
      'id': answer.id,
      'error': answer.error,
    }
    return json.dumps(about, ensure_ascii=False) + '\n'
  if as_json:
    return json.dumps(record(answer), ensure_ascii=False) + '\n'
  return text_lib.one_line(answer.text) + '\n'


def check_distinct(*given: tuple[str, str]) -> None:
  """Raises ValueError if a file is read and written, or written twice.

  Args:
    *given: (option, path) of each; '' and '-' name no file, and the inputs may
      name one twice.
  """
  seen: dict[str, str] = {}
  for option, path in given:
    real = os.path.realpath(path)
    if path in ('', '-') or (os.path.exists(real) and not os.path.isfile(real)):
      continue
    if seen.get(real, option) != option:
      raise ValueError(
        f'--{seen[real]} and --{option} are the same file, {path}; give each a '
        'file of its own.'
      )
    seen[real] = option


@contextlib.contextmanager
def claimed(path: str) -> Iterator[Callable[[], None]]:
  """Holds an output for this run alone, and tries whether it can be written.

  Args:
    path: path of the output; '-' is held by nobody.

  Yields:
    A function that keeps the output although it is empty, as `locks.file`.

  Raises:
    OSError: another run holds it, or it cannot be written; one sentence.
  """
  if path == '-' or not processes.is_first():
    yield lambda: None
    return
  if os.path.isdir(path):
    raise IsADirectoryError(f'{path} is a folder; give a file to write to.')
  with locks.file(path, cli.note) as keep:
    try:
      yield keep
    except OSError:
      # A full disk leaves no note alone.
      if os.path.exists(path) and not os.path.getsize(path):
        with contextlib.suppress(OSError):
          os.remove(made.path_of(path))
      raise


def count_answered(
  path: str,
  count: int,
  per_prompt: int,
  answers: Callable[[dict[str, Any], int], bool] | None = None,
  head: int = 0,
) -> tuple[int, int]:
  """Counts the answers of an interrupted output.

  Args:
    path: path of the output.
    count: number of prompts.
    per_prompt: number of lines a prompt.
    answers: function of the object of a JSON line and the place of a prompt:
      whether one answers the other; None where lines are no JSON.
    head: number of lines in front of the answers.

  Returns:
    (answers of completed prompts, their bytes with the head). A last line
    without its end, and answers of a prompt that has not got all of them, do
    not count.

  Raises:
    ValueError: the file answers other prompts.
  """
  kept, number = (0, 0), -head
  for text, end in _pieces(path) if os.path.exists(path) else ():
    for row in text.split(b'\n')[:-1]:
      index = number // per_prompt
      number += 1
      if index < 0:
        continue
      if index >= count:
        raise ValueError(
          f'{path} has answers to more than the {count} prompts, so it '
          'cannot be resumed; give the input and settings it was begun with.'
        )
      if answers is not None and not answers(_parsed(row), index):
        raise ValueError(
          f'{path}, line {number + head} does not answer prompt {index + 1} of '
          'the input, so it cannot be resumed.'
        )
    # 5 whole lines at 2 answers a prompt: 4 count, and the third prompt, which
    # has one of its two, is decoded anew.
    if number >= 0 and not number % per_prompt:
      kept = number, end
  return kept


def _pieces(path: str) -> Iterator[tuple[bytes, int]]:
  """(whole lines, place behind them in the file), one piece after the other.

  A piece is a line, or what was packed at one time in a .gz file, from which
  single lines cannot be cut off.
  """
  with open(path, 'rb') as file:
    if not files.is_packed(path):
      for row in file:
        if row.endswith(b'\n'):
          yield row, file.tell()
      return
    unpack, text, rest = zlib.decompressobj(_GZIP), b'', b''
    while chunk := rest or file.read(_CHUNK):
      try:
        text += unpack.decompress(chunk)
      except zlib.error as error:
        raise ValueError(
          f'{path} holds no gzip data ({error}), so it cannot be resumed.'
        ) from None
      rest = unpack.unused_data
      if unpack.eof:
        yield text, file.tell() - len(rest)
        unpack, text = zlib.decompressobj(_GZIP), b''


def _parsed(row: bytes) -> dict[str, Any]:
  """The object of a JSON line, {} of another."""
  try:
    found = files.parse_json(row)
  except ValueError:
    found = None
  return found if isinstance(found, dict) else {}


def answers_of(
  prompts: prompt_files.PromptFiles,
) -> Callable[[dict[str, Any], int], bool]:
  """The argument `answers` of `count_answered`, for lines of `record`.

  Args:
    prompts: prompts of the run.
  """

  def answers(found: dict[str, Any], index: int) -> bool:
    place = prompts.first + index
    if 'error' in found:
      return found.get('prompt_index') == place
    source = prompts[index].source
    # Files of version 0.1 have no index. A tokenizer shows ids as text.
    is_shown = isinstance(source, tuple) or (
      found.get('prompt') == prompts_lib.shown(source)
    )
    return is_shown and found.get('prompt_index', place) == place

  return answers


@contextlib.contextmanager
def writer(path: str, keep_bytes: int = 0) -> Iterator[Write]:
  """Opens an output.

  Args:
    path: path of a file, or '-' for standard output; JSON lines if it ends in
      .jsonl or .jsonl.gz.
    keep_bytes: bytes that are kept of an existing file.

  Yields:
    A function that writes answers, as that of `lines_writer` writes lines.
  """
  as_json = files.kind(path) == '.jsonl'

  def joined(answers: Sequence[Answer]) -> str:
    return ''.join(line(answer, as_json) for answer in answers)

  with lines_writer(path, keep_bytes) as write:
    yield lambda answers: write(joined(answers))


@contextlib.contextmanager
def lines_writer(path: str, keep_bytes: int = 0) -> Iterator[WriteText]:
  """Opens a file of lines.

  Args:
    path: path of a file, or '-' for standard output.
    keep_bytes: bytes that are kept of an existing file.

  Yields:
    A function that writes whole lines and flushes. A signal waits for it to
    finish and a failed write is taken back, so the file has whole lines only.
    Lines of one call are packed together if the path ends in .gz.
  """
  if not processes.is_first():
    yield lambda text: None
    return
  if path == '-':
    yield _print_whole
    return
  # Unbuffered: bytes that a full disk refused are not tried again at the end.
  with open(path, 'r+b' if keep_bytes else 'wb', buffering=0) as file:
    if keep_bytes:
      file.truncate(keep_bytes)
      file.seek(0, os.SEEK_END)
    yield lambda text: _write_whole(file, _packed(path, text))


def _packed(path: str, text: str) -> bytes:
  data = text.encode()
  # Nothing packed is 20 bytes, and many looks find no answer that is done.
  if not data or not files.is_packed(path):
    return data
  # Without the time, so that the same answers are the same bytes.
  return gzip.compress(data, mtime=0)


def _print_whole(text: str) -> None:
  with _signals_wait():
    try:
      sys.stdout.write(text)
      sys.stdout.flush()
    except BrokenPipeError:
      raise
    except OSError as error:
      raise OSError(
        f'Cannot write to standard output: {error.strerror}.'
      ) from None


def _write_whole(file, data: bytes) -> None:
  start = file.tell() if file.seekable() else None
  with _signals_wait():
    try:
      while data:
        data = data[file.write(data) :]
    except BrokenPipeError:
      raise
    except OSError as error:
      if start is not None:
        with contextlib.suppress(OSError):
          file.truncate(start)
      raise OSError(f'Cannot write to {file.name}: {error.strerror}.') from None


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
  """Handles SIGINT and SIGTERM after the block instead of inside it."""
  arrived = []
  before = {}
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGTERM):
      before[number] = signal.signal(
        number, lambda number, frame: arrived.append(number)
      )
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if arrived:
    signal.raise_signal(arrived[0])
