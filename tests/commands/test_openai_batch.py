"""Lines of OpenAI's batches, read and written."""

import dataclasses
import json

import pytest

from specjax.commands import openai_batch
from specjax.decoding import stats
from specjax.inference.generate import Answer
from specjax.inference.logprobs import Logprob

PARSE = openai_batch.parser(1, None)
CHAT = [{'role': 'user', 'content': 'hi'}]


def line(parse=PARSE, url=openai_batch.CHAT, **body):
  row = {'custom_id': 'a', 'method': 'POST', 'url': url, 'body': body}
  return parse(json.dumps(row), 'b.jsonl, line 4')


def test_fields_of_a_body_are_settings():
  found = line(
    messages=CHAT,
    model='any',
    temperature=0.5,
    top_p=None,
    max_completion_tokens=9,
    max_tokens=5,
    stop='x',
    n=1,
    user='u',
    stream=False,
    logit_bias={'5': -1},
    response_format={'type': 'text'},
  )
  assert (found.source, found.id, found.error) == (CHAT, 'a', '')
  assert found.settings == {
    'temperature': 0.5,
    'max_new_tokens': 9,
    'stop': 'x',
    'logit_bias': {'5': -1},
  }
  ids = line(url=openai_batch.TEXT, prompt=[[5, 6]])
  assert ids.source == (5, 6)


@pytest.mark.parametrize(
  'body, words',
  [
    (dict(messages=CHAT, tools=[{'type': 'function'}]), 'tools='),
    (dict(messages=CHAT, stream=True), 'stream=true is not done here'),
    (dict(messages=CHAT, n=2), 'num_return_sequences=2'),
    (dict(messages=CHAT, logprobs=True), 'decode it with logprobs=0'),
    (dict(messages=CHAT, temperature='a'), 'temperature must be 0 or more'),
    (dict(messages=CHAT, wish=1), 'wish=1 is not done here'),
    (dict(messages=[]), '"messages" must be a list'),
    (dict(prompt='a'), "body has no 'messages'"),
    (dict(url='/v1/embeddings', input='a'), 'url must be /v1/chat/completions'),
    (dict(url=openai_batch.TEXT, prompt=['a', 'b']), '"prompt" must be'),
  ],
)
def test_what_is_not_done_is_the_error_of_the_line(body, words):
  found = line(**body)
  assert words in found.error and found.id == 'a'
  written = openai_batch.record(found, [], 'm')
  assert written['error']['message'] == found.error
  assert written['response']['status_code'] == 400
  assert written['response']['body']['error']['message'] == found.error


@pytest.mark.parametrize('text', ['{', '[]', '{"custom_id": 3}'])
def test_a_line_without_a_name_is_refused(text):
  with pytest.raises(ValueError, match='b.jsonl, line 4 '):
    PARSE(text, 'b.jsonl, line 4')


def answer(sequence, reason):
  best = (Logprob(5, ' b', -1.5),)
  return Answer(
    'hi',
    ' b',
    (5,),
    reason,
    stats.Counts(),
    0,
    sequence,
    logprobs=(Logprob(5, ' b', -1.5, best),),
    num_prompt_tokens=4,
  )


def test_what_does_not_fit_the_target_is_the_error_of_the_line():
  failed = dataclasses.replace(answer(0, 'error'), error='it is too long')
  written = openai_batch.record(line(messages=CHAT), [failed], 'm')
  assert written['error']['message'] == 'it is too long'
  assert written['response']['status_code'] == 400


def test_a_response_has_a_choice_for_each_answer():
  parse = openai_batch.parser(2, 1)
  found = line(parse, messages=CHAT, n=2, logprobs=True, top_logprobs=1)
  assert not found.error
  writer = openai_batch.ResponseWriter([found], 2, 'target')
  assert writer.text([answer(0, 'eos')]) == ''
  row = json.loads(writer.text([answer(1, 'length')]))
  body = row['response']['body']
  assert (row['custom_id'], row['error']) == ('a', None)
  assert (body['object'], body['model']) == ('chat.completion', 'target')
  assert body['usage'] == {
    'prompt_tokens': 4,
    'completion_tokens': 2,
    'total_tokens': 6,
  }
  first, second = body['choices']
  assert (first['index'], first['finish_reason']) == (0, 'stop')
  assert (second['index'], second['finish_reason']) == (1, 'length')
  assert first['message'] == {'role': 'assistant', 'content': ' b'}
  (token,) = first['logprobs']['content']
  assert token['top_logprobs'] == [
    {'token': ' b', 'logprob': -1.5, 'bytes': [32, 98]}
  ]
