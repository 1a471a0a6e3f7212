"""Files of prompts: lines in order, checked first and read later."""

import gzip
import io
import itertools
import json
import os
import tracemalloc
import types

import pytest

from specjax import prompts
from specjax.prompt_files import read_prompts
from specjax.training.data import readers


def write(tmp_path, name, data):
  path = tmp_path / name
  path.write_bytes(data)
  return str(path)


@pytest.mark.parametrize(
  'data, expected',
  [
    (b'one\ntwo\n', ['one', 'two']),
    (b'one\ntwo', ['one', 'two']),
    (b'one\r\n\r\ntwo\r\n', ['one', '', 'two']),
    (b'  \none\n', ['', 'one']),
    (b'\xef\xbb\xbfone\n', ['one']),
    ('a\u2028b\n\x0bc\n'.encode(), ['a\u2028b', '\x0bc']),
    (b'\n', ['']),
  ],
)
def test_a_text_file_has_a_prompt_a_line(tmp_path, data, expected):
  lines = read_prompts(write(tmp_path, 'p.txt', data))
  assert [line.source for line in lines] == expected
  assert lines[-1].where.endswith(f'p.txt, line {len(lines)}')


def test_json_lines_hold_prompts_messages_ids_and_settings(tmp_path):
  data = (
    b'{"prompt": "a\\nb", "id": "x7", "temperature": 0.5}\n\n'
    b'{"messages": [{"role": "user", "content": "hi"}], "id": 3}\n'
    b'{"prompt": [5, 6], "other": null}\n'
  )
  path = write(tmp_path, 'p.jsonl', data)
  first, blank, chat, ids = read_prompts(path)
  assert first == prompts.Line(
    'a\nb', 'x7', {'temperature': 0.5}, f'{path}, line 1'
  )
  assert blank == prompts.Line('', where=f'{path}, line 2')
  assert chat.source == [{'role': 'user', 'content': 'hi'}] and chat.id == 3
  assert (ids.source, ids.settings) == ((5, 6), {'other': None})


@pytest.mark.parametrize(
  'data, expected',
  [(b'{"prompt": "a"}\n', ['a']), (b'{x\nb\n', ['{x', 'b'])],
)
def test_standard_input_may_be_either(monkeypatch, data, expected):
  stream = types.SimpleNamespace(buffer=io.BytesIO(data))
  monkeypatch.setattr('sys.stdin', stream)
  assert [line.source for line in read_prompts('-')] == expected


@pytest.mark.parametrize(
  'name, data, words',
  [
    ('p.txt', b'', 'p.txt is empty'),
    ('p.jsonl', b'', 'p.jsonl is empty'),
    ('p.txt', b'good\nb\xffd\n', 'line 2 is not UTF-8 (byte 2 is 0xff)'),
    ('p.jsonl', b'{"prompt": "a"}\n{"prompt"\n', 'line 2 is not JSON'),
    ('p.jsonl', b'["a"]\n', 'line 1 has no "prompt"'),
    ('p.jsonl', b'{"text": "a"}\n', 'line 1 has no "prompt"'),
    ('p.jsonl', b'[' * 100_000 + b'\n', 'line 1 is not JSON: it is nested'),
    ('p.jsonl', b'{"prompt": 3}\n', '"prompt" must be a string'),
    ('p.jsonl', b'{"prompt": [1.5]}\n', 'or a list of token ids'),
    ('p.jsonl', b'{"prompt": [true]}\n', 'or a list of token ids'),
    ('p.jsonl', b'{"prompt": "", "messages": []}\n', 'give one'),
    ('p.jsonl', b'{"prompt": "", "seed": 1, "seed": 2}\n', "'seed' is there"),
    ('p.jsonl', b'{"prompt": "", "id": 1.5}\n', '"id" must be a string or'),
    ('p.jsonl', b'{"messages": []}\n', '"messages" must be a list'),
    ('p.jsonl', b'{"messages": [{"role": 1}]}\n', '"messages" must be a list'),
  ],
)
def test_bad_input_is_told_in_one_sentence(tmp_path, name, data, words):
  with pytest.raises(ValueError) as error:
    read_prompts(write(tmp_path, name, data))
  assert words in str(error.value)
  assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='no input file .*none.txt'):
    read_prompts(str(tmp_path / 'none.txt'))
  with pytest.raises(IsADirectoryError, match='is a folder'):
    read_prompts(str(tmp_path))


def texts(lines):
  return [line.source for line in lines]


def packed(tmp_path, name, data):
  return write(tmp_path, name, gzip.compress(data))


def test_files_follow_each_other(tmp_path, monkeypatch):
  stream = types.SimpleNamespace(buffer=io.BytesIO(b'four\n\n'))
  monkeypatch.setattr('sys.stdin', stream)
  found = read_prompts(
    [
      write(tmp_path, 'a.txt', b'\xef\xbb\xbfone\ntwo'),
      packed(tmp_path, 'b.jsonl.gz', b'{"prompt": "three"}\n'),
      '-',
      packed(tmp_path, 'c.txt.gz', b'five\r\nsix\n'),
    ]
  )
  wanted = ['one', 'two', 'three', 'four', '', 'five', 'six']
  assert texts(found) == wanted and found[-1].source == 'six'
  assert texts(found[1:6:2]) == wanted[1:6:2]
  order = (6, 0, 3, 2, 1, 5, 4)
  assert texts(found[i] for i in order) == [wanted[i] for i in order]
  assert found[1].where == f'{tmp_path}/a.txt, line 2'
  assert found[4].where == 'standard input, line 2'
  assert found[5].where == f'{tmp_path}/c.txt.gz, line 1'
  with pytest.raises(IndexError):
    found[7]
  with pytest.raises(ValueError, match='can be read once only'):
    read_prompts(['-', '-'])


def test_a_pipe_is_read_once(tmp_path):
  ours, theirs = os.pipe()
  os.write(theirs, b'one\ntwo\n')
  os.close(theirs)
  assert texts(read_prompts(f'/dev/fd/{ours}')) == ['one', 'two']
  os.close(ours)


@pytest.mark.parametrize('size', [1, 2, 7, 100])
def test_shards_joined_are_the_input(tmp_path, size):
  lines = [f'p{i}' for i in range(size)]
  data = '\n'.join(lines).encode()
  whole = read_prompts([write(tmp_path, n, data) for n in ('a', 'b')])
  for count in {1, 2, min(3, size), size}:
    shards = [whole.shard(i + 1, count) for i in range(count)]
    assert texts(itertools.chain(*shards)) == lines * 2
    firsts = itertools.accumulate(map(len, shards[:-1]), initial=0)
    assert [shard.first for shard in shards] == list(firsts)
    for shard in shards:
      assert whole[shard.first] == shard[0]
      assert whole.digest(shard.first) == shard.digest(0)
  for number, count in ((0, 2), (3, 2), (-1, 2), (1, 0)):
    with pytest.raises(ValueError, match=f'no shard {number} of {count}'):
      whole.shard(number, count)
  with pytest.raises(ValueError, match=f'{2 * size} prompts make at most'):
    whole.shard(1, 2 * size + 1)


def test_a_digest_is_of_all_turns(tmp_path):
  chat = [
    {'role': 'system', 'content': 'a'},
    {'role': 'user', 'content': 'b'},
  ]
  changed = [
    [chat[0] | {'content': 'c'}, chat[1]],
    [chat[0] | {'role': 'user'}, chat[1]],
    chat[1:],
  ]
  rows = [chat, *changed, [dict(reversed(m.items())) for m in chat]]
  data = '\n'.join(json.dumps({'messages': row}) for row in rows).encode()
  found = read_prompts(write(tmp_path, 'p.jsonl', data))
  *others, same = map(found.digest, range(5))
  assert len(set(others)) == 4 and same == others[0]
  assert found.all_digests() == ''.join([*others, same])


@pytest.mark.parametrize('size', [12, 30, 300])
def test_a_packed_file_cut_short_is_one_sentence(tmp_path, size):
  data = '\n'.join(map(str, range(1000))).encode()
  path = write(tmp_path, 'p.txt.gz', gzip.compress(data)[: size + 1])
  for read in (read_prompts, lambda path: list(readers.lines(path))):
    with pytest.raises(ValueError, match=r'p\.txt\.gz is cut short'):
      read(path)
  path = write(tmp_path, 'q.txt.gz', b'no gzip data\n')
  with pytest.raises(ValueError, match='holds no whole gzip data'):
    read_prompts(path)
  path = packed(tmp_path, 'r.txt.gz', data)
  lines = [line for _, line in readers.lines(path)]
  assert texts(read_prompts(path)) == lines


def test_a_bad_line_may_be_kept_until_it_is_read(tmp_path):
  lines = [b'{"prompt": "a"}', b'{"prompt": 3}', b'b\xff', b'{"prompt": "c"}']
  path = write(tmp_path, 'p.jsonl', b'\n'.join(lines))
  with pytest.raises(ValueError, match='line 2: "prompt" must be a string'):
    read_prompts(path)
  found = read_prompts(path, keeps_bad=True)
  assert texts(found) == ['a', '', '', 'c'] and not found[3].error
  for index, words in ((1, 'must be a string'), (2, 'is not UTF-8')):
    assert found[index].where == f'{path}, line {index + 1}'
    assert f'line {index + 1}' in found[index].error
    assert words in found[index].error


@pytest.mark.parametrize('keeps_bad', [False, True])
def test_a_file_that_changes_meanwhile_is_named(tmp_path, keeps_bad):
  path = write(tmp_path, 'p.jsonl', b'{"prompt": "a"}\n{"prompt": "b"}\n')
  found = read_prompts(path, keeps_bad=keeps_bad)
  for data in (b'{"prompt": "a"}\n{"prompt": "x"}\n', b'{"prompt": "a"}\n'):
    write(tmp_path, 'p.jsonl', data)
    assert found[0].source == 'a'
    with pytest.raises(ValueError, match=r'p\.jsonl has changed since'):
      found[1]


def test_a_prompt_takes_few_bytes_until_it_is_read(tmp_path):
  count = 20_000
  line = '{"messages": [{"role": "user", "content": "%s %d"}]}\n'
  data = ''.join(line % ('words ' * 20, i) for i in range(count)).encode()
  path = write(tmp_path, 'p.jsonl', data)
  for source in (path, packed(tmp_path, 'p.jsonl.gz', data)):
    tracemalloc.start()
    found = read_prompts(source)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count and kept < 50 * count
