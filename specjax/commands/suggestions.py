"""The right options for a mistyped one."""

from collections.abc import Iterable
import difflib
import re

# Least likeness of two names, or of their last parts, from 0 to 1.
NEAR = 0.7
# Likeness of a name that begins with all of the other, and the least number of
# letters of that beginning: 'temp' means 'temperature', 't' may mean anything.
BEGINNING, SHORTEST = 0.9, 3
MOST = 3


# Words of Python for a value that is no number, and plainer ones.
_NUMBERS = (
  (r'invalid literal for int\(\) with base 10: (.*)', 'must be a whole number'),
  (r'could not convert string to float: (.*)', 'must be a number'),
)


def plainly(message: str) -> str:
  """A message of absl about a value, in the words of other refusals.

  In:  "flag --config.top_k=a: invalid literal for int() with base 10: 'a'"
  Out: "--config.top_k must be a whole number, not 'a'."

  Args:
    message: the message.
  """
  for words, right in _NUMBERS:
    found = re.fullmatch(rf'flag (--[^=]*)=.*: {words}', message, re.DOTALL)
    if found:
      return f'{found[1]} {right}, not {found[2]}.'
  return message


def nearest(option: str, known: Iterable[str]) -> list[str]:
  """Known options that may have been meant, the likeliest first.

  Names are compared without dashes and without `config.`, as a whole and by
  their last part, so that a setting is found whatever group it stands in.

    In:  'temprature', ['--target', '--config.temperature', '--config.top_k']
    Out: ['--config.temperature']

  Args:
    option: option without its value; dashes may be left out.
    known: options, with their dashes.
  """
  given = _bare(option)
  scored = [(_likeness(given, _bare(name)), name) for name in known]
  ranked = sorted((x for x in scored if x[0]), key=lambda x: x[0], reverse=True)
  return [name for _, name in ranked[:MOST]]


def question(option: str, known: Iterable[str]) -> str:
  """`nearest` as the end of a sentence; '.' where nothing is near."""
  found = nearest(option, known)
  return f'; did you mean {" or ".join(found)}?' if found else '.'


def _bare(option: str) -> str:
  return option.lstrip('-').removeprefix('config.').lower().replace('-', '_')


def _last(name: str) -> str:
  return name.rpartition('.')[2]


def _likeness(given: str, name: str) -> tuple[float, float] | None:
  """(likeness, likeness of the whole names), to sort by; None: not near."""
  whole = difflib.SequenceMatcher(None, given, name).ratio()
  mine, other = _last(given), _last(name)
  # 'tree' is like the last part of 'drafters.suffix.tree', hardly like the
  # whole.
  last = difflib.SequenceMatcher(None, mine, other).ratio()
  if len(mine) >= SHORTEST and other.startswith(mine):
    last = max(last, BEGINNING)
  best = max(whole, last)
  return (best, whole) if best >= NEAR else None
