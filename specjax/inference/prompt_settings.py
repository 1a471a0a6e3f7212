"""Settings of how prompts become tokens."""

import dataclasses

from specjax import chat_template


@dataclasses.dataclass
class PromptSettings:
  """Settings of how prompts become tokens.

  Attributes:
    chat: whether text prompts are wrapped in the tokenizer's chat template.
    prefix: text in front of every text prompt.
    chat_template_kwargs: values that the chat template reads, as a JSON object,
      {"enable_thinking":false}; a line of prompts may hold its own.
    continue_final_message: whether the answer to a chat that ends with a
      message of the assistant continues this message, in place of a new one; a
      line of prompts may hold its own.
  """

  chat: bool = False
  prefix: str = ''
  chat_template_kwargs: str = ''
  continue_final_message: bool = False

  def template(self) -> chat_template.Template:
    """The way in which chats are put into the template.

    Raises:
      ValueError: `chat_template_kwargs` is no JSON object, or names what is
        decided elsewhere.
    """
    given = chat_template.template_kwargs(
      'chat_template_kwargs', self.chat_template_kwargs
    )
    return chat_template.Template(given, self.continue_final_message)
