"""Beam search against transformers and against enumeration."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax import models
from specjax.decoding import beam
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import fakes
from tests.helpers import networks
from tests.helpers import tiny

NEW = 12


def run(lm, params, prompt, spec, *, new=NEW, budgets=None, eos=(1,)):
  controls = Sampling().controls(
    row_keys(0, range(prompt.tokens.shape[0])),
    new if budgets is None else budgets,
    eos,
  )
  return beam.search(lm, spec, params, prompt, controls, max_new_tokens=new)


@pytest.fixture(scope='module')
def reference(torch, tmp_path_factory):
  import transformers

  torch.manual_seed(5)
  config = transformers.T5Config(
    vocab_size=37,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=1,
    num_heads=4,
    decoder_start_token_id=0,
  )
  made = transformers.T5ForConditionalGeneration(config).eval()
  # An end token that is now likely and now not.
  made.shared.weight.data[1] *= 12
  folder = tmp_path_factory.mktemp('t5')
  made.save_pretrained(folder)
  return made, specjax.load(folder, dtype='float32')


@pytest.mark.parametrize(
  ('penalty', 'stopping'),
  [(1.0, 'false'), (0.6, 'true'), (2.0, 'never'), (-0.5, 'never')],
)
def test_equals_transformers_on_t5(torch, reference, penalty, stopping):
  """50 random sources, five beams: the same sequences and scores."""
  made, model = reference
  prompt = networks.prompt(50, seed=4, vocab=37, width=9)
  mask = np.arange(9)[None] < np.asarray(prompt.length)[:, None]
  with torch.no_grad():
    want = made.generate(
      torch.tensor(np.asarray(prompt.tokens), dtype=torch.long),
      attention_mask=torch.tensor(mask).long(),
      max_new_tokens=NEW,
      do_sample=False,
      num_beams=5,
      num_return_sequences=5,
      length_penalty=penalty,
      early_stopping={'false': False, 'true': True}.get(stopping, stopping),
      return_dict_in_generate=True,
      output_scores=True,
    )
  got = run(
    model.lm, model.params, prompt, beam.BeamSpec(5, penalty, stopping)
  ).finished
  scores = want.sequences_scores.numpy().reshape(50, 5)
  np.testing.assert_allclose(got.score, scores, atol=1e-4)
  sequences = want.sequences[:, 1:].numpy().reshape(50, 5, -1)
  gaps = np.abs(np.diff(scores, axis=1))
  some_end = 0
  for row in range(50):
    # Hypotheses whose scores tie to rounding may stand in either order.
    clear = 5 if gaps[row].min() > 1e-5 else 1 + int(gaps[row].argmin() > 0)
    for rank in range(clear):
      length = int(got.length[row, rank])
      tokens = np.asarray(got.tokens[row, rank])
      wanted = sequences[row, rank]
      np.testing.assert_array_equal(tokens[:length], wanted[:length])
      # The reference fills up with the end token.
      assert (wanted[length:] == 1).all()
      some_end += tokens[length - 1] == 1 and length < NEW
  if penalty < 1:
    assert some_end > 10


def test_wide_beams_find_the_best_of_all_sequences():
  """As many beams as there are sequences: an exhaustive search."""
  vocab, eos, new = 3, 2, 3
  rng = np.random.default_rng(3)
  table = rng.normal(size=(vocab + 1, vocab, vocab)).astype(np.float32)
  lm = fakes.markov_lm(vocab)
  params = {'table': jnp.asarray(table), 'source': jnp.zeros((vocab, vocab))}
  prompt = base.Prompt(jnp.array([[0, 1], [1, 0]]), jnp.array([2, 1]))
  found = run(
    lm, params, prompt, beam.BeamSpec(27, 0.0, 'never'), new=new, eos=(eos,)
  ).finished
  for row, start in enumerate(([0, 1], [1])):
    scores = {}
    for tokens in itertools.product(range(vocab), repeat=new):
      length = tokens.index(eos) + 1 if eos in tokens else new
      scores[tokens[:length]] = _log_prob(table, start, tokens[:length])
    best = max(scores, key=scores.get)
    length = int(found.length[row, 0])
    assert tuple(np.asarray(found.tokens[row, 0, :length])) == best
    np.testing.assert_allclose(found.score[row, 0], scores[best], atol=1e-5)


def _log_prob(table, start, tokens):
  text = [table.shape[1], *start]
  total = 0.0
  for token in tokens:
    logits = table[text[-2], text[-1]]
    total += logits[token] - np.log(np.exp(logits).sum())
    text.append(token)
  return total


def test_one_beam_is_greedy_and_rows_are_their_own():
  kind = 'decoder'
  config = networks.CONFIGS[kind]
  lm, params = models.make_lm(config), networks.params(kind, 1)
  prompt = networks.prompt(4, seed=3)
  greedy = networks.decode(lm, params, prompt, Sampling(), eos=(1,), new=NEW)
  one = run(lm, params, prompt, beam.BeamSpec(1)).finished
  assert [
    np.asarray(t[0, : n[0]]).tolist()
    for t, n in zip(one.tokens, one.length, strict=True)
  ] == greedy
  budgets = [3, NEW, 5, 0]
  mixed = run(lm, params, prompt, beam.BeamSpec(3), budgets=budgets).finished
  whole = run(lm, params, prompt, beam.BeamSpec(3)).finished
  assert np.asarray(mixed.length[:, 0]).max(initial=0) <= NEW
  np.testing.assert_array_equal(mixed.tokens[1], whole.tokens[1])
  assert int(mixed.length[0].max()) == 3
  assert not np.isfinite(np.asarray(mixed.score[3])).any()


def test_from_text_and_in_one_sentence(tmp_path):
  model = specjax.load(tiny.save(tmp_path, tiny.T5, seed=2))
  answers = specjax.generate(
    model,
    ['the cat', 'a dog ran'],
    num_beams=3,
    num_return_sequences=2,
    max_new_tokens=8,
  )
  assert [a.prompt_index for a in answers] == [0, 0, 1, 1]
  assert answers[0].tokens != answers[1].tokens
  for bad, words in (
    (dict(num_beams=0), 'num_beams must be'),
    (dict(num_beams=2, temperature=0.5), 'leave temperature at 0'),
    (dict(num_beams=2, num_return_sequences=3), 'no more answers'),
    (dict(num_beams=2, early_stopping='yes'), 'early_stopping must be'),
    (dict(num_beams=2, drafter='suffix'), 'not speculative'),
  ):
    with pytest.raises(ValueError, match=words):
      specjax.generate(model, 'the cat', **bad)
