"""Options of drafters and rules, as `--config.*.NAME.FIELD`.

An entry of a registry names a dataclass of its options. A configuration holds
one instance for each registered entry, in a container whose fields are the
entries' names; from Python, `{'NAME': {'FIELD': value}}` has the same meaning.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import functools
import numbers
import typing
from typing import Any

import jax
import numpy as np

# Kinds of values, the narrowest first, in words.
_KINDS = (
  (bool, 'true or false'),
  (numbers.Integral, 'a whole number'),
  (numbers.Real, 'a number'),
  (str, 'a text'),
)


@dataclasses.dataclass
class NoOptions:
  """Options of an entry that has none."""

  def validate(self) -> None:
    """Nothing can be wrong."""


def static(default: Any) -> Any:
  """A field of a rule's options that is compiled in instead of traced."""
  return dataclasses.field(default=default, metadata={'static': True})


def container(entries: Sequence[Any]) -> Any:
  """Default options of all entries that have any.

  Args:
    entries: entries with a `name`, `options` (a dataclass without required
      fields) and a `summary`, for help.

  Returns:
    A dataclass instance with a field for each entry, named like it.
  """
  kinds = tuple(
    (entry.name, entry.options, entry.summary)
    for entry in entries
    if dataclasses.fields(entry.options)
  )
  return _container_type(kinds)()


def _group(kind: type, summary: str) -> Any:
  """A field that holds the options of an entry."""
  about = {'summary': summary}
  return dataclasses.field(default_factory=kind, metadata=about)


@functools.cache
def _container_type(kinds) -> type:
  for _, kind, _ in kinds:
    # Flags need types, where `from __future__ import annotations` leaves text.
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
      field.type = hints[field.name]
  # Made from the registry, so that a drafter of a plugin has its options too,
  # and cached, because equal containers must be of one type.
  made = dataclasses.make_dataclass(
    'Options',
    [(name, kind, _group(kind, summary)) for name, kind, summary in kinds],
  )
  made.__doc__ = 'Options by name.'
  return made


def of(given: Any, entry: Any) -> Any:
  """The options of one entry.

  Args:
    given: a container, or {entry's name: {field: value}}.
    entry: entry whose options are wanted; one that `given` lacks has its
      defaults.

  Raises:
    ValueError: an unknown field, or options that are no group of fields.
  """
  if _is_container(given):
    return _inside(given, entry)
  if not isinstance(given, Mapping):
    raise ValueError(
      "Options are given as {'NAME': {'FIELD': value}}, not as "
      f'{type(given).__name__}.'
    )
  return _made(entry.name, entry.options, given.get(entry.name, {}))


def _inside(container: Any, entry: Any) -> Any:
  """The options of one entry in a container."""
  return getattr(container, entry.name, None) or entry.options()


def _is_container(given: Any) -> bool:
  """Whether a dataclass instance has groups of options alone."""
  return dataclasses.is_dataclass(given) and all(
    dataclasses.is_dataclass(getattr(given, field.name, None))
    for field in dataclasses.fields(given)
  )


def _made(name: str, kind: type, values: Any) -> Any:
  """An instance of a dataclass of options, of {field: value}.

  A field that is a group of options itself takes {field: value} too.

  Args:
    name: words for the group in messages: `hybrid`, `hybrid.suffix`.
    kind: the dataclass.
    values: {field: value}, or an instance.
  """
  if dataclasses.is_dataclass(values):
    if not isinstance(values, kind):
      raise ValueError(
        f'{name} takes {kind.__name__}, not {type(values).__name__}.'
      )
    return values
  if not isinstance(values, Mapping):
    raise ValueError(f"{name} takes {{'FIELD': value}}, not {values!r}.")
  fields = {field.name: field for field in dataclasses.fields(kind)}
  made = {}
  for field, value in values.items():
    if field not in fields:
      raise ValueError(
        f'{name} has no option {field!r}; it has '
        f'{", ".join(fields) or "none"}{_nearest(field, list(fields))}.'
      )
    group = fields[field].default_factory
    if dataclasses.is_dataclass(group):
      value = _made(f'{name}.{field}', group, value)
    _check_kind(f'{name}.{field}', fields[field].default, value)
    made[field] = value
  return kind(**made)


def _check_kind(name: str, default: Any, value: Any) -> None:
  """Refuses a value of another kind than the default's.

  Of numbers there may be several, one a prompt, which `validate` judges.
  """
  for kind, words in _KINDS:
    if isinstance(default, kind):
      good = isinstance(value, kind)
      if kind is not str and not isinstance(value, str):
        good |= isinstance(value, (Sequence, np.ndarray, jax.Array))
      if not good or isinstance(value, bool) and kind is not bool:
        raise ValueError(f'{name} must be {words}, not {value!r}.')
      return


def check_names(given: Any, entries: Sequence[Any], kind: str) -> None:
  """Raises ValueError for options of an entry that does not exist.

  Args:
    given: options, as in `of`.
    entries: those that exist.
    kind: noun for them, in the plural.
  """
  if not isinstance(given, Mapping):
    return  # `of` refuses what is no container.
  known = [entry.name for entry in entries]
  for name in given:
    if name not in known:
      raise ValueError(
        f'{kind} has no entry {name!r}; there are {", ".join(known)}'
        f'{_nearest(name, known)}.'
      )


def _nearest(name: Any, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(str(name), known, 1)
  return f' (did you mean {close[0]}?)' if close else ''


def changed(given: Any) -> list[str]:
  """Names of the entries whose options are given, or are not the defaults.

  Args:
    given: options, as in `of`.
  """
  if isinstance(given, Mapping):
    return list(given)
  names = [field.name for field in dataclasses.fields(given)]
  return [x for x in names if getattr(given, x) != type(getattr(given, x))()]


def validate_all(given: Any, entries: Sequence[Any]) -> None:
  """Validates the options of entries that are given.

  Args:
    given: options, as in `of`.
    entries: the registered ones; others are validated where they are used.
  """
  # Asked once, as it looks at every group.
  find = _inside if _is_container(given) else of
  for entry in entries:
    validate(find(given, entry), entry.name)


def validate(options: Any, name: str) -> None:
  """Validates the options of one entry, where its dataclass has a `validate`.

  Args:
    options: instance of the dataclass.
    name: name of the entry, for messages.

  Raises:
    ValueError: a value is wrong.
  """
  try:
    getattr(options, 'validate', NoOptions().validate)()
  except TypeError as error:
    raise ValueError(
      f'The options of {name} have a value of a wrong type: {error}.'
    ) from None


def dials(options: Any) -> dict[str, np.ndarray]:
  """The traced part of a rule's options: {field: one value, or one a prompt}.

  int32 where the default is a whole number, else float32, whatever was given.

  Raises:
    ValueError: an option that is no number is not marked as `static`.
  """
  made = {}
  for field in dataclasses.fields(options):
    if field.metadata.get('static'):
      continue
    if not isinstance(field.default, numbers.Number):
      raise ValueError(
        f'The option {field.name} of a verification rule is no number that '
        'could be traced; make its field by specjax.verifiers.static.'
      )
    is_whole = isinstance(field.default, numbers.Integral)
    kind = np.int32 if is_whole else np.float32
    made[field.name] = np.asarray(getattr(options, field.name), kind)
  return made


def static_part(options: Any) -> tuple[tuple[str, Any], ...]:
  """The compiled part of a rule's options, hashable.

  Raises:
    ValueError: an option has a value that is not hashable, or several.
  """
  made = []
  for field in dataclasses.fields(options):
    if field.metadata.get('static'):
      value = getattr(options, field.name)
      several = isinstance(field.default, numbers.Number) and np.ndim(value)
      if several or not _is_hashable(value):
        raise ValueError(
          f'{field.name} is compiled in, so it has one value for all prompts, '
          f'not {value!r}.'
        )
      made.append((field.name, value))
  return tuple(made)


def _is_hashable(value: Any) -> bool:
  # A tuple has a hash only if all that it holds has one.
  try:
    hash(value)
  except TypeError:
    return False
  return True
