"""Reading prompts, lengths and tokenizer comparison."""

import io
import types

import numpy as np
import pytest

from specjax import prompts
from specjax import text
from tests.helpers import tiny


@pytest.fixture(scope='module')
def tokenizer():
  return tiny.tokenizer()


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
  lines = text.read_prompts(write(tmp_path, 'p.txt', data))
  assert [line.source for line in lines] == expected
  assert lines[-1].where.endswith(f'p.txt, line {len(lines)}')


def test_json_lines_hold_prompts_messages_ids_and_settings(tmp_path):
  data = (
    b'{"prompt": "a\\nb", "id": "x7", "temperature": 0.5}\n\n'
    b'{"messages": [{"role": "user", "content": "hi"}], "id": 3}\n'
    b'{"prompt": [5, 6], "other": null}\n'
  )
  path = write(tmp_path, 'p.jsonl', data)
  first, blank, chat, ids = text.read_prompts(path)
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
  assert [line.source for line in text.read_prompts('-')] == expected


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
    text.read_prompts(write(tmp_path, name, data))
  assert words in str(error.value)
  assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='no input file .*none.txt'):
    text.read_prompts(str(tmp_path / 'none.txt'))
  with pytest.raises(IsADirectoryError, match='is a folder'):
    text.read_prompts(str(tmp_path))


def test_prefix_chat_and_empty_prompts(tokenizer):
  plain = text.encode(tokenizer, 'the cat')
  assert text.encode(tokenizer, 'cat', prefix='the ') == plain
  assert text.encode(tokenizer, '') == [tokenizer.bos_token_id]
  assert text.encode(tokenizer, '', prefix='the cat') == plain
  with pytest.raises(ValueError, match='no chat template'):
    text.encode(tokenizer, 'the cat', chat=True)
  with_template = tiny.tokenizer()
  with_template.chat_template = (
    '{% for m in messages %}{{ m.content }} cat{% endfor %}'
  )
  assert text.encode(with_template, 'the', chat=True) == text.encode(
    with_template, [{'role': 'user', 'content': 'the'}]
  )
  shown = text.decode(with_template, text.encode(with_template, 'a', chat=True))
  assert shown == 'a cat'
  # What a shell hands over of a byte that is not UTF-8.
  for chat in (False, True):
    with pytest.raises(ValueError, match=r"'K.udce4se.* is no text"):
      text.encode(with_template, 'K\udce4se', chat=chat)


def test_one_line_has_no_line_end():
  assert text.one_line('a\nb\r\nc') == 'a\\nb\\r\\nc'


def test_widths_are_few_and_wide_enough():
  sizes = sorted({text.bucket(n) for n in range(1, 500)})
  assert sizes == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
  rng = np.random.default_rng(0)
  for _ in range(100):
    lengths = rng.integers(1, rng.integers(2, 3000), 50).tolist()
    chosen = text.widths(lengths)
    assert len(set(chosen)) <= 3
    assert all(w >= n for w, n in zip(chosen, lengths, strict=True))
    assert max(chosen) < max(1.51 * max(lengths), 17)


def test_padding():
  tokens, lengths = text.pad([[5, 6], [], [7]], 3)
  assert tokens.tolist() == [[5, 6, 0], [0, 0, 0], [7, 0, 0]]
  assert lengths.tolist() == [2, 1, 1]
  assert tokens.dtype == lengths.dtype == np.int32


def test_tokenizers_are_compared_by_what_an_id_means(tokenizer):
  same = tiny.tokenizer()
  text.check_same_vocabulary(tokenizer, same)
  text.check_same_vocabulary(tokenizer, None)
  assert text.fingerprint(tokenizer) == text.fingerprint(same)
  other = tiny.tokenizer(swap=('cat', 'dog'))
  assert text.fingerprint(tokenizer) != text.fingerprint(other)
  vocabulary = tokenizer.get_vocab()
  first = min(vocabulary['▁cat'], vocabulary['▁dog'])
  with pytest.raises(ValueError, match=f'first differing id is {first}, '):
    text.check_same_vocabulary(tokenizer, other)
  longer = tiny.tokenizer()
  longer.add_tokens(['brandnew'])
  with pytest.raises(ValueError, match="missing for the target and 'brandnew'"):
    text.check_same_vocabulary(tokenizer, longer)
  for one, two in ((tokenizer, longer), (longer, tokenizer)):
    text.check_same_vocabulary(one, two, may_lack=True)
  with pytest.raises(ValueError, match=f'first differing id is {first}, '):
    text.check_same_vocabulary(longer, other, may_lack=True)
