"""Settings that forbid, favour or end by tokens, through `generate`."""

import itertools
import warnings

import numpy as np
import pytest

import specjax
from tests.helpers import own
from tests.helpers import references
from tests.helpers.compilations import counted

NEW, ROWS = 18, 8
PROMPTS = [[4 + 3 * i, 5, 4 + 3 * i, 5, 4 + i] for i in range(ROWS)]
# A row for each setting that may differ by prompt; the last samples.
BY_ROW = dict(
  temperature=[0.0, 0.0, 0.0, 0.0, 3e38, 1e-30, 3e38, 0.9],
  top_k=[0, 0, 0, 0, 1, 0, 0, 0],
  min_p=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
  min_new_tokens=[9, 0, 0, 5, 0, 3, 0, 4],
  presence_penalty=[0.0, 4.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0],
  frequency_penalty=[0.0, 0.0, 1.5, 0.5, 0.0, 1.0, 0.0, 0.7],
)
LISTS = dict(
  suppress_tokens=[6, 11],
  logit_bias={2: 2.5, 20: 1.0},
  bad_words=[[4, 5], [9, 10, 8], [13]],
)
COLD = range(ROWS - 1)


def _decode(target, **settings):
  given = dict(max_new_tokens=NEW, batch_size=ROWS, num_draft=4)
  answers = specjax.generate(target, PROMPTS, **given | settings)
  return own.tokens(answers), own.accepted(answers)


@pytest.fixture(scope='module')
def target():
  return own.target()


@pytest.fixture(scope='module')
def plain(target):
  return _decode(target, **BY_ROW, **LISTS)[0]


def _greedy(model, prompt, values):
  """The likeliest token of the oracle's law, again and again."""
  table = np.asarray(model.params['table'], np.float64)
  history = list(prompt)
  while len(history) < len(prompt) + NEW and history[-1] not in model.eos_ids:
    law = references.warp(
      table[history[-2], history[-1]],
      history,
      prompt_length=len(prompt),
      end_ids=model.eos_ids,
      temperature=0,
      **values,
    )
    history.append(int(np.argmax(law)))
  return tuple(history[len(prompt) :])


def test_plain_decoding_is_the_oracles(target, plain):
  names = ('min_new_tokens', 'presence_penalty', 'frequency_penalty')
  for row in COLD:
    values = {name: BY_ROW[name][row] for name in names}
    assert plain[row] == _greedy(target, PROMPTS[row], values | LISTS), row
  lengths = [len(tokens) for tokens in plain]
  assert min(lengths) < 9 <= lengths[0], lengths


def _forms(target):
  return own.forms(own.target(3)) | {
    'hybrid': specjax.drafters.hybrid(own.target(3)),
    'prompt_lookup': 'prompt_lookup',
    'token_recycling': 'token_recycling',
    'bigram': 'bigram',
  }


def _unchanged(target, plain, rule, form):
  """Checks the tokens; the number of accepted ones."""
  drafter = _forms(target)[form]
  got, accepted = _decode(
    target, drafter=drafter, verifier=rule, **BY_ROW, **LISTS
  )
  rows = range(ROWS) if rule in ('coupled', 'match') else COLD
  assert [got[row] for row in rows] == [plain[row] for row in rows]
  return accepted


FEW = (
  ('sampling', 'probabilities'),
  ('block', 'model'),
  ('traversal', 'token_recycling'),
  ('coupled', 'tree'),
  ('match', 'prompt_lookup'),
)


@pytest.mark.slow
@pytest.mark.parametrize('rule, form', FEW)
def test_drafts_change_no_token(target, plain, rule, form):
  assert _unchanged(target, plain, rule, form)


CHAINS = 'name entry drafter parameters probabilities model bigram'.split()
MANY = (
  *itertools.product(
    ('sampling', 'block', 'coupled', 'match'), [*CHAINS, 'prompt_lookup']
  ),
  *itertools.product(
    ('sampling', 'traversal', 'coupled', 'match'), ('tree', 'token_recycling')
  ),
  ('coupled', 'hybrid'),
)


@pytest.mark.exhaustive
@pytest.mark.parametrize('rule, form', sorted({*MANY} - {*FEW}))
def test_drafts_change_no_token_under_any_rule(target, plain, rule, form):
  _unchanged(target, plain, rule, form)


def test_another_list_recompiles_nothing(target):
  def call(number):
    return _decode(
      target,
      drafter='prompt_lookup',
      suppress_tokens=range(6, 7 + number),
      logit_bias={20 + number: 1.0},
      bad_words=[[4, 5 + i] for i in range(1 + number)],
      stop_token_ids=[40 + number],
      presence_penalty=0.5 + number,
      min_new_tokens=1 + number,
    )

  call(0)
  with counted() as compiled:
    for number in range(1, 6):
      call(number)
  assert not compiled


@pytest.mark.parametrize('settings', [{}, dict(num_beams=2)])
def test_stop_token_ids_end_an_answer(target, settings):
  free = specjax.generate(
    target, PROMPTS[:2], max_new_tokens=NEW, ignore_eos=True, **settings
  )
  stop = free[0].tokens[3]
  place = free[0].tokens.index(stop) + 1
  cut = specjax.generate(
    target,
    PROMPTS[:2],
    max_new_tokens=NEW,
    ignore_eos=True,
    stop_token_ids=[stop, 95],
    **settings,
  )
  if not settings:
    assert cut[0].tokens == free[0].tokens[:place]
  assert cut[0].tokens[-1] == stop and cut[0].finish_reason == 'eos'
  assert free[0].finish_reason == 'length'


def test_words_are_their_tokens_with_and_without_a_space(target):
  tokenizer = target.tokenizer
  free = specjax.generate(target, ['the cat'], max_new_tokens=6)[0]
  # The language repeats itself in cycles of four tokens.
  word = tokenizer.decode(free.tokens[1:3])
  cut = specjax.generate(
    target, ['the cat'], max_new_tokens=6, bad_words=[word.strip()]
  )[0]
  forms = [
    tuple(tokenizer(text, add_special_tokens=False).input_ids)
    for text in (word.strip(), f' {word.strip()}')
  ]
  assert free.tokens[1:3] in forms
  assert cut.tokens[:2] == free.tokens[:2] and cut.tokens[2] != free.tokens[2]


@pytest.mark.parametrize(
  'settings, words',
  [
    (dict(suppress_tokens=[96]), 'suppress_tokens has the token id 96, but'),
    (dict(stop_token_ids=[4, 200]), 'stop_token_ids has the token id 200'),
    (dict(logit_bias={96: 1.0}), 'logit_bias has the token id 96'),
    (dict(bad_words=[[4], [5, 96]]), 'bad_words has the token id 96'),
    (dict(suppress_tokens=[-1]), '-1 is no token id'),
    (dict(suppress_tokens=[1.5]), '1.5 is no token id'),
    (dict(suppress_tokens='3,4'), 'suppress_tokens must be a JSON list of'),
    (dict(suppress_tokens={'a': 1}), 'suppress_tokens must be a list'),
    (dict(logit_bias=[[4, 1.0]]), 'logit_bias must be a map'),
    (dict(logit_bias={'a': 1.0}), "'a' is no token id"),
    (dict(logit_bias={4: float('nan')}), 'not nan for token 4'),
    (dict(logit_bias={4: np.complex64(1)}), 'must hold numbers from -1e30 to'),
    (dict(logit_bias={4: -float('inf')}), 'suppress_tokens forbids one'),
    (dict(logit_bias={4: 1.0, '4': 2.0}), 'two values for token 4'),
    (dict(logit_bias='{"4": 1, "4": 2}'), "the key '4' is there twice"),
    (dict(logit_bias='{"4": 1, "04": 2}'), 'two values for token 4'),
    (dict(bad_words=[[]]), 'bad_words must not hold an empty word'),
    (dict(bad_words=[4, 5]), 'bad_words must be a list'),
    (dict(bad_words='["a",'), 'bad_words must be a list'),
    (dict(min_new_tokens=-1), 'min_new_tokens must be a whole number'),
    (dict(min_new_tokens=[1, 2]), 'min_new_tokens has 2 values for 8 prompts'),
    (dict(presence_penalty=float('inf')), 'presence_penalty must be a number'),
    (dict(frequency_penalty=1e39), 'frequency_penalty must be a number'),
    (dict(suppress_tokens=range(96)), 'leave none of the 96 tokens'),
    (
      dict(suppress_tokens=[i for i in range(96) if i != 2], min_new_tokens=1),
      'leave none of the 96 tokens',
    ),
    (dict(num_beams=2, min_new_tokens=1), 'leave min_new_tokens at 0'),
    (dict(num_beams=2, suppress_tokens=[4]), 'leave suppress_tokens empty'),
    (dict(num_beams=2, bad_words=[[4]]), 'leave bad_words empty'),
    (dict(num_beams=2, logit_bias={4: 1}), 'leave logit_bias empty'),
    (dict(num_beams=2, presence_penalty=1), 'leave presence_penalty at 0'),
  ],
)
def test_refusals(target, settings, words):
  with pytest.raises(ValueError) as error:
    _decode(target, **settings)
  assert words in str(error.value), error.value


def test_words_need_a_tokenizer():
  with pytest.raises(ValueError, match="has the string 'cat', but the target"):
    _decode(own.target(tokenizer=False), bad_words=['cat'])


def test_a_least_above_the_budget_is_named(target):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    got, _ = _decode(target, min_new_tokens=NEW + 1, logit_bias={2: 9.0})
  assert 'min_new_tokens is above max_new_tokens' in str(caught[0].message)
  assert {len(tokens) for tokens in got} == {NEW}
  assert not any(2 in tokens for tokens in got)


def test_an_end_token_alone_is_no_bad_word(target):
  wanted, _ = _decode(target, logit_bias={2: 4.0})
  got, _ = _decode(target, logit_bias={2: 4.0}, bad_words=[[2], [90, 91]])
  assert got == wanted and any(tokens[-1] == 2 for tokens in got)
