"""Settings that lines of prompts hold: checked, and one config of them all."""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
from typing import Any
import warnings

import numpy as np

from specjax import chat_template
from specjax import prompts as prompts_lib
from specjax.inference import keywords
from specjax.inference import row_stops
from specjax.inference import value_ranges
from specjax.inference.config import PER_PROMPT
from specjax.inference.each import Each

# Least likeness of an unknown key and the key that is meant, from 0 to 1. Keys
# of other programs, such as 'source' and 'prompt_id', stay below. Settings of a
# run are no candidates: 'type' would be refused for 'dtype'.
NEAR = 0.81
MOST_SHOWN = 5


def _list(name: str, value: Any) -> Any:
  """A setting that names tokens, which a line holds as plain JSON."""
  if isinstance(value, str) and name != 'bad_words':
    raise ValueError(f'{name} must be JSON without quotes, not {value!r}.')
  return value_ranges.LISTS[name](name, value)


def _number(name: str, value: Any) -> Any:
  if np.ndim(value):
    raise ValueError(f'{name} of a prompt must be one number, not {value!r}.')
  value_ranges.check_value(name, value)
  return value


def _flag(name: str, value: Any) -> bool:
  if not isinstance(value, bool):
    raise ValueError(f'{name} must be true or false, not {value!r}.')
  return value


# Functions that read the settings of a line.
READERS: dict[str, Callable[[str, Any], Any]] = {
  **dict.fromkeys(PER_PROMPT, _number),
  **dict.fromkeys(value_ranges.LISTS, _list),
  'stop': row_stops.of_line,
  'chat_template_kwargs': chat_template.template_kwargs,
  'continue_final_message': _flag,
}
# Settings by which a prompt is encoded, and not decoded.
ENCODING = ('chat_template_kwargs', 'continue_final_message')
KEYS = (*prompts_lib.PROMPTS, 'id', *READERS)


def own(line: prompts_lib.Line, others: Sequence[str] = ()) -> dict[str, Any]:
  """The settings of a line, checked.

  Args:
    line: the line; a setting that is null is none.
    others: names of settings that hold for all prompts.

  Returns:
    {name: value}, without keys that are none of ours.

  Raises:
    ValueError: a value is of the wrong type or out of range, or a key is
      unknown and like a known one; the sentence begins with the line's place.
  """
  found = {}
  for key, value in line.settings.items():
    if key not in READERS:
      _check_unknown(key, line.where, others)
    elif value is not None:
      try:
        found[key] = READERS[key](key, value)
      except ValueError as error:
        raise ValueError(f'{line.where}: {error}') from None
  return found


def _check_unknown(key: str, where: str, others: Sequence[str]) -> None:
  """Refuses a key that was perhaps meant as a setting."""
  if key in others:
    raise ValueError(
      f'{where}: {key} holds for all prompts of a run; give it as a setting '
      'and leave it out of the line.'
    )
  plain = key.lower().replace('-', '_')
  near = difflib.get_close_matches(plain, KEYS, 1, NEAR)
  meant = keywords.ELSEWHERE.get(plain, near[0] if near else '')
  if meant:
    raise ValueError(f'{where} has the unknown key {key!r}; give {meant}.')


def parse(text: str, where: str) -> prompts_lib.Line:
  """As `prompts.parse`; refuses settings too that could be of no run."""
  line = prompts_lib.parse(text, where)
  own(line)
  return line


def names_of_all(config: Any) -> list[str]:
  """Names of the settings that hold for all prompts of a run.

  Args:
    config: `DecodeConfig`.
  """
  return [
    field.name
    for field in dataclasses.fields(config)
    if field.name not in READERS
  ]


def gather(
  config: Any, lines: Sequence[prompts_lib.Line], *, early: bool = False
) -> Any:
  """One config with the settings of all lines.

  Args:
    config: `DecodeConfig`, whose values hold where a line has none.
    lines: prompts; read once, in order.
    early: whether the model's own settings are not known yet. Nothing is warned
      of then, and settings are not checked against each other.

  Returns:
    The config; itself where no line has a setting. Numbers are arrays with a
    value for each prompt, other settings and seeds are `Each`.

  Raises:
    ValueError: a line's setting is wrong, or does not fit the config, or two
      lines have one id.
  """
  others = names_of_all(config)
  found: dict[str, Any] = {}
  digests = np.zeros(len(lines), np.int64)  # 8 bytes of each id are kept.
  unread: dict[str, None] = {}
  answered = 0
  common = config.template()
  for place, line in enumerate(lines):
    digests[place] = 0 if line.id is None else hash(line.id) or 1
    if line.is_chat and line.source[-1]['role'] == 'assistant':
      answered += not template_of(line, common).continues
    if line.error or not line.settings:
      continue
    for name, value in own(line, others).items():
      if name not in ENCODING:
        _put(found, (name, place, value), config, lines)
    unread |= dict.fromkeys(k for k in line.settings if k not in READERS)
  _check_ids(digests, lines)
  made = dataclasses.replace(config, **found) if found else config
  if not early:
    note_unread(list(unread))
    _note_ends(answered, len(lines))
    if found:
      _check_together(made, config, lines, others)
  return made


def _put(found: dict, entry: tuple[str, int, Any], config, lines) -> None:
  """Puts the value of a line in its place."""
  name, place, value = entry
  if name not in found:
    usual = config.in_force(name)
    if name in PER_PROMPT and (name != 'seed' or np.ndim(usual)):
      kind = np.int64 if name in value_ranges.WHOLE else np.float64
      found[name] = np.array(np.broadcast_to(usual, len(lines)), kind)
    else:
      usual = config.stops() if name == 'stop' else usual
      found[name] = Each(usual, {}, lambda place: lines[place].where)
  if isinstance(found[name], Each):
    found[name].own[place] = value
  else:
    found[name][place] = value


def _check_together(made, config, lines, others: Sequence[str]) -> None:
  """Refuses settings that do not fit each other, naming the first line."""
  try:
    made.validate()
  except ValueError:
    for line in lines:
      check_line(line, config, others)
    raise


def check_line(
  line: prompts_lib.Line, config: Any, others: Sequence[str]
) -> None:
  """Refuses settings of a line that are wrong or do not fit the others.

  Args:
    line: the line.
    config: `DecodeConfig`, whose values hold where the line has none.
    others: result of `names_of_all`.

  Raises:
    ValueError: the sentence begins with the line's place.
  """
  settings = own(line, others)
  for name in ENCODING:
    settings.pop(name, None)
  if not settings:
    return
  try:
    dataclasses.replace(config, **settings).validate()
  except ValueError as error:
    raise ValueError(f'{line.where}: {error}') from None


def _check_ids(digests: np.ndarray, lines) -> None:
  """Refuses two lines with one id."""
  order = np.argsort(digests, kind='stable')
  ranked = digests[order]
  for at in np.flatnonzero((ranked[1:] == ranked[:-1]) & (ranked[1:] != 0)):
    first, second = lines[int(order[at])], lines[int(order[at + 1])]
    if first.id == second.id:
      raise ValueError(
        f'{first.where} and {second.where} have the same id, {first.id!r}; '
        'give each one of its own.'
      )


def _note_ends(answered: int, count: int) -> None:
  """Warns of chats that end with a message which is not continued."""
  if answered:
    warnings.warn(
      f'{answered} of {count} prompts are chats that end with a message of the '
      'assistant, behind which a new one begins (continue_final_message=true '
      'continues theirs).',
      stacklevel=4,
    )


def note_unread(names: Sequence[str]) -> None:
  """Warns of keys of lines that nothing reads.

  Args:
    names: the keys.
  """
  if names:
    more = len(names) - MOST_SHOWN
    shown = ', '.join(map(repr, names[:MOST_SHOWN]))
    warnings.warn(
      f'Lines hold keys that are not read: {shown}'
      f'{f" and {more} more" if more > 0 else ""}.',
      stacklevel=4,
    )


def note_left_out(lines: Sequence[prompts_lib.Line]) -> None:
  """Warns of settings of lines that a run of one setting leaves out.

  Args:
    lines: prompts.
  """
  found = dict.fromkeys(
    name
    for line in lines
    for name in line.settings
    if name in READERS and name not in ENCODING
  )
  if found:
    warnings.warn(
      f'Lines hold {", ".join(found)}, which are left out: every prompt is '
      'decoded with the settings of the run.',
      stacklevel=3,
    )


def template_of(
  line: prompts_lib.Line, common: chat_template.Template
) -> chat_template.Template:
  """The way in which a chat is put into the template.

  Args:
    line: the chat, whose own settings come first.
    common: that of all chats.

  Raises:
    ValueError: a setting is wrong, or there is no message to continue.
  """
  found = own(line) if line.settings else {}
  continues = found.get('continue_final_message', common.continues)
  if found.get('continue_final_message') and not (
    line.is_chat and line.source[-1]['role'] == 'assistant'
  ):
    raise ValueError(
      f'{line.where}: continue_final_message continues a last message of the '
      'assistant, and there is none; leave it out.'
    )
  more = found.get('chat_template_kwargs', {})
  return chat_template.Template({**common.kwargs, **more}, continues)
