"""The decode command on lines with settings, and on batches of OpenAI."""

import json

import pytest

from tests.helpers.decode_main import decode
from tests.helpers.decode_main import QUICK

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')

CHAT = '{% for m in messages %}{{ m.content }}{% endfor %}'
URLS = {'messages': '/v1/chat/completions', 'prompt': '/v1/completions'}


@pytest.fixture
def run(folders, tmp_path, capsys):
  def call(rows, *flags, name='out.jsonl', status=0):
    source, output = tmp_path / 'in.jsonl', tmp_path / name
    source.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    capsys.readouterr()
    got = decode(folders, source, f'--output={output}', *QUICK, *flags)
    call.error = error = capsys.readouterr().err
    assert got == status, error
    if status and not output.exists():
      return error
    return [json.loads(line) for line in output.read_text().splitlines()]

  return call


def test_lines_with_settings_and_ids(run):
  rows = [
    {'prompt': 'the cat', 'id': 'a', 'max_new_tokens': 3},
    {'prompt': 'a dog', 'id': 7, 'temperature': 1.0, 'seed': 3},
    {'prompt': 'a dog'},
  ]
  first, second, third = run(rows)
  assert (first['id'], second['id'], 'id' in third) == ('a', 7, False)
  assert first['num_tokens'] <= 3
  assert second['tokens'] != third['tokens']
  (alone,) = run(rows[1:2])
  assert alone['tokens'] == second['tokens']


@pytest.mark.parametrize(
  'rows, words',
  [
    (
      [{'prompt': 'a'}, {'prompt': 'b', 'top_p': 2}],
      'in.jsonl, line 2: top_p must be above 0 and at most 1, not 2.',
    ),
    (
      [{'prompt': 'a', 'temprature': 1}],
      "in.jsonl, line 1 has the unknown key 'temprature'; give temperature.",
    ),
    (
      [{'prompt': 'a', 'id': 1}, {'prompt': 'b', 'id': 1}],
      'line 1 and ',
    ),
    (
      [{'prompt': 'a', 'logit_bias': {'960': 1}}],
      'in.jsonl, line 1: logit_bias has the token id 960, but',
    ),
  ],
)
def test_a_bad_line_is_one_sentence(run, rows, words):
  error = run(rows, status=1)
  assert words in error
  assert error.count('\n') <= error.count('Note') + 2


def request(name, kind='prompt', url='', **body):
  return {
    'custom_id': name,
    'method': 'POST',
    'url': url or URLS[kind],
    'body': {'model': 'm', **body},
  }


def test_a_batch_of_openai_in_and_out(run):
  rows = [
    request('r1', prompt='the cat', max_tokens=4, temperature=0.7, seed=2),
    request('r2', prompt='a dog', stream=True),
    request('r3', prompt=['one two'], stop=['t'], logit_bias={'7': 2}),
  ]
  found = run(rows, '--format=openai_batch', name='out.x', status=1)
  assert [row['custom_id'] for row in found] == ['r1', 'r2', 'r3']
  bad = found.pop(1)
  assert bad['response']['status_code'] == 400
  assert 'stream=true' in bad['error']['message']
  plain = run(
    [
      {'prompt': 'the cat', 'max_new_tokens': 4, 'temperature': 0.7, 'seed': 2},
      {'prompt': 'one two', 'stop': ['t'], 'logit_bias': {'7': 2}},
    ]
  )
  for row, want in zip(found, plain, strict=True):
    assert row['error'] is None and row['response']['status_code'] == 200
    body = row['response']['body']
    assert body['object'] == 'text_completion'
    (choice,) = body['choices']
    assert choice['text'] == want['text']
    reason = {'length': 'length'}.get(want['finish_reason'], 'stop')
    assert choice['finish_reason'] == reason
    assert body['usage']['completion_tokens'] == want['num_tokens']


def test_a_batch_is_resumed_by_its_requests(run, tmp_path):
  rows = [request(f'r{i}', prompt='the cat', seed=i) for i in range(3)]
  flags = (
    '--format=openai_batch',
    '--config.temperature=1',
    '--config.num_return_sequences=2',
  )
  rows = [{**row, 'body': {**row['body'], 'n': 2}} for row in rows]
  rows.insert(0, request('bad', prompt='the cat', wish=1))
  whole = run(rows, *flags, status=1)
  choices = [row['response']['body'].get('choices', ()) for row in whole]
  assert list(map(len, choices)) == [0, 2, 2, 2]
  path = tmp_path / 'out.jsonl'
  lines = path.read_text().splitlines(keepends=True)
  path.write_text(''.join(lines[:2]) + lines[2][:20])
  failed = '1 of 4 prompts have an error'
  assert failed in run.error
  # One that is there already counts too.
  again = run(rows, *flags, '--resume', status=1)
  assert failed in run.error
  for row in (*whole, *again):
    row['response']['body'].pop('created', None)
  assert again == whole
