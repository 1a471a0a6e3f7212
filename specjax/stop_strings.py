"""Stop strings: the first token at which one of them is complete.

The text of a row is not always the beginning of the text of a longer one: an
unfinished character hides others before it, and some tokenizers clean up spaces
afterwards. The place of a stop is therefore defined by the tokens alone,
whatever number of them was decoded at a time: it is the smallest number of
tokens whose text (`text.decode`) holds a stop string. Of several stops in this
text, the one that ends first counts, and of those the longest. A special token
among the stops is found by its id.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from specjax import pieces
from specjax import text as text_lib

# Tokens that are searched at a time.
_CHUNK = 32
# Characters by which a text that begins in the middle of a row may differ at
# its start: a space, bytes of a character, cleaned-up spaces.
_SLACK = 8


class Stops(NamedTuple):
  """Stop strings of one tokenizer.

  Attributes:
    tokenizer: tokenizer of the target.
    strings: the stop strings.
    ids: {id: string} of those that are special tokens.
    mixed: those that have a special token among other text.
    only_appends: whether tokens never change the text before them.
    values: {id: byte} of the `<0xE2>` pieces.
    hidden: ids of the special tokens.
  """

  tokenizer: Any
  strings: tuple[str, ...]
  ids: dict[int, str]
  mixed: tuple[str, ...]
  only_appends: bool
  values: dict[int, int]
  hidden: frozenset[int]


def prepare(tokenizer: Any, strings: Sequence[str]) -> Stops:
  """Stops of a tokenizer.

  Args:
    tokenizer: tokenizer of the target; may be None where there are no strings.
    strings: stop strings, none of them empty.
  """
  if not strings:
    return Stops(tokenizer, (), {}, (), True, {}, frozenset())
  special = pieces.specials(tokenizer)
  return Stops(
    tokenizer,
    tuple(strings),
    {special[stop]: stop for stop in strings if stop in special},
    tuple(
      stop
      for stop in strings
      if stop not in special and any(name in stop for name in special)
    ),
    pieces.only_appends(tokenizer),
    pieces.byte_values(tokenizer),
    frozenset(special.values()),
  )


def find(
  stops: Stops, tokens: Sequence[int], begin: int = 0
) -> tuple[int, str] | None:
  """Finds the first stop in generated tokens.

  The search is over decoded text, so a stop may begin and end inside tokens
  and run across several.

  Args:
    stops: result of `prepare`.
    tokens: generated ids.
    begin: number of tokens that are known to hold no stop.

  Returns:
    (number of tokens up to and including the one that completes a stop, the
    text before this stop), or None if there is none.
  """
  while stops.strings and begin < len(tokens):
    end = min(begin + _CHUNK, len(tokens))
    start = _window(stops, tokens, begin)
    if not stops.only_appends or _suspicious(
      stops, tokens, (start, begin, end)
    ):
      for count in range(begin + 1, end + 1):
        found = _at(stops, tokens, start, count)
        if found is not None:
          return count, found
    begin = end
  return None


def with_special(stops: Stops, tokens: Sequence[int], before: str) -> str:
  """The text before a stop with its special tokens spelled.

  Args:
    stops: result of `prepare`.
    tokens: ids up to the one that completes the stop.
    before: text that `find` gave for them.
  """
  # tokens [<s> a bc d], stop 'cd', before 'ab': [<s> a bc] is the shortest
  # beginning with a text as long as 'ab', and its text 'abc' is one letter over
  size, end = len(before), len(tokens)
  while (
    end and len(text_lib.decode(stops.tokenizer, tokens[: end - 1])) >= size
  ):
    end -= 1
  over = len(text_lib.decode(stops.tokenizer, tokens[:end])) - size
  if not over and not stops.mixed:
    # What stands between the text and the stop belongs to the text.
    shown = stops.hidden - set(stops.ids)
    while end < len(tokens) and tokens[end] in shown:
      end += 1
  full = text_lib.decode(stops.tokenizer, tokens[:end], special=True)
  return full[: len(full) - over]


def _window(stops: Stops, tokens: Sequence[int], begin: int) -> int:
  """Start of the tokens that decide whether a stop ends behind `begin`.

  A window keeps the search of a long row linear.
  """
  needed = max(map(len, stops.strings)) + _SLACK
  width = needed // 2
  while width < begin:
    start = pieces.cut_before(tokens, begin - width, stops.values, stops.hidden)
    text = text_lib.decode(stops.tokenizer, tokens[start:begin])
    # Of a character that is not finished yet, this may be in the text.
    open_ = len(text) - len(text.rstrip(pieces.REPLACEMENT))
    if len(text) - min(open_, pieces.LONGEST) >= needed:
      return start
    width *= 2
  return 0


def _suspicious(
  stops: Stops, tokens: Sequence[int], places: tuple[int, int, int]
) -> bool:
  """Whether some token of a chunk may complete a stop.

  Only for tokenizers whose text grows at its end: then a stop that is there
  early is there at the end too, but for unfinished characters.
  """
  start, begin, end = places
  text = text_lib.decode(stops.tokenizer, tokens[start:end])
  return (
    pieces.REPLACEMENT in text
    or any(stop in text for stop in stops.strings)
    or any(token in stops.ids for token in tokens[begin:end])
    or (bool(stops.mixed) and _holds_mixed(stops, tokens[start:end]))
  )


def _raw(stops: Stops, tokens: Sequence[int], hide: bool = True) -> str:
  return stops.tokenizer.decode(tokens, skip_special_tokens=hide)


def _holds_mixed(stops: Stops, tokens: Sequence[int]) -> bool:
  text = _raw(stops, tokens, hide=False)
  return any(stop in text for stop in stops.mixed)


def _at(
  stops: Stops, tokens: Sequence[int], start: int, count: int
) -> str | None:
  """The text before the stop that `count` tokens hold, or None."""
  near = tokens[start:count]
  text = _raw(stops, near)
  if not (
    near[-1] in stops.ids
    or any(stop in text for stop in stops.strings)
    or (stops.mixed and _holds_mixed(stops, near))
  ):
    return None
  # (distance from the end, length of the stop, text before): the first end
  # has the largest distance.
  found = []
  if near[-1] in stops.ids:
    before = text_lib.decode(stops.tokenizer, tokens[: count - 1])
    found.append((0, len(stops.ids[near[-1]]), before))
  whole = text_lib.decode(stops.tokenizer, tokens[:count])
  found += _ends(whole, stops.strings)
  if stops.mixed:
    shown = _raw(stops, tokens[:count], hide=False)
    special = pieces.specials(stops.tokenizer)
    for distance, length, before in _ends(shown, stops.mixed):
      for name in special:
        before = before.replace(name, '')
      found.append((distance, length, before))
  return max(found, key=lambda end: end[:2])[2] if found else None


def _ends(text: str, stops: Sequence[str]) -> list[tuple[int, int, str]]:
  """(distance from the end, length, text before) of the first of each stop."""
  found = []
  for stop in stops:
    at = text.find(stop)
    if at >= 0:
      found.append((len(text) - at - len(stop), len(stop), text[:at]))
  return found
