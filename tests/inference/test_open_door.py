"""Drafters, rules and targets of the user's own, through `specjax.generate`."""

import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.verifiers import match
from specjax.inference import generate as inference
from specjax.inference import planning
from tests.helpers import fakes
from tests.helpers import own
from tests.helpers import recipes
from tests.helpers import tiny

PROMPTS = [
  'the cat',
  'a dog ran to the red house',
  'one',
  'once upon a time there was',
  'the dog and',
]
NEW = 16
FORMS = (
  'name',
  'entry',
  'drafter',
  'parameters',
  'probabilities',
  'tree',
  'model',
)


@pytest.fixture(scope='module')
def target():
  return own.target()


def form(name):
  return own.forms(own.target(1))[name]


def generate(target, prompts=PROMPTS, **settings):
  given = dict(max_new_tokens=NEW, batch_size=4, num_draft=3, seed=3)
  return specjax.generate(target, prompts, **given | settings)


@pytest.mark.parametrize('name', FORMS)
@pytest.mark.parametrize('temperature', [0.0, 0.8])
def test_every_form_of_a_drafter_changes_no_token(target, name, temperature):
  """Two batches of prompts of different length, the second not full."""
  plain = generate(target, temperature=temperature)
  found = generate(
    target,
    drafter=form(name),
    temperature=temperature,
    verifier='match',
    drafters={'suffix': {'min_expected_accepted': 0.0}},
  )
  assert own.tokens(found) == own.tokens(plain)
  assert [answer.text for answer in found] == [a.text for a in plain]
  assert sum(answer.counts.num_drafted for answer in found)
  if name not in ('name', 'entry'):
    assert own.accepted(found) >= 0.25 * sum(len(a.tokens) for a in found)


@pytest.mark.parametrize(
  'verifier', ['match', match.MATCH, own.AGREE], ids=['name', 'entry', 'rule']
)
@pytest.mark.parametrize('temperature', [0.0, 0.8])
def test_every_form_of_a_rule(target, verifier, temperature):
  plain = generate(target, temperature=temperature)
  found = generate(
    target,
    drafter=own.successors(),
    verifier=verifier,
    temperature=temperature,
  )
  assert own.tokens(found) == own.tokens(plain)
  assert own.accepted(found) > 10


def test_rows_of_temperature_zero_beside_others_under_a_rule_of_ones_own(
  target,
):
  """A rule that draws is given one-hot rows where nothing is to be drawn."""
  settings = dict(temperature=[0.0, 0.8, 0.0, 0.8, 0.0])
  found = generate(
    target, drafter=own.successors(), verifier=own.AGREE, **settings
  )
  assert own.tokens(found) == own.tokens(generate(target, **settings))


def test_a_dial_of_ones_own(target):
  """Neutral it changes nothing; turned, fewer calls; one value a prompt too."""
  spoiled = (own.favourite() + 1) % own.VOCAB
  drafter = specjax.drafters.custom(own.table_of, params={'after': spoiled})
  plain = own.tokens(generate(target))

  def at(slack):
    return generate(
      target,
      drafter=drafter,
      verifier=own.SLACK,
      verifiers={'slack': {'slack': slack}},
    )

  assert own.tokens(at(0.0)) == plain
  loose = at(30.0)
  assert own.tokens(loose) != plain
  assert own.accepted(loose) > own.accepted(at(0.0))
  mixed = own.tokens(at([0.0, 30.0, 0.0, 30.0, 0.0]))
  assert mixed[0::2] == plain[0::2]
  assert mixed[1::2] == own.tokens(loose)[1::2]
  with pytest.raises(ValueError, match='slack has 2 values for 5 prompts'):
    at([0.0, 1.0])


@pytest.mark.parametrize('name', ['drafter', 'probabilities', 'tree'])
def test_stop_strings_budgets_and_answers(target, name):
  """A drafter of the user's own can do all that a built-in one can."""
  drafter = form(name)
  hot = dict(temperature=0.8, num_return_sequences=2)
  plain = generate(target, **hot)
  found = generate(target, drafter=drafter, verifier='match', **hot)
  assert own.tokens(found) == own.tokens(plain)
  assert [a.sequence for a in found] == [0, 1] * len(PROMPTS)
  text = plain[2].text
  stopped = dict(stop=text[3:6], **hot)
  plain = generate(target, **stopped)
  found = generate(target, drafter=drafter, verifier='match', **stopped)
  assert own.tokens(found) == own.tokens(plain)
  assert [a.finish_reason for a in found] == [a.finish_reason for a in plain]
  assert 'stop' in [a.finish_reason for a in found]
  budgets = dict(max_new_tokens=[1, 0, 7, 16, 3], ignore_eos=True)
  found = generate(target, drafter=drafter, **budgets)
  assert [len(a.tokens) for a in found] == budgets['max_new_tokens']
  assert own.tokens(found) == own.tokens(generate(target, **budgets))


def test_answers_that_are_there_are_skipped(target):
  whole = generate(target, drafter=own.successors())
  job = planning.plan(
    target,
    PROMPTS,
    drafter=own.successors(),
    skip=2,
    max_new_tokens=NEW,
    batch_size=4,
    seed=3,
  )
  late = [a for batch in inference.stream(job) for a in batch.answers]
  assert own.tokens(late) == own.tokens(whole)[2:]


def _corpus(target, answers=()):
  made = planning.open_corpus('/nowhere', target.tokenizer, 2000)
  return made if not answers else planning.corpus_lib.add(made, answers)


def test_a_drafter_of_ones_own_reads_a_corpus(target):
  plain = own.tokens(generate(target))
  apart = generate(target, drafter=own.ECHO, corpus=_corpus(target))
  found = generate(target, drafter=own.ECHO, corpus=_corpus(target, plain))
  assert own.tokens(apart) == own.tokens(found) == plain
  assert own.accepted(found) > 2 * own.accepted(apart)
  # Later batches copy from earlier ones.
  one = dict(batch_size=1, prompts=PROMPTS[:1] * 3)
  grown = generate(target, drafter=own.ECHO, corpus=_corpus(target), **one)
  assert grown[0].tokens == grown[2].tokens == plain[0]
  with pytest.raises(ValueError, match='A corpus is read by drafters that'):
    generate(target, drafter=own.successors(), corpus=_corpus(target))


def test_options_of_an_entry_of_ones_own(target):
  options = {'echo': {'back': 1}}
  assert generate(target, drafter=own.ECHO, drafters=options)
  for given, words in (
    ({'echo': {'back': -1}}, 'echo.back must be 0 or more, not -1.'),
    ({'echo': {'bak': 1}}, r"echo has no option 'bak'; .*mean back\?"),
    ({'ecko': {'back': 1}}, r"drafters has no entry 'ecko'; .*mean echo\?"),
  ):
    with pytest.raises(ValueError, match=words):
      generate(target, drafter=own.ECHO, drafters=given)
  with pytest.raises(ValueError, match="verifiers has no entry 'slak'"):
    generate(
      target,
      drafter=own.ECHO,
      verifier=own.SLACK,
      verifiers={'slak': {'slack': 1.0}},
    )


def test_a_target_without_a_tokenizer_and_an_encoder_decoder(target):
  ids = [[5, 9, 30], [40], [7] * 9]
  bare = own.target(tokenizer=False)
  plain = generate(bare, ids)
  assert own.tokens(plain) == own.tokens(generate(target, ids))
  assert [a.text for a in plain] == [
    ' '.join(map(str, a.tokens)) for a in plain
  ]
  with pytest.raises(ValueError, match='no tokenizer'):
    generate(bare)
  seq2seq = own.target(encoder_decoder=True, start_id=5)
  for model in (bare, seq2seq):
    for name in ('drafter', 'tree'):
      found = generate(model, ids, drafter=form(name))
      assert own.tokens(found) == own.tokens(generate(model, ids))
      assert own.accepted(found) > 5


def test_what_a_target_of_ones_own_lacks_is_named(target):
  lm = target.lm._replace(select=None, keys_values=None)
  made = target._replace(lm=lm)
  assert generate(made, drafter='suffix')
  with pytest.raises(ValueError, match='own has no select; leave num_beams at'):
    generate(made, num_beams=2)
  hidden = specjax.drafters.custom(own.table_of, target_hidden_layers=(-1,))
  with pytest.raises(ValueError, match='reads states of the target, but own'):
    generate(target, drafter=hidden)
  with pytest.raises(ValueError, match='takes a specjax.CachedLM .*not dict'):
    specjax.Model.from_lm({}, None)


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
  """A small transformer on one device and on a mesh of two by four."""
  folder = tiny.save(tmp_path_factory.mktemp('mesh') / 'target')
  layout = specjax.make_layout(specjax.MeshConfig((2, 4)))
  return specjax.load(folder), specjax.load(folder, layout=layout)


@pytest.mark.parametrize('name', ['drafter', 'probabilities', 'tree'])
def test_on_a_mesh(loaded, name):
  one, many = loaded
  settings = dict(drafter=form(name), temperature=0.8, batch_size=2)
  if name != 'tree':
    settings['verifier'] = own.AGREE
  plain = generate(one, temperature=0.8, batch_size=2)
  assert len(many.params['embed']['weight'].devices()) == 8
  found = generate(many, **settings)
  assert own.tokens(found) == own.tokens(plain)
  assert sum(answer.counts.num_drafted for answer in found)


def test_the_door_for_arrays(target):
  """`decoding.generate.generate` of a recipe, without any text."""
  prompt = fakes.prompts(3, own.VOCAB)
  controls = Sampling(temperature=0.8).controls(row_keys(0, range(3)), NEW)
  warp = Sampling(temperature=0.8).warp_spec()
  source = form('parameters')
  results = []
  for drafter, verify in (
    (None, 'auto'),
    (own.successors(), own.AGREE),
    (source, 'match'),
  ):
    assembled = recipes.assembled(
      target.lm, drafter, num_draft=3, verify=verify, warp=warp
    )
    assert assembled.recipe.checked == (drafter is not None)
    params = assembled.params().replace(target=target.params)
    results.append(
      generate_lib.generate(
        assembled.recipe, params, prompt, controls, max_new_tokens=NEW
      )
    )
  for found in results[1:]:
    np.testing.assert_array_equal(found.num_tokens, results[0].num_tokens)
    length = int(jnp.max(found.prompt_length + found.num_tokens))
    np.testing.assert_array_equal(
      found.tokens[:, :length], results[0].tokens[:, :length]
    )
    assert found.num_rounds < results[0].num_rounds


def test_a_rule_named_like_one_of_ours_is_not_taken_for_it(target):
  """Neither rerouted, nor given options, nor exact by its name."""

  def lenient(context, draft, logits):
    assert not context.controls.rule
    return own.AGREE.verify(context, draft, logits)

  rule = base.Verifier(lenient, noise='private')
  found = generate(
    target, drafter=own.successors(), verifier=rule, temperature=0.8
  )
  assert own.tokens(found) == own.tokens(generate(target, temperature=0.8))
  made = recipes.assembled(target.lm, own.successors(), verify=rule)
  assert made.rule.name == 'own_lenient' and not made.is_exact
