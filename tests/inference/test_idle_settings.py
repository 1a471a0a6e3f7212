"""Settings that change nothing are named, and senseless ones refused."""

import warnings

import jax
import numpy as np
import pytest

import specjax
from specjax import options
from specjax.benchmark import config as benchmark_config
from specjax.benchmark import request as benchmark_request
from specjax.decoding.drafters.hybrid import HybridOptions
from specjax.decoding.drafters.suffix import SuffixOptions
from specjax.decoding.verifiers import registry
from specjax.inference import planning
from tests.helpers import tiny

PROMPTS = ['the cat', 'a dog ran to the']


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return specjax.load(tiny.save(tmp_path_factory.mktemp('m') / 'target'))


def notes(model, **settings):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    found = specjax.generate(model, PROMPTS, max_new_tokens=8, **settings)
  return [str(one.message) for one in caught], found


@pytest.mark.parametrize(
  'settings, words',
  [
    (dict(top_k=3), 'top_k changes nothing at temperature 0'),
    (
      dict(top_k=3, top_p=0.5, min_p=0.1),
      'top_k and top_p and min_p change nothing at temperature 0',
    ),
    (dict(top_k=[0, 3], temperature=[0, 0]), 'top_k changes nothing'),
    (dict(length_penalty=0.5), 'length_penalty changes nothing without a beam'),
    (dict(early_stopping='true'), 'early_stopping changes nothing without'),
    (
      dict(
        drafter='suffix',
        verifiers={'lenient': {'lenience': 0.5}},
      ),
      'verifiers.lenient changes nothing: the verifier in use is greedy',
    ),
    (
      dict(drafter='prompt_lookup', drafters={'suffix': {'tree': 4}}),
      'drafters.suffix changes nothing: the drafter in use is prompt_lookup',
    ),
  ],
)
def test_what_changes_nothing_is_named_and_the_run_goes_on(
  model, settings, words
):
  told, found = notes(model, **settings)
  assert len(told) == 1 and words in told[0]
  plain = {'num_draft': 0}
  assert [a.tokens for a in found] == [
    a.tokens for a in notes(model, **plain)[1]
  ]


@pytest.mark.parametrize(
  'settings',
  [
    dict(),
    dict(top_k=3, temperature=0.5),
    dict(top_k=3, temperature=[0, 0.5]),
    dict(repetition_penalty=1.5),
    dict(num_beams=2, length_penalty=0.5),
    dict(drafter='suffix', drafters={'suffix': {'tree': 4}}),
    dict(num_draft=0, drafters={'suffix': {'tree': 4}}),
  ],
)
def test_what_changes_something_is_not(model, settings):
  assert notes(model, **settings)[0] == []


def test_options_of_the_command_are_noticed_too(model):
  config = specjax.DecodeConfig()
  config.verifiers.lenient.lenience = 0.5
  told, _ = notes(model, config=config, drafter='suffix')
  assert len(told) == 1 and told[0].startswith('verifiers.lenient changes')


@pytest.mark.parametrize(
  'temperature, count', [(0.0, 3), ([0.0, 0.7], 2), ([0, 0], 2)]
)
def test_equal_answers_are_refused(model, temperature, count):
  with pytest.raises(ValueError) as error:
    notes(model, temperature=temperature, num_return_sequences=count)
  words = str(error.value)
  assert f'num_return_sequences={count} at temperature 0 would' in words
  assert 'temperature above 0' in words and f'num_beams={count}' in words


def test_answers_that_differ_are_not(model):
  _, found = notes(model, temperature=1.5, num_return_sequences=2)
  assert len(found) == 4
  _, found = notes(model, num_beams=2, num_return_sequences=2)
  assert found[0].tokens != found[1].tokens


def test_a_benchmark_notes_it_before_it_loads():
  config = benchmark_config.BenchmarkConfig(top_k=5)
  request = benchmark_request.BenchmarkRequest('nowhere', (), '', (), config)
  with pytest.warns(UserWarning, match='top_k changes nothing'):
    with pytest.raises(FileNotFoundError):
      benchmark_request.prepare(request, lambda text: None)
  config.temperature = (0.0, 1.0)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    with pytest.raises(FileNotFoundError):
      benchmark_request.prepare(request, lambda text: None)


@pytest.mark.parametrize(
  'name, options, words',
  [
    (
      'draft_model',
      {'speculator': {'tree': 'medusa'}},
      "drafters.speculator.tree='medusa' asks for trees, but the drafter in "
      'use, draft_model, drafts chains alone; leave it out',
    ),
    ('hybrid', {'suffix': {'tree': 3}}, 'use, hybrid, drafts chains alone'),
    ('draft_model', {'draft_model': {'tree': 3}}, "no option 'tree'"),
    (
      'hybrid',
      {'hybrid': {'model_draft': 7}},
      'model_draft=7 changes nothing beyond num_draft=4; leave it out.',
    ),
    (
      'token_recycling',
      {'token_recycling': {'decay': 0.5}},
      'drafters.token_recycling.decay=0.5 changes nothing without a tree',
    ),
  ],
)
def test_what_the_drafter_cannot_obey_is_refused(model, name, options, words):
  given = {'draft_model': model, 'hybrid': specjax.drafters.hybrid(model)}
  with pytest.raises(ValueError) as error:
    specjax.generate(
      model,
      PROMPTS,
      drafter=given.get(name, name),
      drafters=options,
      max_new_tokens=8,
    )
  assert words in str(error.value)


def test_groups_of_options_inside_of_options(model):
  """Options of a hybrid's search are given like every others."""
  hybrid = specjax.drafters.hybrid(model)
  nested = {'hybrid': {'suffix': {'max_depth': 3}, 'model_draft': 2}}
  given = dict(drafter=hybrid, drafters=nested, max_new_tokens=8)
  job = planning.plan(model, PROMPTS, **given)
  assert job.assembled.drafter_options.suffix.max_depth == 3
  assert job.assembled.drafter_options.suffix.tree == 0
  assert job.assembled.drafter_options.model_draft == 2
  told, found = notes(model, drafter=hybrid, drafters=nested)
  assert not told and len(found) == 2


@pytest.mark.parametrize(
  'given, words',
  [
    (
      {'hybrid': {'suffix': {'max_dept': 3}}},
      "hybrid.suffix has no option 'max_dept'; it has ",
    ),
    ({'hybrid': {'suffix': {3: 3}}}, 'hybrid.suffix has no option 3; it has '),
    ({'hybrid': {'suffix': 3}}, "suffix takes {'FIELD': value}, not 3."),
    ({'hybrid': None}, "hybrid takes {'FIELD': value}, not None."),
    (
      {'suffix': HybridOptions()},
      'suffix takes SuffixOptions, not HybridOptions.',
    ),
    (
      {'hybrid': {'suffix': {'max_depth': 0}}},
      'max_depth of the suffix drafter',
    ),
    (
      {'hybrid': {'suffix': {'max_depth': '3'}}},
      "hybrid.suffix.max_depth must be a whole number, not '3'.",
    ),
    ({'hybrid': {'prior': None}}, 'hybrid.prior must be a number, not None.'),
    ({'hybrid': {'probe': 1.5}}, 'hybrid.probe must be a whole number, not 1.'),
    ({'suffix': {'max_depth': [3]}}, 'suffix have a value of a wrong type'),
    ({'hybrd': {}}, 'drafters has no entry'),
    (SuffixOptions(), "are given as {'NAME': {'FIELD': value}}, not as Suffix"),
    (None, "are given as {'NAME': {'FIELD': value}}, not as NoneType"),
  ],
)
def test_options_that_there_are_not(model, given, words):
  hybrid = specjax.drafters.hybrid(model)
  with pytest.raises(ValueError, match='.') as error:
    specjax.generate(model, PROMPTS, drafter=hybrid, drafters=given)
  assert words in str(error.value)


@pytest.mark.parametrize('kind', [list, np.float32, jax.numpy.float32])
def test_numbers_of_options_may_be_arrays(kind):
  given = np.array([0.5, 0.25])
  given = given.tolist() if kind is list else kind(given)
  entry = registry.resolve('lenient')
  made = options.of({'lenient': {'lenience': given}}, entry)
  made.validate()
  assert options.dials(made)['lenience'].tolist() == [0.5, 0.25]


def test_a_draft_model_without_a_tokenizer_is_told(model):
  bare = model._replace(tokenizer=None, name='bare')
  told, found = notes(model, drafter=bare)
  assert len(told) == 1 and 'The drafter bare has no tokenizer' in told[0]
  assert found[0].counts.num_accepted > 0
  both, _ = notes(model, drafter=model)
  assert not both


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_weights_of_a_drafter_that_are_no_numbers_are_refused(model, value):
  params = jax.tree.map(np.array, model.params)
  params['norm'] = jax.tree.map(
    lambda x: np.where(np.arange(x.size) == 3, value, x), params['norm']
  )
  drafter = model._replace(params=params, name='broken')
  with pytest.raises(
    ValueError, match='The weight norm/weight of the drafter broken holds'
  ):
    specjax.generate(model, PROMPTS, drafter=drafter)
