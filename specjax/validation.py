"""Checks of settings: each error is one sentence that names the field."""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import math
import numbers
import typing
from typing import Any, NamedTuple

import numpy as np

# Value at a path that a nested dict lacks.
ABSENT = object()
_KINDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  str: 'a string',
}
# Largest whole number of an int32 array.
LARGEST = 2**31 - 1


def one_of(
  name: str,
  value: Any,
  allowed: Sequence[str],
  show: Callable[[str], str] = repr,
) -> None:
  """Raises ValueError unless a value is among those allowed.

  Args:
    name: name of the field.
    value: value to check.
    allowed: values.
    show: function that spells an allowed value.
  """
  if value not in allowed:
    raise ValueError(
      f'{name} must be one of {", ".join(map(show, allowed))}, not {value!r}.'
    )


def choice(default: Any, allowed: Any, *, checked: bool = True) -> Any:
  """A dataclass field whose value is one of several words.

  Args:
    default: a word, or a tuple of them for a field that holds several.
    allowed: the words, or a function that returns them.
    checked: whether `check_choices` refuses other values; without it the words
      are those that help shows.
  """
  about = {'choices': allowed, 'checked': checked}
  return dataclasses.field(default=default, metadata=about)


def unset(default: Any) -> Any:
  """A dataclass field that is None until somebody gives a value.

  Args:
    default: value in force meanwhile, which help shows.
  """
  return dataclasses.field(default=None, metadata={'in_force': default})


def number_or(words: Sequence[str], default: int) -> Any:
  """A dataclass field of a number in whose place some words may stand.

  Args:
    words: the words.
    default: the number meanwhile.
  """
  return dataclasses.field(default=default, metadata={'words': tuple(words)})


def default_of(settings: Any, name: str) -> Any:
  """The default in force of a field of `unset`; None of another."""
  return type(settings).__dataclass_fields__[name].metadata.get('in_force')


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
  """The words that a field of `choice` takes; () for other fields."""
  allowed = field.metadata.get('choices', ())
  return tuple(allowed() if callable(allowed) else allowed)


def check_choices(
  settings: Any, prefix: str = '', show: Callable[[str], str] = repr
) -> None:
  """Raises ValueError where a field of `choice` holds another word.

  Args:
    settings: dataclass instance.
    prefix: names of the groups that it stands in, a dot behind each.
    show: function that spells an allowed word.
  """
  for field in dataclasses.fields(settings):
    if not field.metadata.get('checked'):
      continue
    value = getattr(settings, field.name)
    values = (value or ('nothing',)) if isinstance(value, tuple) else (value,)
    for word in values:
      one_of(prefix + field.name, word, choices_of(field), show)


def at_least(name: str, value: Any, least: float) -> None:
  """Raises ValueError unless value >= least."""
  # Written so that NaN fails too, here and below.
  if not value >= least:
    raise ValueError(f'{name} must be at least {least}, not {value}.')


def hashable(name: str, value: Any) -> None:
  """Raises ValueError for functions that cannot be keys of programs."""
  try:
    hash(value)
  except TypeError as error:
    # An object that can be called need not have a hash: a dataclass has none
    # unless it is frozen.
    raise ValueError(
      f'{name} must be hashable, since programs are remembered by its '
      f'functions ({error}).'
    ) from None


def between(name: str, value: Any, low: float, high: float) -> None:
  """Raises ValueError unless low <= value <= high."""
  if not low <= value <= high:
    raise ValueError(f'{name} must lie between {low} and {high}, not {value}.')


def positive(name: str, value: float) -> None:
  """Raises ValueError unless a number is finite and above 0."""
  if not (math.isfinite(value) and value > 0):
    raise ValueError(f'{name} must be a positive number, not {value}.')


def number(name: str, value: Any) -> None:
  """Raises ValueError unless a value is a plain number."""
  if not is_number(value):
    raise ValueError(f'{name} must be a number, not {value!r}.')


def plain_fields(settings: Any) -> None:
  """Checks the fields of a dataclass that are annotated as plain values.

  Raises:
    ValueError: a field annotated as bool, int, float or str, or as None or one
      of these, holds something else.
  """
  for field in dataclasses.fields(settings):
    # int | None: (int, NoneType); int: (), hence the type itself
    kinds = typing.get_args(field.type) or (field.type,)
    value = getattr(settings, field.name)
    kind = next((kind for kind in kinds if kind in _KINDS), None)
    if kind is None or (value is None and type(None) in kinds):
      continue
    fits = is_number(value) if kind is float else type(value) is kind
    if not fits:
      raise ValueError(f'{field.name} must be {_KINDS[kind]}, not {value!r}.')


def json_kinds(given: Mapping[str, Any], kinds: Mapping[type, str]) -> None:
  """Checks the kinds of values in parsed JSON; null is of every kind.

  Args:
    given: a JSON object.
    kinds: {type: names of fields with a space between them}.

  Raises:
    ValueError: a field holds a value of another kind.
  """
  words = _KINDS | {list: 'a list', dict: 'an object'}
  for kind, names in kinds.items():
    for name in names.split():
      value = given.get(name)
      fits = is_number(value) if kind is float else type(value) is kind
      if value is not None and not fits:
        raise ValueError(f'{name} must be {words[kind]}, not {value!r}.')


def share(name: str, value: Any) -> None:
  """Raises ValueError unless a value is a number in (0, 1]."""
  if not is_number(value) or not 0 < value <= 1:
    raise ValueError(f'{name} must be above 0 and at most 1, not {value}.')


def whole(name: str, value: Any, lowest: int) -> None:
  """Raises ValueError unless a value is a whole number of at least `lowest`."""
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if not is_whole or value < lowest:
    raise ValueError(
      f'{name} must be a whole number of at least {lowest}, not {value}.'
    )


def text(name: str, value: str) -> None:
  """Raises ValueError for half a surrogate pair: no UTF-8 spells it."""
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'{name} is no text: it holds {value[error.start]!a}, half of a '
      'surrogate pair or a byte that was not UTF-8.'
    ) from None


def is_number(value: Any) -> bool:
  """Whether a value is a plain number; a truth value is none."""
  return isinstance(value, (int, float)) and not isinstance(value, bool)


class Difference(NamedTuple):
  """Where two nested dicts differ.

  Attributes:
    path: keys joined by '.'.
    one, other: values there; `ABSENT` where there is none.
  """

  path: str
  one: Any
  other: Any


def difference(
  one: dict, other: dict, free: Collection[str] = (), prefix: str = ''
) -> Difference | None:
  """The first difference of two nested dicts in the order of their keys.

  Args:
    one: dict with keys that are strings.
    other: dict likewise.
    free: paths that may differ.
    prefix: text that paths begin with.
  """
  # In:  {'a': {'b': 1}, 'c': 3} and {'a': {'b': 2}, 'c': 3}
  # Out: Difference('a.b', 1, 2)
  for key in sorted(set(one) | set(other)):
    path = prefix + key
    a, b = one.get(key, ABSENT), other.get(key, ABSENT)
    if path in free or a == b:
      continue
    if not (isinstance(a, dict) and isinstance(b, dict)):
      return Difference(path, a, b)
    found = difference(a, b, free, f'{path}.')
    if found:
      return found
  return None


def each(
  name: str, value: Any, good: Callable[[float], bool], what: str
) -> None:
  """Raises ValueError unless a number, or each of several, is good.

  Args:
    name: name of the field.
    value: a number, or a sequence or array of numbers.
    good: whether a number may stand.
    what: requirement in words.
  """
  # As objects, since an array of numbers would make 1 of True and 1.0 of 1.
  for item in np.ravel(np.asarray(value, dtype=object)):
    is_real = isinstance(item, (numbers.Real, np.number))
    if not is_real or isinstance(item, bool) or not good(item):
      raise ValueError(f'{name} must be {what}, not {item!r}.')


def each_whole(name: str, value: Any, lowest: int) -> None:
  """As `each`, for whole numbers of at least `lowest`."""
  each(
    name,
    value,
    lambda v: isinstance(v, numbers.Integral) and lowest <= v <= LARGEST,
    f'a whole number, {lowest} or more (at most 2**31 - 1)',
  )
