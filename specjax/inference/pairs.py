"""Prompts with their completions, as a line or a caller gives them."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import difflib
import numbers
from typing import Any, NamedTuple

import numpy as np

from specjax import prompts as prompts_lib
from specjax import validation
from specjax.inference import encoding
from specjax.inference import line_settings

_KEY = 'completion'
# Settings of a line by which its prompt is encoded.
_ENCODING = line_settings.ENCODING
_KEYS = (*prompts_lib.PROMPTS, _KEY, 'id', *_ENCODING)


class Pair(NamedTuple):
  """A prompt and its completion.

  Attributes:
    line: the prompt.
    completion: text, or token ids; never empty.
  """

  line: prompts_lib.Line
  completion: str | tuple[int, ...]


def of(pairs: Iterable[Any]) -> list[Pair]:
  """Pairs of a caller.

  Args:
    pairs: (prompt, completion) of each, or mappings of these names.

  Raises:
    ValueError: there is none, or one is no pair; names its place.
  """
  if isinstance(pairs, (str, bytes, Mapping)) or not isinstance(
    pairs, Iterable
  ):
    raise ValueError(
      'Pairs must be a list or generator of (prompt, completion), not '
      f'{type(pairs).__name__}.'
    )
  made = []
  for number, pair in enumerate(pairs, 1):
    where = f'Pair {number}'
    if isinstance(pair, Mapping):
      made.append(prompts_lib.of(pair, where))
      continue
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
      raise ValueError(f'{where} must be (prompt, completion), not {pair!r}.')
    line = encoding.line_of(pair[0], where)
    own = {**line.settings, _KEY: pair[1]}
    made.append(dataclasses.replace(line, settings=own))
  if not made:
    raise ValueError('There is no pair; give at least one.')
  return of_lines(made)


def of_lines(lines: Iterable[prompts_lib.Line]) -> list[Pair]:
  """The pairs of lines; warns of keys that are not read.

  Args:
    lines: prompts, their completions among their settings.

  Raises:
    ValueError: there is no completion, a bad one, or a key like one that is
      read; the sentence begins with the line's place.
  """
  made, unread = [], {}
  for line in lines:
    own = {k: v for k, v in line.settings.items() if k in _ENCODING}
    for key in line.settings.keys() - {*_KEYS}:
      _check_unknown(key, line.where)
      unread[key] = None
    if _KEY not in line.settings:
      raise ValueError(
        f'{line.where} has no "{_KEY}" (a string or a list of token ids).'
      )
    completion = _checked(line.settings[_KEY], line.where)
    made.append(Pair(dataclasses.replace(line, settings=own), completion))
  line_settings.note_unread(sorted(unread))
  return made


def _check_unknown(key: str, where: str) -> None:
  """Refuses a key that was perhaps meant as another."""
  near = difflib.get_close_matches(key, _KEYS, 1, line_settings.NEAR)
  if near:
    raise ValueError(f'{where} has the unknown key {key!r}; give {near[0]}.')


def _checked(value: Any, where: str) -> str | tuple[int, ...]:
  """A completion that is text or ids, and not empty."""
  is_row = isinstance(value, (Sequence, np.ndarray))
  if not is_row or isinstance(value, bytes):
    raise ValueError(
      f'{where}: "{_KEY}" must be a string or a list of token ids, not '
      f'{value!r}.'
    )
  if not len(value):
    raise ValueError(
      f'{where}: "{_KEY}" is empty, so there is nothing to score.'
    )
  if isinstance(value, str):
    validation.text(f'{where}: "{_KEY}"', value)
    return value
  for token in value:
    if not isinstance(token, numbers.Integral) or isinstance(token, bool):
      raise ValueError(
        f'{where}: "{_KEY}" must be a string or a list of token ids, and '
        f'{token!r} is no token id.'
      )
  return tuple(int(token) for token in value)
