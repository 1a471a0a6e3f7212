"""Values of a setting of which some prompts have one of their own."""

from collections.abc import Callable, Iterable
import dataclasses
from typing import Any

from specjax.decoding.token_rows import PerRow


@dataclasses.dataclass(frozen=True)
class Each:
  """A value for all prompts, and those of prompts that have another.

  Attributes:
    usual: value of every other prompt.
    own: {place of a prompt: its value}.
    where: function that names the place of a prompt, for errors.
  """

  # Prompts 0 to 3, of which 2 has a stop string: Each((), {2: ('END',)})
  usual: Any
  own: dict[int, Any]
  where: Callable[[int], str]

  def of(self, place: int) -> Any:
    """The value of the prompt at a place."""
    return self.own.get(place, self.usual)

  def map(self, function: Callable[[Any], Any]) -> 'Each':
    """The results of a function, whose errors name the prompt."""
    usual, own = function(self.usual), {}
    for place, value in self.own.items():
      try:
        own[place] = function(value)
      except ValueError as error:
        raise ValueError(f'{self.where(place)}: {error}') from None
    return dataclasses.replace(self, usual=usual, own=own)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
  """The result of a function, or an `Each` of results."""
  return value.map(function) if isinstance(value, Each) else function(value)


def at(value: Any, place: int) -> Any:
  """The value of the prompt at a place."""
  return value.of(place) if isinstance(value, Each) else value


def values(value: Any) -> list[Any]:
  """Every value that there is."""
  if isinstance(value, Each):
    return [value.usual, *value.own.values()]
  return [value]


# Place of any prompt without a value of its own.
ELSE = -1


def joined(function: Callable[[int], Any], *values: Any) -> Any:
  """The results of a function of several settings.

  Args:
    function: function of a prompt's place, or `ELSE`; its errors name it.
    *values: the settings that it reads, with `at`.

  Returns:
    A result, or `Each` of results where some setting is `Each`.
  """
  several = [value for value in values if isinstance(value, Each)]
  if not several:
    return function(ELSE)
  places = dict.fromkeys(place for value in several for place in value.own)
  given = Each(ELSE, {place: place for place in places}, several[0].where)
  return given.map(function)


def rows(
  value: Any,
  places: Iterable[int] | None,
  function: Callable[[Any], Any] = lambda one: one,
) -> Any:
  """The one value of all prompts, or `PerRow` of those at some places.

  Args:
    value: a value, or `Each` of them.
    places: places of the prompts; None for every value that there is.
    function: function that all of the values go through.
  """
  if not isinstance(value, Each):
    return function(value)
  if places is None:
    return PerRow(map(function, values(value)))
  return PerRow(function(value.of(int(place))) for place in places)
