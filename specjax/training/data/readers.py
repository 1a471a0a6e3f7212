"""Text files to examples, with one clear sentence for each bad input."""

import codecs
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import os
from typing import Any, NamedTuple

from specjax import files
from specjax import prompts as prompts_lib
from specjax import validation

MAX_REPORTED = 80


class Pairs(NamedTuple):
  """Sentence pairs as they were read.

  Attributes:
    sources: strings or lists of ids.
    targets: likewise.
    cut: whether a target was cut by its budget, so that no end belongs to it.
    skipped: lines left out.
  """

  sources: list
  targets: list
  cut: list[bool]
  skipped: int


def _raw_lines(path: str) -> Iterator[tuple[int, bytes]]:
  """Yields (line number from 1, line without its end)."""
  if os.path.isdir(path):
    raise IsADirectoryError(f'Data file {path} is a folder; name the files.')
  if not os.path.isfile(path):
    raise FileNotFoundError(f'Data file {path} does not exist.')
  if os.path.getsize(path) == 0:
    raise ValueError(f'Data file {path} is empty.')
  # Bytes, so that a line which is not UTF-8 is one bad line and not a bad file.
  # They are parted at line feeds alone; `str.splitlines` would also part a line
  # at U+2028, and all numbers behind it would be wrong.
  with files.opened(path) as f:
    for number, raw in enumerate(f, 1):
      if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
      yield number, raw.rstrip(b'\r\n')


def _decode(path: str, number: int, raw: bytes) -> str:
  try:
    return raw.decode('utf-8')
  except UnicodeDecodeError as e:
    raise ValueError(
      f'{path}, line {number}: not UTF-8 (byte {e.start} of the line is '
      f'{raw[e.start]:#04x}); convert the file to UTF-8.'
    ) from None


def lines(path: str) -> Iterator[tuple[int, str]]:
  """Yields (line number from 1, line as text)."""
  for number, raw in _raw_lines(path):
    yield number, _decode(path, number, raw)


def parsed(
  path: str,
  parse: Callable[[str, int, str], Any],
  skip_bad_lines: bool,
  first: int = 1,
) -> Iterator[Any]:
  """Yields the value of each line: '' of a blank one, None of one left out.

  Args:
    path: path of the file.
    parse: `(path, number, line) -> value`; raises ValueError for a bad line.
    skip_bad_lines: whether bad lines become None instead of being raised.
    first: number of the first line that is parsed.

  Raises:
    FileNotFoundError, ValueError: as `read_pairs`.
  """
  for number, raw in _raw_lines(path):
    if number < first:
      continue
    try:
      line = _decode(path, number, raw)
      value = parse(path, number, line) if line.strip() else ''
    except ValueError:
      if not skip_bad_lines:
        raise
      value = None
    yield value


def json_line(path: str, number: int, line: str) -> dict[str, Any]:
  """The object of a line.

  Args:
    path: path of the file, for messages.
    number: number of the line, for messages.
    line: text of the line.

  Raises:
    ValueError: it is no JSON object, or holds half a surrogate pair.
  """
  try:
    record = files.parse_json(line)
  except ValueError as e:
    words = getattr(e, 'msg', None) or e
    raise ValueError(
      f'{path}, line {number}: not a JSON object ({words}).'
    ) from None
  if not isinstance(record, dict):
    raise ValueError(f'{path}, line {number}: not a JSON object.')
  for key, value in record.items():
    if isinstance(value, str):
      validation.text(f'{path}, line {number}: the field {key!r}', value)
  return record


def _is_filled(side):
  return bool(side.strip() if isinstance(side, str) else side)


def _pair(path, number, line, fields):
  """One line to (source, target, whether the target was cut by its budget).

  None for a text that was cut: in the ids of one it may end within a word.

  Raises:
    ValueError: one sentence about the line.
  """
  cut = False
  if files.kind(path) == '.jsonl':
    record = json_line(path, number, line)
    cut = record.get('finish_reason') == 'length'
    values = []
    for field in fields:
      value = record.get(field)
      is_ids = isinstance(value, list) and all(map(prompts_lib.is_id, value))
      if not isinstance(value, str) and not is_ids:
        raise ValueError(
          f'{path}, line {number}: the field {field!r} must be a string or '
          f'a list of token ids; the fields are {sorted(record)}.'
        )
      values.append(value)
    source, target = values
    if cut and isinstance(target, str):
      return None
  else:
    if '\t' not in line:
      raise ValueError(
        f'{path}, line {number}: no tab between source and target: '
        f'{line[:MAX_REPORTED]!r}.'
      )
    source, target = line.split('\t')[:2]
  if not all(_is_filled(side) for side in (source, target)):
    raise ValueError(f'{path}, line {number}: source or target is empty.')
  return source, target, cut


def read_pairs(
  paths: Sequence[str],
  *,
  fields: tuple[str, str] = ('source', 'target'),
  skip_bad_lines: bool = False,
) -> Pairs:
  """Reads sentence pairs.

  Args:
    paths: `.tsv` files (source, tab, target; later columns are ignored) or
      `.jsonl` files, whose two `fields` hold strings or lists of token ids.
    fields: names of the two fields in JSON lines. A line whose
      `finish_reason` is 'length' is kept if its target is a list of ids, and
      left out if it is a text.
    skip_bad_lines: count and leave out bad lines instead of raising.

  Returns:
    `Pairs`.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is empty, or a line is bad or not UTF-8.
  """
  found, skipped = [], 0
  parse = functools.partial(_pair, fields=fields)
  for path in paths:
    for pair in parsed(path, parse, skip_bad_lines):
      skipped += pair is None
      if pair:
        found.append(pair)
  if not found:
    raise ValueError(
      f'No sentence pair in {", ".join(paths) or "an empty list of files"}.'
    )
  return Pairs(*map(list, zip(*found, strict=True)), skipped)


def read_text(paths: Sequence[str], *, field: str = '') -> Iterator[str]:
  """Yields texts: lines of a text file, columns of a TSV, fields of JSON lines.

  Args:
    paths: `.tsv`, `.jsonl` or plain-text files.
    field: for JSON lines, the field to take; '' takes every string field.

  Raises:
    FileNotFoundError, ValueError: as `read_pairs`.
  """
  for path in paths:
    for number, line in lines(path):
      if not line.strip():
        continue
      if files.kind(path) == '.jsonl':
        record = json_line(path, number, line)
        if field and not isinstance(record.get(field), str):
          raise ValueError(
            f'{path}, line {number}: no string field {field!r}; the fields '
            f'are {sorted(record)}.'
          )
        keys = [field] if field else sorted(record)
        yield from (record[k] for k in keys if isinstance(record[k], str))
      elif files.kind(path) == '.tsv':
        yield from (column for column in line.split('\t') if column)
      else:
        yield line


def _document(path, number, line, fields):
  """The text of a line: of JSON that of its record, else the line itself."""
  if files.kind(path) != '.jsonl':
    return line
  record = json_line(path, number, line)
  parts = [record[k] for k in fields if isinstance(record.get(k), str)]
  if not parts:
    raise ValueError(
      f'{path}, line {number}: none of the fields {list(fields)}; the fields '
      f'are {sorted(record)}.'
    )
  return '\n'.join(parts)


def read_documents(
  paths: Sequence[str],
  *,
  fields: Sequence[str] = ('text',),
  skip_bad_lines: bool = False,
) -> tuple[list[str], int]:
  """Reads documents for a decoder-only model.

  Args:
    paths: `.jsonl` files, one document a line made of `fields` joined by a
      newline; or plain-text files, whose paragraphs (runs of non-empty lines)
      are the documents.
    fields: names of the fields; those that a record lacks are left out, and
      a record with none of them is an error.
    skip_bad_lines: count and leave out bad records instead of raising.

  Returns:
    the documents, and how many lines were left out.

  Raises:
    FileNotFoundError, ValueError: as `read_pairs`.
  """
  # In:  lines 'a' 'b' '' 'c' of a plain file
  # Out: documents 'a\nb' and 'c'
  documents, skipped = [], 0
  parse = functools.partial(_document, fields=fields)
  for path in paths:
    paragraph = []
    for value in parsed(path, parse, skip_bad_lines):
      if value is None:
        skipped += 1
      elif files.kind(path) == '.jsonl':
        documents.append(value)
      elif value:
        paragraph.append(value)
      elif paragraph:
        documents.append('\n'.join(paragraph))
        paragraph = []
    if paragraph:
      documents.append('\n'.join(paragraph))
  documents = [d for d in documents if d.strip()]
  if not documents:
    raise ValueError(
      f'No text in {", ".join(paths) or "an empty list of files"}.'
    )
  return documents, skipped


def read_inputs(
  paths: Sequence[str], field: str = 'source'
) -> list[prompts_lib.Line]:
  """Reads inputs for a target: the sources of pairs, prompts, or chats.

  Args:
    paths: first column of `.tsv`, lines of other files; of `.jsonl` the text in
      `field`, or the chat in `messages` where a line has no such field.
    field: name in JSON lines.

  Returns:
    Lines with a text or a chat, and with the other keys of a JSON line as
    settings, but for its id; blank texts are left out.

  Raises:
    FileNotFoundError, ValueError: as `read_pairs`.
  """
  inputs = []
  for path in paths:
    for number, line in lines(path):
      if not line.strip():
        continue
      found = prompts_lib.Line(line, where=f'{path}, line {number}')
      if files.kind(path) == '.jsonl':
        found = _input(found.where, json_line(path, number, line), field)
      elif files.kind(path) == '.tsv':
        found = dataclasses.replace(found, source=line.split('\t')[0])
      if not found.is_text or found.source.strip():
        inputs.append(found)
  if not inputs:
    raise ValueError(f'No input in {", ".join(paths)}.')
  return inputs


def _input(where: str, record: dict, field: str) -> prompts_lib.Line:
  """The text or the chat of a record, with its other keys."""
  source = record.get(field)
  if not isinstance(source, str):
    if 'messages' not in record:
      raise ValueError(
        f'{where}: no string field {field!r}, and no "messages".'
      )
    source = prompts_lib.messages(record['messages'], where)
  # Files may number their lines alike, and labels hold no ids.
  read = {field, 'id', *prompts_lib.PROMPTS}
  more = {key: value for key, value in record.items() if key not in read}
  return prompts_lib.Line(source, settings=more, where=where)
