"""One line of a file of prompts: its prompt, its id and settings of its own."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from specjax import files
from specjax import validation

# A chat as [{'role', 'content'}, ...].
Messages = list[dict[str, Any]]
# A prompt: text, a chat, or token ids.
Source = str | Messages | tuple[int, ...]

# Keys of a JSON line that hold its prompt.
PROMPTS = ('prompt', 'messages', 'tokens')
FIELDS = (
  '"prompt" (a string), "messages" (a list of role and content) or "tokens" (a '
  'list of token ids)'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
  """One prompt with what its line holds beside it.

  Attributes:
    source: text, a chat whose contents are strings, or token ids.
    id: name that its answers carry; None where the line has none.
    settings: every other key of the line with its value, unchecked.
    where: place of the line, for errors, as 'prompts.jsonl, line 3'.
    error: reason why the line gets no answer; '' of a good one.
  """

  source: Source
  id: str | int | None = None
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  where: str = ''
  error: str = ''

  @property
  def is_text(self) -> bool:
    """Whether the prompt is text."""
    return isinstance(self.source, str)

  @property
  def is_chat(self) -> bool:
    """Whether the prompt is a chat."""
    return isinstance(self.source, list)


def parse(text: str, where: str) -> Line:
  """A JSON line of a file of prompts.

  In:  '{"prompt": "Once", "id": "a7", "temperature": 0.7}'
  Out: Line('Once', 'a7', {'temperature': 0.7}, where)

  Args:
    text: the line; a blank one is an empty prompt.
    where: place of the line, for errors.

  Raises:
    ValueError: it is no such object; the sentence begins with `where`.
  """
  if not text.strip():
    return Line('', where=where)
  try:
    row = files.parse_json(text, unique=True)
  except ValueError as error:
    raise ValueError(f'{where} is not JSON: {error}.') from None
  return of(row, where)


def of(row: Any, where: str) -> Line:
  """The line that a parsed object stands for; see `parse`."""
  kinds = [key for key in PROMPTS if key in row] if _is_object(row) else []
  if not kinds:
    raise ValueError(f'{where} has no {FIELDS}.')
  if len(kinds) > 1:
    raise ValueError(f'{where} has "{kinds[0]}" and "{kinds[1]}"; give one.')
  (kind,) = kinds
  return Line(
    _READERS[kind](row[kind], where),
    _id(row.get('id'), where),
    {key: row[key] for key in row if key not in (kind, 'id')},
    where,
  )


def is_prompt(row: Any) -> bool:
  """Whether a parsed value is an object with a prompt."""
  return _is_object(row) and any(key in row for key in PROMPTS)


def is_id(value: Any) -> bool:
  """Whether a parsed value can be a token id."""
  # `true` in JSON is an int of Python too. Rows are int32.
  return type(value) is int and 0 <= value <= validation.LARGEST


def _is_object(row: Any) -> bool:
  return isinstance(row, Mapping)


def _prompt(value: Any, where: str) -> str | tuple[int, ...]:
  if isinstance(value, str):
    return value if value.strip() else ''
  if not _are_ids(value):
    raise ValueError(
      f'{where}: "prompt" must be a string, or a list of token ids as [5, 6].'
    )
  return tuple(value)


def _tokens(value: Any, where: str) -> tuple[int, ...]:
  if not _are_ids(value):
    raise ValueError(
      f'{where}: "tokens" must be a list of token ids, as [5, 6].'
    )
  return tuple(value)


def _are_ids(value: Any) -> bool:
  return isinstance(value, (list, tuple)) and all(map(is_id, value))


def _id(value: Any, where: str) -> str | int | None:
  is_whole = isinstance(value, int) and not isinstance(value, bool)
  if value is None or is_whole or isinstance(value, str):
    return value
  raise ValueError(
    f'{where}: "id" must be a string or a whole number, not {value!r}.'
  )


def messages(value: Any, where: str) -> Messages:
  """A chat, checked, with every content as one string.

  The text parts of a content are joined without anything between them. What
  else a message holds, as a template reads it, stays.

  In:  [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]
  Out: [{'role': 'user', 'content': 'Hi'}]

  Args:
    value: a list of objects with `role` and `content`.
    where: place of the chat, for errors.

  Raises:
    ValueError: it is none; the sentence begins with `where`.
  """
  good = isinstance(value, (list, tuple)) and value
  good = good and all(
    _is_object(one) and isinstance(one.get('role'), str) for one in value
  )
  if not good:
    raise ValueError(
      f'{where}: "messages" must be a list of objects with the strings '
      '"role" and "content".'
    )
  made = []
  for number, one in enumerate(value, 1):
    named = f'{where}: message {number} (of the {one["role"]})'
    content = one.get('content')
    if content is None:
      # A call of a tool has no text, and templates know that.
      if one['role'] != 'assistant' or not one.get('tool_calls'):
        raise ValueError(
          f'{named} has no "content"; give a string or a list of text parts.'
        )
      made.append(dict(one))
    else:
      made.append({**one, 'content': _content(content, named)})
  return made


def _content(content: Any, named: str) -> str:
  """The text of a content: a string, or a list of text parts."""
  if isinstance(content, str):
    return content
  if not isinstance(content, (list, tuple)):
    raise ValueError(
      f'{named} has a "content" that is neither a string nor a list of text '
      f'parts, but {content!r}.'
    )
  for part in content:
    kind = part.get('type') if _is_object(part) else None
    if kind is not None and kind != 'text':
      raise ValueError(
        f'{named} has a part of type {kind!r}; text alone is read, as '
        '{"type": "text", "text": "..."}.'
      )
    if kind is None or not isinstance(part.get('text'), str):
      raise ValueError(
        f'{named} has the part {part!r}; a part must be an object, as '
        '{"type": "text", "text": "..."}.'
      )
  return ''.join(part['text'] for part in content)


_READERS = {'prompt': _prompt, 'messages': messages, 'tokens': _tokens}


def shown(source: Source) -> str:
  """A prompt as one string, to show it.

  Args:
    source: a prompt. Of a chat the last message is shown, and '' of token ids,
      which a tokenizer has to turn into text.
  """
  if isinstance(source, str):
    return source
  return '' if isinstance(source, tuple) else source[-1].get('content') or ''
