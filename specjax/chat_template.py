"""Chats as text, by the chat template of a tokenizer."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from specjax import files

# Arguments of a template that the way of a prompt decides, not the user.
_DECIDED = (
  'add_generation_prompt',
  'chat_template',
  'continue_final_message',
  'conversation',
  'messages',
  'padding',
  'return_dict',
  'return_tensors',
  'tokenize',
  'truncation',
)


@dataclasses.dataclass(frozen=True)
class Template:
  """The way in which a chat is put into the chat template.

  Attributes:
    kwargs: values that the template reads.
    continues: whether an answer continues a last message of the assistant, in
      place of a new one.
  """

  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  continues: bool = False


PLAIN = Template()


def template_kwargs(name: str, value: Any) -> dict[str, Any]:
  """Values for a chat template.

  Args:
    name: name of the setting.
    value: a mapping, JSON of one, or '' for none.

  Raises:
    ValueError: it is something else, or names what is decided elsewhere.
  """
  like = 'a JSON object, as {"enable_thinking": false}'
  given = value or {}
  if isinstance(given, str):
    try:
      given = files.parse_json(given, unique=True)
    except ValueError as error:
      raise ValueError(f'{name} must be {like}: {error}.') from None
  if not isinstance(given, Mapping):
    raise ValueError(f'{name} must be {like}, not {value!r}.')
  for key in given:
    if key in _DECIDED:
      raise ValueError(f'{name} must not hold {key!r}, which is decided here.')
  return dict(given)


def apply(
  tokenizer: Any, messages: list[dict[str, Any]], template: Template
) -> str:
  """Text of a chat, up to where the answer begins.

  Args:
    tokenizer: a tokenizer with a chat template.
    messages: the chat.
    template: way in which it is put there.

  Raises:
    ValueError: the template refuses it.
  """
  continues = template.continues and messages[-1]['role'] == 'assistant'
  end = {'add_generation_prompt': not continues}
  if continues:
    end['continue_final_message'] = True
  try:
    return tokenizer.apply_chat_template(
      messages, tokenize=False, **end, **template.kwargs
    )
  # A template is a program of the model's makers and may fail in any way, as on
  # a content of null that it joins to text.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise ValueError(
      f'The chat template refuses the messages: {reason.rstrip(".")}.'
    ) from None
