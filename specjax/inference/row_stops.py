"""Stop strings of a setting, of a line, and of each row of a job."""

from typing import Any

from specjax import files
from specjax import stop_strings
from specjax.inference import each


def of_setting(stop: Any) -> tuple[str, ...]:
  """The stop strings of the setting `stop`.

  Args:
    stop: a string, in which \\n and \\t stand for a line end and a tab, several
      as JSON or as a sequence, or '' for none.

  Raises:
    ValueError: something in it is no string.
  """
  if isinstance(stop, str) and stop.startswith('['):
    try:
      stop = files.parse_json(stop, strict=False)
    except ValueError:
      stop = [stop]
  if isinstance(stop, str):
    unescaped = stop.replace('\\n', '\n').replace('\\t', '\t')
    return (unescaped,) if stop else ()
  if not all(isinstance(item, str) for item in stop):
    raise ValueError(f'stop must hold strings, not {stop!r}.')
  return tuple(stop)


def of_line(name: str, value: Any) -> tuple[str, ...]:
  """Stop strings of a line, as they are written: a string, or a list.

  Args:
    name: name of the setting.
    value: value in the line.

  Raises:
    ValueError: it is something else, or holds an empty string.
  """
  found = [value] * bool(value) if isinstance(value, str) else value
  good = isinstance(found, (list, tuple))
  if not good or not all(isinstance(one, str) and one for one in found):
    raise ValueError(
      f'{name} must be a string or a list of strings, none of them empty, not '
      f'{value!r}.'
    )
  return tuple(found)


class RowStops:
  """Stops of the rows of a job; those of equal strings are made once."""

  def __init__(self, tokenizer: Any, strings: tuple[str, ...] | each.Each):
    self._tokenizer = tokenizer
    self._strings = strings
    self._made: dict[tuple[str, ...], stop_strings.Stops] = {}

  def of(self, place: int) -> stop_strings.Stops:
    """The stops of the prompt at a place."""
    strings = each.at(self._strings, place)
    if strings not in self._made:
      self._made[strings] = stop_strings.prepare(self._tokenizer, strings)
    return self._made[strings]
