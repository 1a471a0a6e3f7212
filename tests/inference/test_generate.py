"""Generation from text and arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax import text as text_lib
from specjax.inference import assemble
from specjax.inference import generate as inference
from specjax.inference import planning
from tests.helpers import tiny

PROMPTS = ['the cat', 'a dog ran to the', 'one two three four five', 'the']
NEW = 12


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  return {
    'target': specjax.load(tiny.save(folder / 'target', seed=0)),
    'drafter': specjax.load(tiny.save(folder / 'drafter', seed=1)),
    't5': specjax.load(tiny.save(folder / 't5', tiny.T5, seed=2)),
    't5_drafter': specjax.load(tiny.save(folder / 't5d', tiny.T5, seed=3)),
    'swapped': specjax.load(tiny.save(folder / 'swap', swap=('cat', 'dog'))),
  }


def tokens(answers):
  return [answer.tokens for answer in answers]


def generate(model, prompts=PROMPTS, **settings):
  return specjax.generate(model, prompts, **{'max_new_tokens': NEW} | settings)


@pytest.mark.parametrize('kind', ['target', 't5'])
def test_every_form_of_a_prompt_gives_the_same(models, kind):
  model = models[kind]
  ids = [text_lib.encode(model.tokenizer, prompt) for prompt in PROMPTS]
  expected = generate(model)
  assert [answer.prompt for answer in expected] == PROMPTS
  assert tokens(generate(model, ids)) == tokens(expected)
  assert tokens(generate(model, [np.array(i) for i in ids])) == tokens(expected)
  assert tokens(generate(model, PROMPTS[0])) == tokens(expected)[:1]
  assert tokens(generate(model, ids[0])) == tokens(expected)[:1]
  assert tokens(generate(model, jnp.array([ids[1]]))) == tokens(expected)[1:2]
  padded = base.Prompt(*map(jnp.asarray, text_lib.pad(ids, 24)))
  assert tokens(generate(model, padded)) == tokens(expected)
  for answer in expected:
    assert answer.text == text_lib.decode(model.tokenizer, answer.tokens)
    assert answer.counts.num_tokens == len(answer.tokens) <= NEW
    ended = answer.tokens[-1] == 2
    assert answer.finish_reason == ('eos' if ended else 'length')


@pytest.mark.parametrize(
  'kind, drafter',
  [
    ('target', 'drafter'),
    ('target', 'target'),
    ('target', 'prompt_lookup'),
    ('t5', 't5_drafter'),
    ('t5', 'prompt_lookup'),
  ],
)
def test_drafting_changes_no_token(models, kind, drafter):
  draft = models.get(drafter, drafter)
  plain = generate(models[kind])
  found = generate(models[kind], drafter=draft)
  assert tokens(found) == tokens(plain)
  if drafter == kind:
    assert all(a.counts.acceptance_rate == 1 for a in found)
  sampled = dict(temperature=0.9, top_k=20, seed=5)
  rule = 'match' if drafter == 'prompt_lookup' else 'coupled'
  assert tokens(
    generate(models[kind], drafter=draft, verifier=rule, **sampled)
  ) == tokens(generate(models[kind], **sampled))


def test_a_draft_of_none_is_plain_decoding(models):
  plain = tokens(generate(models['target']))
  for settings in (dict(drafter='none'), dict(drafter='x', num_draft=0)):
    assert tokens(generate(models['target'], **settings)) == plain


def test_a_row_depends_on_its_seed_and_place_alone(models):
  model = models['target']
  settings = dict(drafter=models['drafter'], temperature=1.0, seed=3)
  whole = generate(model, **settings)
  again = generate(model, batch_size=3, **settings)
  assert tokens(again) == tokens(whole)
  settings['seed'] = [7, 8, 9, 10]
  seeded = tokens(generate(model, **settings))
  settings['seed'] = [10, 9, 8, 7]
  assert tokens(generate(model, PROMPTS[::-1], **settings)) == seeded[::-1]
  assert (
    tokens(generate(model, [PROMPTS[0]] * 4, **settings))[0]
    != (tokens(generate(model, [PROMPTS[0]] * 4, **settings))[1])
  )


def test_several_answers_a_prompt_differ_and_keep_the_first(models):
  settings = dict(temperature=1.5, drafter='prompt_lookup', batch_size=3)
  one = generate(models['target'], **settings)
  three = generate(models['target'], num_return_sequences=3, **settings)
  assert [a.prompt_index for a in three] == [i for i in range(4) for _ in 'abc']
  assert [a.sequence for a in three] == [0, 1, 2] * 4
  assert tokens(three)[::3] == tokens(one)
  assert len(set(tokens(three))) == 12


def test_settings_may_differ_from_prompt_to_prompt(models):
  model = models['target']
  found = generate(
    model,
    temperature=[0.0, 1.0, 0.0, 1.0],
    max_new_tokens=[3, 0, 12, 5],
    ignore_eos=True,
    drafter=models['drafter'],
    verifier='coupled',
  )
  assert [len(a.tokens) for a in found] == [3, 0, 12, 5]
  greedy = generate(model, ignore_eos=True)
  assert found[0].tokens == greedy[0].tokens[:3]
  assert found[2].tokens == greedy[2].tokens


def test_an_empty_prompt_is_continued_from_the_first_token(models):
  model = models['target']
  assert model.bos_id == 1
  lines = ['', 'the cat', [], 'a dog ran to the', '']
  found = generate(model, lines, batch_size=1)
  want = tokens(generate(model, [[1], lines[1], lines[3]], batch_size=1))
  assert tokens(found) == [want[0], want[1], want[0], want[2], want[0]]
  assert found[0].prompt == '' and len(want[0]) > 0
  # A source is what the tokenizer makes of nothing: its end token.
  t5 = models['t5']
  assert tokens(generate(t5, ['', []])) == tokens(generate(t5, [[2], [2]]))


def test_an_empty_prompt_without_a_first_token_has_its_own_reason(models):
  model = models['target']._replace(bos_id=None, tokenizer=None)
  rows = [[], [5, 6], [], []]
  found = generate(model, rows, batch_size=1)
  assert [a.prompt_index for a in found] == [0, 1, 2, 3]
  want = tokens(generate(model, [[5, 6]]))[0]
  assert tokens(found) == [(), want, (), ()]
  rest = found[1].finish_reason
  assert rest in ('eos', 'length')
  reasons = [a.finish_reason for a in found]
  assert reasons == ['empty', rest, 'empty', 'empty']
  assert tokens(generate(model, [[], []])) == [(), ()]


@pytest.mark.parametrize('kind', ['target', 't5'])
def test_stop_strings_cut_inside_blocks_and_across_tokens(models, kind):
  model, drafter = models[kind], models['drafter' if kind == 'target' else kind]
  settings = dict(max_new_tokens=40, ignore_eos=True, temperature=1.0, seed=1)
  settings |= dict(drafter=drafter, verifier='coupled')
  whole = generate(model, **settings)
  text = whole[1].text
  for begin in range(0, len(text) - 4, 11):
    stop = text[begin : begin + 4]
    found = generate(model, stop=stop, **settings)
    for before, after in zip(whole, found, strict=True):
      assert before.tokens[: len(after.tokens)] == after.tokens
      if stop in before.text:
        assert after.text == before.text[: before.text.find(stop)]
        assert after.finish_reason == 'stop'
        assert stop in text_lib.decode(model.tokenizer, after.tokens)
        shorter = text_lib.decode(model.tokenizer, after.tokens[:-1])
        assert stop not in shorter
        counts = after.counts
        assert counts.num_accepted <= counts.num_tokens == len(after.tokens)
      else:
        assert after == before


def test_values_recompile_nothing_and_files_only_at_the_start(models):
  compiled = []

  def listen(name, *_, **__):
    if name == '/jax/core/compile/backend_compile_duration':
      compiled.append(name)

  model = models['target']
  settings = dict(drafter=models['drafter'], top_p=0.9)
  for temperature in (0.5, 0.6):
    generate(model, temperature=temperature, **settings)
  jax.monitoring.register_event_duration_secs_listener(listen)
  before = assemble._jitted._cache_size()
  for step in range(5):
    generate(
      model,
      temperature=0.7 + step / 10,
      seed=step,
      max_new_tokens=NEW - step,
      **settings | {'top_p': 0.5 + step / 20},
    )
  assert not compiled
  assert assemble._jitted._cache_size() == before
  rng = np.random.default_rng(0)
  rows = [rng.integers(4, 90, n).tolist() for n in rng.integers(1, 60, 30)]
  for stop in ('', 'zzz'):
    job = planning.plan(
      model, rows, max_new_tokens=NEW, drafter='prompt_lookup', stop=stop
    )
    inference.warm_up(job)
    compiled.clear()
    answers = [a for batch in inference.stream(job) for a in batch.answers]
    assert len(answers) == 30
    assert not compiled


@pytest.mark.parametrize(
  'settings, words',
  [
    (dict(num_draft=-1), 'num_draft must be a whole number, 0 or more'),
    (dict(num_beams=2.0), 'num_beams must be a whole number, 1 or more'),
    (dict(num_draft=1.5), 'num_draft must be'),
    (dict(temperature=-0.1), 'temperature must be 0 or more, not -0.1'),
    (dict(temperature=float('nan')), 'temperature must be'),
    (dict(temperature=float('inf')), 'temperature must be'),
    (dict(temperature=[0, 0, 0, float('nan')]), 'temperature must be'),
    (dict(temperature=[0, 1]), 'temperature has 2 values for 4 prompts'),
    (dict(temperature='hot'), "temperature must be 0 or more, not 'hot'"),
    (dict(top_p=0.0), 'top_p must be above 0 and at most 1'),
    (dict(top_p=1.1), 'top_p must be'),
    (dict(top_p=float('nan')), 'top_p must be'),
    (dict(top_k=-1), 'top_k must be'),
    (dict(top_k=2**40), 'top_k must be'),
    (dict(min_p=2.0), 'min_p must be'),
    (dict(repetition_penalty=0.0), 'repetition_penalty must be'),
    (dict(no_repeat_ngram_size=-2), 'no_repeat_ngram_size must be'),
    (dict(no_repeat_ngram_size=[1, 1, 1, 1]), 'takes one value'),
    (
      dict(verifiers={'lenient': {'lenience': 0.0}}, verifier='lenient'),
      'lenience must be',
    ),
    (dict(max_new_tokens=-1), 'max_new_tokens must be'),
    (dict(batch_size=0), 'batch_size must be'),
    (dict(num_return_sequences=0), 'num_return_sequences must be'),
    (dict(seed=-1), 'seed must be'),
    (dict(verifier='best'), 'must be one of auto, greedy'),
    (dict(sampler='magic'), 'sampler must be one of gumbel'),
    (dict(dtype='int3'), 'dtype must be one of'),
    (dict(stop=('a', '')), 'stop must not hold an empty string'),
    (dict(stop=(3,)), 'stop must hold strings'),
    (dict(chat=True), 'no chat template'),
    (dict(max_new_tokens=127), 'with 127 new ones'),
  ],
)
def test_bad_settings_are_told_in_one_sentence(models, settings, words):
  with pytest.raises(ValueError) as error:
    generate(models['target'], **settings)
  assert words in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'prompts, words',
  [
    ([], 'no prompt'),
    ([[1, 96]], 'Prompt 1 holds the token id 96'),
    ([[1], [-1]], 'Prompt 2 holds the token id -1'),
    ([[1] * 130], 'Prompt 1 has 130 tokens, but the target was made for 128'),
    ([[1] * 120], 'that is 132, but'),
    ([[1.5]], 'Prompt 1 is neither text'),
    ([[[1]]], 'Prompt 1 is neither text'),
    ([{'text': 'x'}], 'Prompt 1 has no "prompt"'),
  ],
)
def test_bad_prompts_are_told_in_one_sentence(models, prompts, words):
  with pytest.raises(ValueError) as error:
    generate(models['target'], prompts)
  assert words in str(error.value)


def test_models_that_do_not_fit_are_refused(models):
  with pytest.raises(ValueError, match='first differing id'):
    generate(models['target'], drafter=models['swapped'])
  with pytest.raises(ValueError, match='encoder-decoder'):
    generate(models['target'], drafter=models['t5'])
  with pytest.raises(FileNotFoundError, match='no drafter oracle'):
    generate(models['target'], drafter='oracle')
  with pytest.raises(TypeError, match='temprature'):
    generate(models['target'], temprature=1.0)
  bare = models['target']._replace(tokenizer=None)
  with pytest.raises(ValueError, match='no tokenizer'):
    generate(bare)
  with pytest.raises(ValueError, match='need a tokenizer'):
    generate(bare, [[1, 2]], stop='x')
  (answer,) = generate(bare, [[1, 4]])
  assert answer.prompt == '1 4'
  assert answer.text == ' '.join(map(str, answer.tokens))
  assert generate(bare, ['1 4'])[0].tokens == answer.tokens


@pytest.mark.parametrize('drafter', [None, 'prompt_lookup', 'drafter'])
@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_logits_that_are_not_finite_are_reported(models, drafter, temperature):
  model = models['target']
  bad = jax.tree.map(lambda x: x * jnp.nan, model.params)
  draft = models.get(drafter, drafter)
  with pytest.raises(
    FloatingPointError, match='Prompt 1: .*not finite after 0'
  ):
    generate(model._replace(params=bad), drafter=draft, temperature=temperature)


def test_out_of_memory_says_what_to_lower(models, monkeypatch):
  def refuse(*_):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 GB')

  monkeypatch.setattr(assemble, '_jitted', lambda *_, **__: refuse())
  with pytest.raises(MemoryError, match='lower batch_size'):
    generate(models['target'])


def test_the_last_batch_is_filled_up_and_skipping_goes_on(models):
  job = planning.plan(
    models['target'], PROMPTS, batch_size=3, max_new_tokens=NEW
  )
  assert [len(batch.places) for batch in job.batches] == [3, 1]
  late = planning.plan(models['target'], PROMPTS, skip=2, max_new_tokens=NEW)
  answers = [a for batch in inference.stream(late) for a in batch.answers]
  assert answers == generate(models['target'])[2:]
  assert dataclasses.asdict(answers[0])['prompt_index'] == 2
