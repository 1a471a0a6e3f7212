"""Chats as prompts: what the template reads, and where an answer begins."""

import types

import pytest

import specjax
from specjax import chat_template
from specjax import text as text_lib
from specjax.inference import encoding
from specjax.inference.config import DecodeConfig
from tests.helpers import tiny

TEMPLATE = (
  '{% for m in messages %}'
  "{% if m.role == 'system' %}"
  "{{ raise_exception('no system messages') }}{% endif %}"
  "{{ '<s>' + m.role + ' ' + m.content + '</s>' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ '<s>assistant' }}"
  '{% if mood is defined %}{{ mood }}{% endif %}{% endif %}'
)
USER = {'role': 'user', 'content': 'the cat'}
REPLY = {'role': 'assistant', 'content': 'a dog ran'}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('chats') / 'target'
  tiny.save(folder, seed=0)
  loaded = specjax.load(folder)
  loaded.tokenizer.chat_template = TEMPLATE
  return loaded


def text_of(model, line, **settings):
  config = DecodeConfig(**settings)
  ((_, tokens),) = encoding.encode(model, [line], config)
  return model.tokenizer.decode(tokens).replace(' ', '')


def test_a_list_of_text_parts_is_the_text(model):
  parts = [{'type': 'text', 'text': 'the '}, {'type': 'text', 'text': 'cat'}]
  chat = [{'role': 'user', 'content': parts}]
  assert text_of(model, chat) == text_of(model, [USER])
  assert text_of(model, [USER]) == '<s>userthecat</s><s>assistant'
  assert encoding.encode(model, [chat], DecodeConfig())[0][0] == 'the cat'


def test_a_last_message_of_the_assistant_is_continued_if_asked(model):
  line = {'messages': [USER, REPLY]}
  new = '<s>userthecat</s><s>assistantadogran</s><s>assistant'
  assert text_of(model, line) == new
  for kept in (
    text_of(model, {**line, 'continue_final_message': True}),
    text_of(model, line, continue_final_message=True),
  ):
    assert kept == '<s>userthecat</s><s>assistantadogran'
  off = {**line, 'continue_final_message': False}
  assert text_of(model, off, continue_final_message=True) == new
  # The setting of a run is for those chats that have such a message.
  assert text_of(model, [USER], continue_final_message=True) == text_of(
    model, [USER]
  )
  with pytest.raises(ValueError, match='Prompt 1: continue_final_message'):
    text_of(model, {'messages': [USER], 'continue_final_message': True})
  with pytest.warns(UserWarning, match='1 of 2 prompts are chats that end'):
    specjax.generate(model, [[USER, REPLY], [USER]], max_new_tokens=1)


def test_values_for_the_template(model):
  line = {'messages': [USER]}
  settings = dict(chat_template_kwargs='{"mood": "red"}')
  assert text_of(model, line, **settings).endswith('assistantred')
  own = {**line, 'chat_template_kwargs': {'mood': 'house'}}
  assert text_of(model, own, **settings).endswith('assistanthouse')


@pytest.mark.parametrize(
  'chat, words',
  [
    ([{'role': 'system', 'content': 'x'}], 'refuses the messages: no system'),
    (
      [USER, {'role': 'assistant', 'content': None, 'tool_calls': [{}]}],
      'The chat template refuses the messages: ',
    ),
    ([USER, {'role': 'assistant'}], 'message 2 (of the assistant) has no'),
    ([{'role': 'user', 'content': [{'type': 'image'}]}], "type 'image'"),
  ],
)
def test_a_chat_that_cannot_be_read_is_named(model, chat, words):
  with pytest.raises(ValueError) as error:
    specjax.generate(model, [[USER], chat])
  assert words in str(error.value)
  assert str(error.value).startswith('Prompt 2: ')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'value, words',
  [
    ('[1]', 'must be a JSON object'),
    ('{"a"', 'must be a JSON object'),
    ({'tokenize': True}, "must not hold 'tokenize'"),
  ],
)
def test_bad_values_for_the_template(value, words):
  with pytest.raises(ValueError, match=words):
    DecodeConfig(chat_template_kwargs=value).validate()


def test_any_failure_of_a_template_is_one_sentence():
  def fail(messages, **kwargs):
    raise KeyError('x\ny')

  broken = types.SimpleNamespace(chat_template='x', apply_chat_template=fail)
  with pytest.raises(ValueError, match=r"refuses the messages: 'x.{1,3}y'\.$"):
    text_lib.encode(broken, [USER], template=chat_template.PLAIN)
