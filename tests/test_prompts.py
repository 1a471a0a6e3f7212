"""Lines of files of prompts: chats and their contents."""

import pytest

from specjax import prompts


def parts(*texts):
  return [{'type': 'text', 'text': text} for text in texts]


def test_text_parts_are_joined_and_other_fields_stay():
  call = {'role': 'assistant', 'content': None, 'tool_calls': [{'id': 'c'}]}
  reply = {'role': 'tool', 'tool_call_id': 'c', 'content': '4'}
  chat = [{'role': 'user', 'content': parts('2 + ', '2?')}, call, reply]
  assert prompts.messages(chat, 'line 1') == [
    {'role': 'user', 'content': '2 + 2?'},
    call,
    reply,
  ]


@pytest.mark.parametrize(
  'message, words',
  [
    ({'role': 'user'}, 'message 2 (of the user) has no "content"'),
    ({'role': 'assistant', 'content': None}, 'has no "content"; give a'),
    ({'role': 'user', 'content': 5}, 'neither a string nor a list'),
    (
      {'role': 'user', 'content': [*parts('a'), {'type': 'image_url'}]},
      "line 3: message 2 (of the user) has a part of type 'image_url'; text",
    ),
    ({'role': 'user', 'content': ['a']}, "has the part 'a'; a part must be"),
    ({'role': 'user', 'content': [{'type': 'text'}]}, 'a part must be'),
    ({'content': 'a'}, '"messages" must be a list of objects'),
    ('a', '"messages" must be a list of objects'),
  ],
)
def test_a_bad_message_is_refused_by_its_place(message, words):
  with pytest.raises(ValueError) as error:
    prompts.messages([{'role': 'user', 'content': 'x'}, message], 'line 3')
  assert words in str(error.value)
  assert str(error.value).startswith('line 3: ')
