"""Stop strings and unfinished characters, against texts of every prefix."""

import re

import numpy as np
import pytest
import transformers

import specjax
from specjax import stop_strings
from specjax import text
from specjax.checkpoints import load
from tests.helpers import fakes
from tests.helpers import shared
from tests.helpers import tiny
from tests.helpers import tokenizers_of_bytes

EMOJI = ['<0xF0>', '<0x9F>', '<0x99>', '<0x82>']
LINE_END = '<0x0A>'
BYTE = re.compile(r'<0x(..)>')


def find(tokenizer, tokens, stops, begin=0):
  prepared = stop_strings.prepare(tokenizer, stops)
  return stop_strings.find(prepared, tokens, begin)


def begins_character(data):
  """Whether bytes are the beginning of a character, by trying all ends."""
  ends = [b'', b'\x80', b'\x80\x80']
  return any(
    _is_one(data + bytes([byte]) + end)
    for byte in (0x80, 0x90, 0xA0)
    for end in ends
  )


def _is_one(data):
  try:
    return len(data.decode()) == 1
  except UnicodeDecodeError:
    return False


def whole_text(tokenizer, tokens):
  """Text without an unfinished character at the end."""
  special = {
    i for i, t in tokenizer.added_tokens_decoder.items() if t.special
  } | set(tokenizer.all_special_ids)
  kept = [token for token in tokens if token not in special]
  made = tokenizer.decode(kept, skip_special_tokens=True)
  if not made.endswith('\ufffd'):
    return made
  names = tokenizer.convert_ids_to_tokens(kept)
  letters = transformers.convert_slow_tokenizer.bytes_to_unicode()
  level = {letter: byte for byte, letter in letters.items()}
  for count in (1, 2, 3):
    last = [BYTE.fullmatch(name) for name in names[-count:]]
    if len(last) == count and all(last):
      if begins_character(bytes(int(m[1], 16) for m in last)):
        return tokenizer.decode(kept[:-count], skip_special_tokens=True)
    elif not BYTE.fullmatch(names[-1]):
      data = [level.get(letter, 0) for letter in ''.join(names)[-count:]]
      if begins_character(bytes(data)):
        return made[:-1]
  return made


def reference(tokenizer, tokens, stops):
  """The first prefix that holds a stop, and the text before it."""
  special = dict(
    zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
  )
  for count in range(1, len(tokens) + 1):
    made = whole_text(tokenizer, tokens[:count])
    ends = [
      (made.find(stop) + len(stop), -len(stop), made[: made.find(stop)])
      for stop in stops
      if stop in made
    ]
    if ends:
      return count, min(ends)[2]
    if special.get(tokens[count - 1]) in stops:
      return count, made
  return None


MADE = {
  'byte_fallback': tokenizers_of_bytes.byte_fallback,
  'byte_level': tokenizers_of_bytes.byte_level,
  'word_piece': tokenizers_of_bytes.word_piece,
  'byt5': transformers.ByT5Tokenizer,
  'metaspace': tiny.tokenizer,
  'bundled': lambda: load.load_tokenizer('specjax/assets/demo_target'),
}
REAL = ('stories260K', 'llama2xs', 'bitllama3M')


def tokenizer_of(name):
  if name == 't5':
    return transformers.PreTrainedTokenizerFast(
      tokenizer_file=str(shared.path('data', 't5_tokenizer', 'tokenizer.json'))
    )
  return (
    MADE[name]() if name in MADE else load.load_tokenizer(shared.weights(name))
  )


def random_row(rng, tokenizer, length):
  """Ids of texts, single bytes and characters, and special tokens."""
  size = len(tokenizer)
  few = rng.integers(0, size, 6)
  emoji = tokenizer('\n🙂ö日', add_special_tokens=False).input_ids
  some = tokenizer('a dog. Once', add_special_tokens=False).input_ids
  row = []
  while len(row) < length:
    kind = rng.integers(6)
    if kind == 0:
      row += list(rng.integers(0, size, 2))
    elif kind == 1:
      row += list(rng.choice(few, 4))
    elif kind == 2:
      row += emoji[: rng.integers(1, len(emoji) + 1)]
    elif kind == 3:
      row += some[rng.integers(len(some)) :]
    elif kind == 4:
      row.append(rng.choice(tokenizer.all_special_ids or [0]))
    else:
      row += emoji
  return [int(token) for token in row[:length]]


def random_stops(rng, tokenizer, row):
  """Stops that occur in the text, or nearly."""
  made = whole_text(tokenizer, row[: rng.integers(1, len(row) + 1)]) or 'a'
  stops = []
  for _ in range(rng.integers(1, 4)):
    kind = rng.integers(8)
    at, size = rng.integers(len(made)), rng.integers(1, 7)
    stops.append(made[at : at + size])
    if kind == 0:
      stops[-1] += 'q'
    elif kind == 1:
      stops[-1] = str(rng.choice(['\n', '🙂', '\n🙂', ' ', 'ö']))
    elif kind == 2:
      stops[-1] = str(rng.choice(tokenizer.all_special_tokens or ['</s>']))
  return tuple(stops)


@pytest.mark.parametrize('name', [*MADE, *REAL, 't5'])
def test_the_first_token_that_completes_a_stop(name, trials=300):
  tokenizer = tokenizer_of(name)
  rng = np.random.default_rng(len(name))
  found = 0
  for _ in range(trials):
    row = random_row(rng, tokenizer, int(rng.integers(1, 110)))
    stops = random_stops(rng, tokenizer, row)
    expected = reference(tokenizer, row, stops)
    assert find(tokenizer, row, stops) == expected, (row, stops)
    assert text.decode(tokenizer, row) == whole_text(tokenizer, row), row
    if expected:
      found += 1
      # The same from any place before it, and for any budget behind it.
      begin = int(rng.integers(expected[0]))
      assert find(tokenizer, row[: expected[0]], stops, begin) == expected
  assert found > trials // 3


@pytest.mark.exhaustive
@pytest.mark.parametrize('name', [*MADE, *REAL, 't5'])
def test_the_first_token_of_thousands_of_rows(name):
  test_the_first_token_that_completes_a_stop(name, trials=3000)


@pytest.fixture(scope='module')
def byte_fallback():
  return tokenizers_of_bytes.byte_fallback()


def ids(tokenizer, *names):
  return tokenizer.convert_tokens_to_ids(list(names))


def test_an_unfinished_character_is_left_out_and_no_other(byte_fallback):
  tokens = ids(byte_fallback, '▁Once', '▁upon', LINE_END, *EMOJI, '▁a')
  expected = ['Once', 'Once upon'] + ['Once upon\n'] * 4
  expected += ['Once upon\n🙂', 'Once upon\n🙂 a']
  texts = [text.decode(byte_fallback, tokens[:n]) for n in range(1, 9)]
  assert texts == expected
  # An end token behind it changes nothing, nor does a character of its own.
  assert text.decode(byte_fallback, [*tokens[:6], 2]) == 'Once upon\n'
  own = ids(byte_fallback, 'a', '\ufffd')
  assert text.decode(byte_fallback, own) == 'a\ufffd'
  level = tokenizers_of_bytes.byte_level(size=270)
  tokens = level('a\n🙂\ufffd').input_ids
  texts = [text.decode(level, tokens[:n]) for n in range(1, len(tokens) + 1)]
  assert len(tokens) >= 8 and texts[-1] == 'a\n🙂\ufffd'
  assert set(texts) == {'a', 'a\n', 'a\n🙂', 'a\n🙂\ufffd'}
  assert text.decode(level, [*tokens[:-1], 2]) == 'a\n🙂'


def test_a_stop_in_front_of_an_unfinished_character(byte_fallback):
  tokens = ids(byte_fallback, 'a', LINE_END, *EMOJI, 'b', LINE_END, 'a')
  for length in range(2, len(tokens) + 1):
    assert find(byte_fallback, tokens[:length], ['\n']) == (2, 'a')
  assert find(byte_fallback, tokens, ['🙂']) == (6, 'a\n')
  assert find(byte_fallback, tokens, ['🙂b\n']) == (8, 'a\n')
  assert find(byte_fallback, tokens, ['\ufffd']) is None


@pytest.mark.parametrize(
  'stops, expected',
  [
    (['ab', 'b'], (3, 'xö')),  # Both end at once: the longest.
    (['xöab', 'ö'], (1, 'x')),  # The first end, within one token.
    (['öaba', 'ab'], (3, 'xö')),
    ([' b', 'b▁'], (5, 'xöaba')),  # Over the space that begins a piece.
    (['q'], None),
    ([], None),
  ],
)
def test_the_earliest_end_counts(byte_fallback, stops, expected):
  tokens = ids(byte_fallback, 'xö', 'a', 'b', 'a', '▁b')
  assert find(byte_fallback, tokens, stops) == expected
  assert find(byte_fallback, [], stops) is None


def test_a_special_token_is_found_by_its_id(byte_fallback):
  tokens = ids(byte_fallback, 'a', '<|end|>', 'b', '</s>', 'c')
  assert find(byte_fallback, tokens, ['</s>']) == (4, 'ab')
  assert find(byte_fallback, tokens, ['</s>', '<|end|>']) == (2, 'a')
  assert find(byte_fallback, tokens, ['<unk>']) is None
  # Beside other text it stands where it was generated.
  assert find(byte_fallback, tokens, ['b</s>', '</s>']) == (4, 'a')
  assert find(byte_fallback, tokens, ['</s>c']) == (5, 'ab')
  assert find(byte_fallback, tokens, ['a</s>']) is None
  added = ids(byte_fallback, 'a', '<|think|>', 'b')
  assert find(byte_fallback, added, ['<|think|>']) == (2, 'a')


@pytest.mark.parametrize('make', ['byte_fallback', 'byte_level', 'word_piece'])
def test_the_search_of_a_long_answer_is_linear(make, monkeypatch):
  """2,000 tokens, 8 at a time: the tokens decoded, all calls together."""
  tokenizer, decoded = MADE[make](), []
  rng = np.random.default_rng(0)
  row = rng.integers(4, len(tokenizer) - 1, 2000)
  words = tokenizer(' '.join(tokenizers_of_bytes.TEXTS)).input_ids
  if make == 'word_piece':
    words = ids(tokenizer, 'we', 'do', 'n', "'", 't', 'we', '##s', '.')
  row[200:1800] = np.resize(words, 1600)
  row = row.tolist()
  monkeypatch.setattr(
    type(tokenizer),
    'decode',
    lambda self, tokens, **_: (
      decoded.append(len(tokens)) or self._tokenizer.decode(tokens)
    ),
  )
  stops = stop_strings.prepare(tokenizer, ['zq', '</s>', 'a stop</s>'])
  for end in range(8, 2001, 8):
    assert stop_strings.find(stops, row[:end], end - 8) is None
  # Decoding every prefix would be 2,001,000.
  assert sum(decoded) < 200_000


@pytest.mark.parametrize('broken', [False, True])
def test_a_row_of_bytes_alone_is_searched_in_linear_time(
  byte_fallback, broken, monkeypatch
):
  """2,000 pieces of bytes, 8 at a time: names looked up, tokens decoded."""
  data = 'a stop ö '.encode() * 200
  # One byte that is no character makes U+FFFD of the whole run.
  data = data[:40] + b'\xff' * broken + data[40:]
  row = [byte_fallback.convert_tokens_to_ids(f'<0x{b:02X}>') for b in data]
  row, named, decoded = row[:2000], [], []
  for name, counts in (
    ('convert_ids_to_tokens', named),
    ('convert_tokens_to_ids', named),
    ('decode', decoded),
  ):
    whole = getattr(type(byte_fallback), name)
    monkeypatch.setattr(
      type(byte_fallback),
      name,
      lambda self, tokens, *args, of=whole, at=counts, **more: (
        at.append(len(tokens)) or of(self, tokens, *args, **more)
      ),
    )
  stops = stop_strings.prepare(byte_fallback, ['zq', '\ufffd ö'])
  for end in range(8, len(row) + 1, 8):
    assert stop_strings.find(stops, row[:end], end - 8) is None
  # To look up the run before every check would be 251,000 names.
  assert sum(named) < 20_000 and sum(decoded) < 200_000


CYCLE = ['▁Once', '▁upon', LINE_END, *EMOJI, 'a', 'b', 'o', 'n', 'c', 'e']


@pytest.fixture(scope='module')
def speaker():
  """A model that repeats `CYCLE`, going on where the prompt ends."""
  tokenizer = tokenizers_of_bytes.byte_fallback([10, 0xF0, 0x9F, 0x99, 0x82])
  cycle, size = ids(tokenizer, *CYCLE), len(tokenizer)
  table = np.zeros((size + 1, size, size), np.float32)
  for now, after in zip(cycle, cycle[1:] + cycle[:1], strict=True):
    table[:, now, after] = 9
  lm = fakes.markov_lm(size)
  params = {'table': table, 'source': np.zeros((size, size), np.float32)}
  return specjax.Model.from_lm(lm, params, tokenizer, eos_ids=(2,)), cycle


@pytest.mark.parametrize('drafter', [None, 'prompt_lookup'])
@pytest.mark.parametrize('rows', [1, 4])
def test_answers_end_alike_under_every_schedule(speaker, drafter, rows):
  model, cycle = speaker
  prompts = [cycle + cycle[:at] for at in range(0, 13, 3)]
  for budget in (7, 16, 40):
    settings = dict(drafter=drafter, max_new_tokens=budget, batch_size=rows)
    for stop, last in (('\n', 2), ('🙂', 6), ('ab', 8)):
      found = specjax.generate(model, prompts, stop=stop, **settings)
      for at, answer in zip(range(0, 13, 3), found, strict=True):
        count = (last - at) % 13 + 1
        # This prompt ends inside the emoji, so the next one counts.
        count += 13 * (stop == '🙂' and at == 6)
        tokens = (cycle * 5)[at:][:budget]
        assert answer.finish_reason == ('stop' if count <= budget else 'length')
        assert list(answer.tokens) == tokens[:count]
        made = whole_text(model.tokenizer, answer.tokens)
        assert answer.text == (made.split(stop)[0])
        assert '\ufffd' not in answer.text.removeprefix('\ufffd')
