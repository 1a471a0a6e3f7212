"""Suffix drafts in the loop."""

import jax
import pytest

from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.suffix import suffix
from specjax.decoding.drafters.suffix_search import SuffixSpec
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import loops
from tests.helpers import recipes

VOCAB = 11


@pytest.mark.parametrize(
  ('rule', 'temperature', 'encoder_decoder', 'max_path', 'with_corpus'),
  [
    ('greedy', 0.0, False, 0, False),
    ('greedy', 0.0, True, 3, True),
    ('match', 0.8, True, 0, True),
    ('coupled', 0.8, False, 3, True),
  ],
)
def test_output_is_that_of_plain_decoding(
  rule, temperature, encoder_decoder, max_path, with_corpus
):
  target = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  params = fakes.markov_params(0, VOCAB)
  settings = Sampling(temperature=temperature, repetition_penalty=1.1)
  prompt, new = fakes.prompts(5, VOCAB), 40
  controls = settings.controls(row_keys(0, range(5)), new, (3,))
  plain = assemble.compiled(
    recipes.recipe(target, warp=settings.warp_spec()), new
  )
  want = jax.device_get(plain(generate_lib.Params(params), prompt, controls))
  recipe = recipes.recipe(
    target,
    'suffix',
    num_draft=6,
    verify=rule,
    warp=settings.warp_spec(),
    drafters={'suffix': {'tree': max_path, 'max_wait': 2}},
  )
  assert recipe.widths == ((0, 6) if max_path else (0, 2, 6))
  index = None
  if with_corpus:
    corpus = corpus_lib.add(corpus_lib.empty(300, 'x'), loops.new_tokens(want))
    index = corpus_lib.index(corpus)
  given = generate_lib.Params(params, recipes.suffix_params(index))
  got = jax.device_get(assemble.compiled(recipe, new)(given, prompt, controls))
  assert loops.new_tokens(got) == loops.new_tokens(want)
  assert got.num_rounds <= want.num_rounds
  if with_corpus:
    assert got.num_rounds < want.num_rounds


def test_a_loop_is_drafted_whole():
  target = fakes.markov_lm(VOCAB)
  params = fakes.markov_params(0, VOCAB)
  settings = Sampling()
  prompt = fakes.prompts(1, VOCAB)
  controls = settings.controls(row_keys(0, [0]), 200)
  drafter = suffix(SuffixSpec(num_draft=8))
  recipe = recipes.of(
    target, drafter, recipes.rule('greedy'), settings.warp_spec()
  )
  given = generate_lib.Params(params, recipes.suffix_params())
  call = assemble.compiled(recipe, 200)
  got = jax.device_get(call(given, prompt, controls))
  assert got.num_rounds < 60  # greedy decoding of a Markov chain loops
