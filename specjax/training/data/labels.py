"""The format of labels: what a target answered, as tokens.

The first line of the file, its head, is who answered and how; each further line
is an answer:

  {"specjax_labels": 1, "tokenizer": "9f..", "chat_template": "", "target":
   "c0..", "drafter": "", "settings": {"top_k": 0, ...},
   "from_generation_config": {"repetition_penalty": 1.3}, "made_by": {...}}
  {"prompt_index": 0, "prompt_tokens": [8, 5, 1], "tokens": [7, 1],
   "finish_reason": "eos", "loop_start": null}

The prompt is kept as the target read it: with its chat template, system prompt,
earlier turns and prefix. `loop_start` is the index of the first token of an
ending loop; see `decoding.loops`. An answer to a line with settings of its own
holds these as `settings`.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import json
from typing import Any, NamedTuple

from specjax import files
from specjax import prompts as prompts_lib
from specjax.checkpoints import digests
from specjax.decoding import loops
from specjax.training.data import readers

VERSION = 1
_MARK = 'specjax_labels'
# Digests in the head that bind a reader.
_READ = ('tokenizer', 'chat_template')


class Reader(NamedTuple):
  """Who reads labels, and may read those of its own kind alone.

  Attributes:
    tokenizer: digest of the tokenizer; see `checkpoints.digests`.
    chat_template: digest of the chat template.
    name: name of whoever owns both, for messages.
    target: () -> digest of the target that the labels should be of, or None.
  """

  tokenizer: str
  chat_template: str
  name: str
  target: Callable[[], str] | None = None


class Labels(NamedTuple):
  """Answers of one target, in the order of their files.

  Attributes:
    prompts: token ids of each prompt.
    answers: token ids of each answer.
    skipped: lines left out as bad or without an answer.
    looping: number of answers that end in a loop.
    others: files whose target was another.
  """

  prompts: list[list[int]]
  answers: list[list[int]]
  skipped: int
  looping: int
  others: list[str]


def head(
  tokenizer: str,
  chat_template: str,
  target: str,
  settings: dict[str, Any],
  made_by: dict[str, Any],
  from_generation_config: Mapping[str, Any] | None = None,
  *,
  drafter: str = '',
) -> dict[str, Any]:
  """The first line of a file.

  Args:
    tokenizer: digest of the target's tokenizer.
    chat_template: digest of its chat template.
    target: digest of its weights and settings.
    settings: settings of decoding on which answers depend.
    made_by: names, for people: the target and the files of prompts.
    from_generation_config: values applied from the target's
      generation_config.json where `settings` are open; None for none.
    drafter: digest of the drafter where tokens depend on it, else ''.
  """
  return {
    # First of all fields, since `is_begun` knows a file by its first bytes.
    _MARK: VERSION,
    'tokenizer': tokenizer,
    'chat_template': chat_template,
    'target': target,
    'drafter': drafter,
    'settings': settings,
    'from_generation_config': dict(from_generation_config or {}),
    'made_by': made_by,
  }


def record(
  prompt_index: int,
  prompt_tokens: Sequence[int],
  tokens: Sequence[int],
  finish_reason: str,
  settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The fields of an answer's line; `settings` are the prompt's own."""
  made = {
    'prompt_index': prompt_index,
    'prompt_tokens': list(prompt_tokens),
    'tokens': list(tokens),
    'finish_reason': finish_reason,
    'loop_start': loops.loop_start(tokens),
  }
  return made | ({'settings': dict(settings)} if settings else {})


def parse_head(line: str) -> dict[str, Any] | None:
  """The head that a line is, or None."""
  try:
    found = files.parse_json(line)
  except ValueError:
    return None
  good = isinstance(found, dict) and found.get(_MARK) == VERSION
  groups = ('settings', 'from_generation_config')
  if not good or not all(isinstance(found.get(k), dict) for k in groups):
    return None
  found.setdefault('drafter', '')
  whole = all(isinstance(found.get(key), str) for key in digests.OWNERS)
  return found if whole else None


def is_begun(line: bytes) -> bool:
  """Whether bytes without a line end are the beginning of a head."""
  # b'{"specjax_la' and b'{"specjax_labels": 1, "tok' are; b'{"prompt' is none
  begin = json.dumps({_MARK: VERSION}).removesuffix('}').encode()
  return line.startswith(begin) or begin.startswith(line)


def anew(target: str) -> str:
  """The command that makes labels, for messages."""
  return (
    f'make labels anew with specjax-label --target={target or "TARGET"} '
    '--input=PROMPTS --output=FILE.jsonl'
  )


def read(
  paths: Sequence[str],
  reader: Reader,
  *,
  skip_bad_lines: bool = False,
) -> Labels:
  """Reads labels.

  Args:
    paths: files of this format.
    reader: `Reader`; files of another tokenizer or chat template are refused.
    skip_bad_lines: whether bad lines are counted and left out.

  Raises:
    FileNotFoundError, ValueError: one sentence that names the file and, where
      it is of another format or owner, the command that makes it anew.
  """
  found, skipped, looping, others = [], 0, 0, []
  parse = functools.partial(_row, reader=reader)
  for path in paths:
    about = _checked_head(path, next(readers.lines(path))[1], reader)
    # Asked for behind the check of the head, since a digest reads all weights.
    if reader.target is not None and about['target'] != reader.target():
      others.append(path)
    for row in readers.parsed(path, parse, skip_bad_lines, first=2):
      skipped += row is None
      if row:
        found.append((row['prompt_tokens'], row['tokens']))
        looping += row.get('loop_start') is not None
  if not found:
    raise ValueError(
      f'No labelled answer in {", ".join(paths) or "an empty list of files"}.'
    )
  prompts, answers = map(list, zip(*found, strict=True))
  return Labels(prompts, answers, skipped, looping, others)


def _checked_head(path, line, reader):
  """The head of a file that a reader may read."""
  about = parse_head(line)
  if about is None:
    raise ValueError(
      f'{path} holds no labels of this version: its first line must be the '
      f'head that specjax-label writes; {anew(reader.name)}.'
    )
  for key in _READ:
    if about[key] != getattr(reader, key):
      word = digests.OWNERS[key]
      raise ValueError(
        f'{path} was labelled with another {word} than that of {reader.name}; '
        f'{anew(reader.name)}.'
      )
  return about


def _row(path, number, line, reader):
  """One answer; None for an empty one."""
  row = readers.json_line(path, number, line)
  for field in ('prompt_tokens', 'tokens'):
    value = row.get(field)
    if not isinstance(value, list) or not all(map(prompts_lib.is_id, value)):
      raise ValueError(
        f'{path}, line {number}: {field} must be a list of token ids; '
        f'{anew(reader.name)}.'
      )
  # No token, no loss: an empty answer would be an example without a label.
  return row if row['tokens'] else None
