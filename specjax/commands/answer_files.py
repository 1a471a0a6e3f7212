"""Files of answers: whole lines only, in order, and resumable."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import pathlib
import signal
import sys
import threading
from typing import Any

from specjax import files
from specjax import text as text_lib
from specjax.inference.generate import Answer

Write = Callable[[Sequence[Answer]], None]
WriteText = Callable[[str], None]


def record(answer: Answer) -> dict[str, Any]:
  """The fields of one JSON line; decode/README.md defines them."""
  return {
    # Of a line that carries one.
    **({} if answer.id is None else {'id': answer.id}),
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
  """One line of output, its end included."""
  if as_json:
    return json.dumps(record(answer), ensure_ascii=False) + '\n'
  return text_lib.one_line(answer.text) + '\n'


def check_distinct(**paths: str) -> None:
  """Raises ValueError if two options name one file; '' and '-' name none."""
  seen: dict[str, str] = {}
  for option, path in paths.items():
    real = os.path.realpath(path)
    if path in ('', '-') or (os.path.exists(real) and not os.path.isfile(real)):
      continue
    if real in seen:
      raise ValueError(
        f'--{seen[real]} and --{option} are the same file, {path}; give each a '
        'file of its own.'
      )
    seen[real] = option


def check_writable(path: str) -> None:
  """Raises OSError with a sentence if a file cannot be written; '-' can."""
  if path == '-':
    return
  file = pathlib.Path(path)
  if file.is_dir():
    raise IsADirectoryError(f'{path} is a folder; give a file to write to.')
  existed = file.exists()
  if existed and not file.is_file():  # Opening a pipe would wait for a reader.
    return
  try:
    file.open('ab').close()
  except OSError as error:
    raise OSError(f'Cannot write to {path}: {error.strerror}.') from None
  if not existed:
    file.unlink()


def count_answered(
  path: str, prompts: Sequence[str], per_prompt: int, key: str = 'prompt'
) -> tuple[int, int]:
  """Counts the answers of an interrupted output.

  Args:
    path: path of the output.
    prompts: texts of the prompts, with which JSON lines are compared.
    per_prompt: number of lines a prompt.
    key: name of a prompt's text, or of what stands for it, in a line.

  Returns:
    (answers of completed prompts, their bytes). A last line without its end,
    and answers of a prompt that has not got all of them, do not count.

  Raises:
    ValueError: the file answers other prompts.
  """
  file = pathlib.Path(path)
  if not file.exists():
    return 0, 0
  lines = file.read_bytes().split(b'\n')[:-1]
  if len(lines) > len(prompts) * per_prompt:
    raise ValueError(
      f'{path} has {len(lines)} lines for {len(prompts)} prompts, so it cannot '
      'be resumed; give the input and settings it was begun with.'
    )
  if path.endswith('.jsonl') or key != 'prompt':
    for number, row in enumerate(lines):
      if _value_of(row, key) != prompts[number // per_prompt]:
        raise ValueError(
          f'{path}, line {number + 1} does not answer prompt '
          f'{number // per_prompt + 1} of the input, so it cannot be resumed.'
        )
  # 5 whole lines at 2 answers a prompt: 4 count, and the third prompt, which
  # has one of its two, is decoded anew.
  count = len(lines) - len(lines) % per_prompt
  return count, sum(len(row) + 1 for row in lines[:count])


def _value_of(row: bytes, key: str) -> Any:
  try:
    parsed = files.parse_json(row)
  except ValueError:
    return None
  return parsed.get(key) if isinstance(parsed, dict) else None


@contextlib.contextmanager
def writer(path: str, keep_bytes: int = 0) -> Iterator[Write]:
  """Opens an output.

  Args:
    path: path of a file, or '-' for standard output; JSON lines if it ends in
      .jsonl.
    keep_bytes: bytes that are kept of an existing file.

  Yields:
    A function that writes answers, as that of `lines_writer` writes lines.
  """
  as_json = path.endswith('.jsonl')

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
  """
  if path == '-':
    yield _print_whole
    return
  existed = os.path.exists(path)
  # Unbuffered: bytes that a full disk refused are not tried again at the end.
  with open(path, 'r+b' if keep_bytes else 'wb', buffering=0) as file:
    if keep_bytes:
      file.truncate(keep_bytes)
      file.seek(0, os.SEEK_END)
    try:
      yield lambda text: _write_whole(file, text.encode())
    except OSError:
      # A full disk leaves no empty file.
      if not existed and not os.path.getsize(path):
        os.remove(path)
      raise


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
