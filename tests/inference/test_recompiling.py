"""Nothing recompiles but what has to: keys of programs hold no data."""

import dataclasses

import jax
import pytest

import specjax
from specjax import base
from specjax.decoding.verifiers import static
from specjax.inference import assemble
from specjax.inference import planning
from tests.helpers import own
from tests.helpers.compilations import counted

# Prompts of one bucket of widths, five of them for each call.
PROMPTS = [
  ['the cat', 'one', 'the dog ran', 'a', 'two'],
  ['a house', 'three', 'once upon', 'the', 'ten'],
  ['red', 'four five', 'there was', 'dog', 'the mat'],
]


@pytest.fixture(autouse=True)
def forgetful():
  """No program of another test, which may draft by the same functions."""
  jax.clear_caches()


@pytest.fixture(scope='module')
def target():
  return own.target()


def _call(target, number, drafter, **settings):
  given = dict(
    temperature=0.5 + number / 10,
    seed=number,
    top_p=0.95 - number / 100,
    max_new_tokens=9 + number,
    batch_size=4,
    num_draft=3,
  )
  prompts = PROMPTS[number % 3]
  return specjax.generate(target, prompts, drafter=drafter, **given | settings)


def _parameters(number):
  after = (own.favourite() + number) % own.VOCAB
  return specjax.drafters.custom(own.table_of, params={'after': after})


def _law(number):
  return specjax.drafters.custom(
    own.law_of,
    params={'logits': own.law_params()['logits'] * (1 + number)},
    name=f'law {number}',
    has_log_probs=True,
  )


FORMS = {
  'drafter': lambda number: own.successors(),
  'parameters': _parameters,
  'probabilities': _law,
  'tree': lambda number: own.favourites_tree(),
  'entry': lambda number: own.ECHO,
}


@pytest.mark.parametrize('form', FORMS)
def test_five_calls_with_one_drafter(target, form):
  _call(target, 0, FORMS[form](0))
  _call(target, 0, FORMS[form](0))
  size = assemble._jitted._cache_size()
  bound = assemble._bound.cache_info().currsize
  with counted() as compiled:
    answers = [_call(target, n, FORMS[form](n)) for n in range(1, 6)]
  assert not compiled
  assert assemble._jitted._cache_size() == size
  assert assemble._bound.cache_info().currsize == bound
  assert len({own.tokens(found)[0] for found in answers}) > 1
  # The counter sees what does need a program of its own.
  with counted() as compiled:
    _call(target, 1, FORMS[form](1), num_draft=2, top_k=5)
  assert compiled
  assert assemble._jitted._cache_size() == size + 1


def test_a_growing_corpus(target):
  """The index has the size of the capacity, whatever is in it."""
  corpus = planning.open_corpus('/nowhere', target.tokenizer, 400)
  _call(target, 0, own.ECHO, corpus=corpus)
  accepted = []
  with counted() as compiled:
    for number in range(1, 6):
      made = _call(target, 1, own.ECHO, corpus=corpus, seed=1, batch_size=4)
      accepted.append(own.accepted(made))
      tokens = own.tokens(made)
      corpus = planning.corpus_lib.add(corpus, tokens * number)
  assert not compiled
  assert accepted[-1] > accepted[0]


def test_dials_of_two_rules_of_ones_own(target):
  """Each rule has a program, none of its dial's values one."""
  other = own.SLACK._replace(
    name='other',
    make=lambda sampler, max_path, static: _OTHER,
  )
  drafter = _parameters(1)

  def call(rule, number, dial):
    return _call(
      target,
      number,
      drafter,
      temperature=0.0,
      top_p=1.0,
      verifier=rule,
      verifiers={rule.name: {'slack': dial}},
    )

  for rule in (own.SLACK, other):
    call(rule, 0, 0.5)
  size = assemble._jitted._cache_size()
  with counted() as compiled:
    found = [
      own.accepted(call(rule, number, dial))
      for rule in (own.SLACK, other)
      for number, dial in enumerate((0.0, 5.0, 30, [0.0, 1, 2, 3, 30], 1.0))
    ]
  assert not compiled
  assert assemble._jitted._cache_size() == size
  assert max(found[:5]) > min(found[:5])
  assert found[5:] == [0] * 5


def _never(context, draft, logits):
  """Has the dial, and keeps nothing."""
  assert set(context.controls.rule) == {'slack'}
  token = logits[:, 0].argmax(axis=-1).astype(draft.tokens.dtype)
  return base.Verdict(0 * token, token)


_OTHER = base.Verifier(_never)


def test_a_rule_that_is_made_anew_each_time(target):
  """The rule of an entry is remembered; a user need not."""

  def make(sampler, max_path, static):
    def verify(context, draft, logits):
      return own.AGREE.verify(context, draft, logits)

    return base.Verifier(verify, noise='private')

  rule = specjax.VerifierEntry('anew', '', make)
  _call(target, 0, own.successors(), verifier=rule)
  with counted() as compiled:
    for number in range(1, 4):
      _call(target, number, own.successors(), verifier=rule)
  assert not compiled


def test_a_static_option_compiles_anew():
  """It is marked as one; the other options of the entry are dials."""

  @dataclasses.dataclass
  class Options:
    width: int = static(2)
    slack: float = 0.0

    def validate(self):
      return None

  made = []

  def make(sampler, max_path, static):
    made.append(static)
    return own.AGREE

  rule = specjax.VerifierEntry('wide', '', make, Options)
  for width, slack in ((2, 0.0), (2, 1.0), (3, 1.0)):
    settings = assemble.Settings(
      3,
      rule,
      verifiers={'wide': Options(width, slack)},
      warp=assemble.warp_lib.WarpSpec(sampled=True),
    )
    source = specjax.drafters.custom(own.successors())
    found = assemble.assemble(
      assemble.target_of(own.target()), source, settings
    )
    assert set(found.dials()) == {'slack'}
  # Equal arguments make one rule, once.
  assert made == [(('width', 2),), (('width', 3),)]
