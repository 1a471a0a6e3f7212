"""Scores of completions are the target's, as transformers computes them."""

import json

import numpy as np
import pytest

import specjax
from tests.helpers import own
from tests.helpers import tiny
from tests.helpers import torch_reference

LENGTHS = ((9, 3), (2, 20), (14, 1), (5, 3), (16, 17), (1, 8), (3, 2))


def pairs_of(vocab, lengths=LENGTHS):
  rng = np.random.default_rng(0)
  return [
    tuple(rng.integers(3, vocab, size).tolist() for size in pair)
    for pair in lengths
  ]


def expected(model, torch, prompt, completion, is_pair):
  """Log probabilities by transformers, one pair at a time."""
  with torch.no_grad():
    if is_pair:
      start = model.config.decoder_start_token_id
      logits = model(
        input_ids=torch.tensor([prompt]),
        decoder_input_ids=torch.tensor([[start, *completion[:-1]]]),
      ).logits[0]
    else:
      whole = [*prompt, *completion[:-1]]
      logits = model(torch.tensor([whole])).logits[0, len(prompt) - 1 :]
    found = torch.log_softmax(logits.float(), -1).numpy()
  return found[np.arange(len(completion)), completion], found


@pytest.mark.parametrize(
  'name',
  ['llama', 't5_tied', pytest.param('gpt2', marks=pytest.mark.exhaustive)],
)
def test_scores_are_those_of_transformers(name, torch, tmp_path):
  reference = torch_reference.build(name, torch)
  folder = torch_reference.save(reference, tmp_path)
  model = specjax.load(folder)
  pairs = pairs_of(60, LENGTHS if name != 'gpt2' else (*LENGTHS, (20, 21)))
  scores = specjax.score(model, pairs, batch_size=4, logprobs=2)
  for (prompt, completion), score in zip(pairs, scores, strict=True):
    wanted, law = expected(
      reference, torch, prompt, completion, name == 't5_tied'
    )
    given = [one.logprob for one in score.logprobs]
    np.testing.assert_allclose(given, wanted, atol=1e-4)
    assert score.tokens == tuple(completion)
    assert score.logprob == pytest.approx(wanted.sum(), abs=1e-3)
    best = [one.top[0].logprob for one in score.logprobs]
    np.testing.assert_allclose(best, law.max(-1), atol=1e-4)


@pytest.fixture(scope='module', name='target')
def target_fixture():
  return own.target()


def test_a_score_is_that_of_the_answer(target):
  prompts = ['the cat', 'a dog ran to the', 'one']
  answers = specjax.generate(
    target, prompts, max_new_tokens=20, logprobs=2, temperature=0.9
  )
  pairs = [(p, a.tokens) for p, a in zip(prompts, answers, strict=True)]
  scores = specjax.score(target, pairs, logprobs=2)
  for answer, score in zip(answers, scores, strict=True):
    assert score.tokens == answer.tokens and score.prompt == answer.prompt
    for one, other in zip(answer.logprobs, score.logprobs, strict=True):
      assert (one.id, one.text) == (other.id, other.text)
      assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
      assert [x.id for x in one.top] == [x.id for x in other.top]
    total = sum(one.logprob for one in answer.logprobs)
    assert score.logprob == pytest.approx(total, abs=1e-4)


def test_neighbours_and_batches_change_nothing(target):
  pairs = pairs_of(96) * 3
  together = specjax.score(target, pairs, batch_size=8)
  alone = specjax.score(target, pairs[:7], batch_size=1)
  for one, other in zip(together[:7], alone, strict=True):
    assert one.tokens == other.tokens
    assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
  assert [s.tokens for s in together] == [tuple(c) for _, c in pairs]


def test_text_is_tokenised_as_it_follows_the_prompt(target):
  tokenizer = target.tokenizer
  whole = tokenizer('the cat sat').input_ids
  prompt = tokenizer('the cat').input_ids
  (score,) = specjax.score(target, [('the cat', ' sat')])
  assert list(score.tokens) == whole[len(prompt) :]
  # 'th' and 'e' are one piece together, which 'th' does not begin.
  (score,) = specjax.score(target, [('th', 'e')])
  alone = tokenizer('e', add_special_tokens=False).input_ids
  assert list(score.tokens) == alone
  # Behind ids a completion stands alone; an end token counts where it is.
  (score,) = specjax.score(target, [([5, 6], 'cat</s>')])
  alone = tokenizer('cat</s>', add_special_tokens=False).input_ids
  assert list(score.tokens) == alone and alone[-1] == 2
  (score,) = specjax.score(target, [{'prompt': 'the', 'completion': [5]}])
  assert score.tokens == (5,) and score.completion


@pytest.mark.parametrize(
  'pairs, words',
  [
    ([('a', 'b'), ('a', '')], 'Pair 2: "completion" is empty'),
    ([('a', [])], 'Pair 1: "completion" is empty'),
    ([('a', [5, 96])], 'Pair 1 holds the token id 96'),
    ([('a', [5, 1.5])], '1.5 is no token id'),
    ([('a', 7)], '"completion" must be a string or a list of token ids, not 7'),
    ([('a',)], "Pair 1 must be .prompt, completion., not ..a',"),
    (['ab'], "Pair 1 must be .prompt, completion., not 'ab'"),
    ('ab', 'Pairs must be a list or generator'),
    ([], 'There is no pair'),
    ([{'prompt': 'a'}], 'Pair 1 has no "completion"'),
    (
      [{'prompt': 'a', 'completions': 'b'}],
      "Pair 1 has the unknown key 'completions'; give completion",
    ),
    ([{'completion': 'a'}], 'Pair 1 has no "prompt"'),
    ([('a', '\ud800')], 'half of a surrogate pair'),
  ],
)
def test_bad_pairs_are_refused(target, pairs, words):
  with pytest.raises(ValueError, match=words):
    specjax.score(target, pairs)


def test_bad_settings_are_refused(target):
  with pytest.raises(TypeError, match='score has no keyword temperature; it'):
    specjax.score(target, [('a', 'b')], temperature=1.0)
  config = specjax.DecodeConfig(top_k=3)
  with pytest.raises(ValueError, match='so top_k changes nothing; leave it'):
    specjax.score(target, [('a', 'b')], config=config)
  with pytest.raises(ValueError, match='logprobs=97 asks for more'):
    specjax.score(target, [('a', 'b')], logprobs=97)


def test_what_is_too_long_is_refused(tmp_path):
  target = specjax.load(tiny.save(tmp_path))
  longest = ([5] * 100, [6] * 29)
  (score,) = specjax.score(target, [longest])
  assert len(score.logprobs) == 29 and np.isfinite(score.logprob)
  with pytest.raises(ValueError, match='Pair 1 has 100 tokens in its prompt a'):
    specjax.score(target, [([5] * 100, [6] * 30)])
  assert json.dumps(score.logprobs[0].as_dict())
