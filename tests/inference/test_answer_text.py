"""Special tokens in an answer's text, where a user asks for them."""

import numpy as np
import pytest

import specjax
from specjax import pieces
from specjax import stop_strings
from specjax import text
from tests.helpers import own
from tests.helpers import tiny
from tests.helpers import tokenizers_of_bytes


def without(tokenizer, shown):
  """A text without the names of special tokens and without spaces."""
  for name in pieces.specials(tokenizer):
    shown = shown.replace(name, '')
  return shown.replace(' ', '')


def test_special_tokens_are_kept_on_request():
  target = own.target()
  how = dict(max_new_tokens=12, logit_bias={2: 4.0, 1: 5.0, 3: 4.5}, seed=1)
  how |= dict(temperature=1.0, num_return_sequences=4)
  hidden = specjax.generate(target, ['the cat', 'a dog'], **how)
  kept = specjax.generate(
    target, ['the cat', 'a dog'], skip_special_tokens=False, **how
  )
  assert own.tokens(hidden) == own.tokens(kept)
  assert any('<s>' in answer.text for answer in kept)
  for one, other in zip(hidden, kept, strict=True):
    assert other.text == target.tokenizer.decode(other.tokens)
    assert '<' not in one.text
    assert one.text.replace(' ', '') == without(target.tokenizer, other.text)
    assert other.text.endswith('</s>') == (other.finish_reason == 'eos')


def test_a_stop_ends_the_answer_in_the_same_place():
  target = own.target()
  free = specjax.generate(target, ['the cat'], max_new_tokens=16)[0]
  stop = target.tokenizer.decode(free.tokens[6:8]).strip()
  found = [
    specjax.generate(
      target,
      ['the cat'],
      max_new_tokens=16,
      stop=stop,
      skip_special_tokens=skip,
    )[0]
    for skip in (True, False)
  ]
  assert [one.finish_reason for one in found] == ['stop', 'stop']
  assert found[0].tokens == found[1].tokens
  assert found[0].text == found[1].text


MADE = {
  'words': lambda: tiny.tokenizer(),
  'byte_fallback': tokenizers_of_bytes.byte_fallback,
  'byte_level': tokenizers_of_bytes.byte_level,
}


@pytest.mark.parametrize('kind', MADE)
def test_the_text_before_a_stop_has_its_special_tokens(kind):
  tokenizer = MADE[kind]()
  rng = np.random.default_rng(0)
  special = sorted(pieces.specials(tokenizer).values())
  ids = np.array(sorted(set(tokenizer.get_vocab().values()) - set(special)))
  seen = 0
  for _ in range(400):
    tokens = rng.choice(ids, 12).tolist()
    for place in rng.integers(0, 12, 3):
      tokens[place] = int(rng.choice(special))
    begin = int(rng.integers(2, 10))
    stop = text.decode(tokenizer, tokens[begin : begin + 2]).strip()
    if not stop or pieces.REPLACEMENT in stop:
      continue
    stops = stop_strings.prepare(tokenizer, (stop,))
    found = stop_strings.find(stops, tokens)
    if found is None:
      continue
    count, before = found
    shown = stop_strings.with_special(stops, tokens[:count], before)
    full = text.decode(tokenizer, tokens[:count], special=True)
    if pieces.REPLACEMENT in full:
      continue  # A special token stands among the bytes of a character.
    assert full.startswith(shown)
    assert without(tokenizer, shown) == before.replace(' ', '')
    seen += shown != before
  assert seen > 8


def test_a_special_token_between_the_text_and_its_stop_stays():
  tokenizer = tiny.tokenizer()
  ids = tokenizer(' the cat').input_ids[1:]
  stops = stop_strings.prepare(tokenizer, ('cat',))
  tokens = [1, ids[0], 3, *ids[1:]]
  count, before = stop_strings.find(stops, tokens)
  assert '<unk>' not in before
  shown = stop_strings.with_special(stops, tokens[:count], before)
  assert shown.count('<s>') == 1 and shown.count('<unk>') == 1
