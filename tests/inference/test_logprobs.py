"""Log probabilities of tokens are the target's own, whatever drafts them."""

import json

import numpy as np
import pytest

import specjax
from specjax.commands import answer_files
from specjax.inference import planning
from tests.helpers import own
from tests.helpers.compilations import counted

PROMPTS = [[4 + 3 * i, 5, 4 + 3 * i, 5, 4 + i] for i in range(4)]
# The warp moves what is emitted and none of the log probabilities.
WARP = dict(
  temperature=[0.0, 0.7, 1.5, 1.0],
  top_k=[0, 0, 9, 0],
  presence_penalty=[0.0, 2.0, 0.0, 1.0],
  suppress_tokens=[6, 11],
)
NEW, BEST = 14, 3


@pytest.fixture(scope='module', name='target')
def target_fixture():
  return own.target()


def decode(target, prompts=PROMPTS, **settings):
  given = dict(
    max_new_tokens=NEW, batch_size=4, num_draft=4, logprobs=BEST, seed=3
  )
  return specjax.generate(target, prompts, **given | settings)


def law(target, history):
  """float64 [V]: log probabilities behind a history of ids."""
  table = np.asarray(target.params['table'], np.float64)
  before = history[-2] if len(history) > 1 else own.VOCAB
  logits = table[before, history[-1]]
  return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def check(target, prompt, answer, best=BEST):
  assert len(answer.logprobs) == len(answer.tokens)
  history = list(prompt)
  for token, found in zip(answer.tokens, answer.logprobs, strict=True):
    wanted = law(target, history)
    assert found.id == token
    assert found.logprob == pytest.approx(wanted[token], abs=1e-4)
    order = np.argsort(-wanted)[:best]
    assert [one.id for one in found.top] == order.tolist()
    given = [one.logprob for one in found.top]
    np.testing.assert_allclose(given, wanted[order], atol=1e-4)
    history.append(token)


def check_all(target, rule, form):
  drafter = own.forms(own.target(3)).get(form, form)
  answers = decode(target, drafter=drafter, verifier=rule, **WARP)
  for prompt, answer in zip(PROMPTS, answers, strict=True):
    check(target, prompt, answer)
  assert not form or sum(answer.counts.num_accepted for answer in answers)
  return answers


@pytest.mark.parametrize('rule, form', [('auto', None), ('coupled', 'tree')])
def test_they_are_those_of_the_target_as_it_is(target, rule, form):
  check_all(target, rule, form)


def test_they_change_no_token(target):
  found = check_all(target, 'match', 'drafter')
  plain = decode(
    target, drafter=own.successors(), verifier='match', logprobs=None, **WARP
  )
  assert own.tokens(plain) == own.tokens(found)
  assert all(answer.logprobs is None for answer in plain)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
  'rule, form',
  [
    ('sampling', 'probabilities'),
    ('match', 'prompt_lookup'),
    ('sampling', 'tree'),
    ('traversal', 'token_recycling'),
    ('block', 'model'),
    ('typical', 'drafter'),
    ('lenient', 'model'),
  ],
)
def test_they_are_the_targets_under_any_rule(target, rule, form):
  check_all(target, rule, form)


def test_those_of_an_answer_that_is_cut_at_a_stop_are_cut_too(target):
  free = decode(target, ['the cat'], logprobs=0)[0]
  word = target.tokenizer.decode(free.tokens[3:5]).strip()
  (cut,) = decode(target, ['the cat'], stop=word)
  assert cut.finish_reason == 'stop' and len(cut.tokens) < NEW
  check(target, target.tokenizer('the cat').input_ids, cut)
  assert free.logprobs[0].top == ()


def test_a_line_has_the_text_of_each_token(target):
  (answer,) = decode(target, ['the cat'], logprobs=1)
  line = json.loads(answer_files.line(answer, as_json=True))
  joined = ''.join(one['token'] for one in line['logprobs'])
  assert joined.replace('</s>', '').strip() == line['text'].strip()
  assert [one['id'] for one in line['logprobs']] == line['tokens']
  entry = line['logprobs'][0]
  assert set(entry) == {'id', 'token', 'logprob', 'top'}
  assert set(entry['top'][0]) == {'id', 'token', 'logprob'}
  plain = decode(target, ['the cat'], logprobs=None)
  assert 'logprobs' not in answer_files.record(plain[0])


def test_nothing_is_computed_without_them(target):
  job = planning.plan(target, PROMPTS, max_new_tokens=NEW)
  assert job.recipe.logprobs is None
  decode(target, logprobs=None)
  decode(target, logprobs=2)
  with counted() as compiled:
    decode(target, logprobs=None)
    decode(target, logprobs=2)
  assert not compiled


@pytest.mark.parametrize(
  'settings, words',
  [
    (dict(logprobs=97), 'logprobs=97 asks for more tokens than the 96'),
    (dict(logprobs=-1), 'logprobs must be a whole number, 0 or more'),
    (dict(logprobs=1.5), 'logprobs must be a whole number'),
    (dict(logprobs=True), 'logprobs must be a whole number'),
    (dict(logprobs=[1, 2]), 'logprobs takes one value, not 2'),
    (dict(num_beams=2), 'A beam search .num_beams=2. has a score and no log'),
  ],
)
def test_refusals(target, settings, words):
  with pytest.raises(ValueError, match=words):
    decode(target, **settings)


def test_all_of_the_vocabulary_may_be_asked_for(target):
  (answer,) = decode(target, PROMPTS[:1], logprobs=96, max_new_tokens=2)
  assert {one.id for one in answer.logprobs[0].top} == set(range(96))
  check(target, PROMPTS[0], answer, best=96)
