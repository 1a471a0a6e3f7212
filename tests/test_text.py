"""Encoding, lengths and tokenizer comparison."""

import numpy as np
import pytest

from specjax import text
from tests.helpers import tiny


@pytest.fixture(scope='module')
def tokenizer():
  return tiny.tokenizer()


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
