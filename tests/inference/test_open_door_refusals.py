"""Objects that fit no contract are refused before anything is decoded."""

import numpy as np
import pytest

import specjax
from tests.helpers import own

PROMPTS = ['the cat', 'one']


@pytest.fixture(scope='module')
def target():
  return own.target()


def generate(target, **settings):
  given = dict(max_new_tokens=8, num_draft=3)
  return specjax.generate(target, PROMPTS, **given | settings)


def _planning(**changes):
  """`ECHO` with a plan that differs."""

  def plan(*given):
    return own.ECHO.plan(*given)._replace(**changes)

  return own.ECHO._replace(name='changed', plan=plan)


CHANGED = own.ECHO._replace(name='changed')


@pytest.mark.parametrize(
  'settings, words',
  [
    (dict(drafter=3), 'drafter must be a name, .*, not int.'),
    (dict(drafter=own.table_of), 'not _lru_cache_wrapper.'),
    (dict(drafter=own.AGREE), 'drafter must be a name, .*, not Verifier.'),
    (dict(drafter='suffix', verifier=3), 'Unknown verifier 3: it must be one'),
    (dict(drafter='suffix', verifier=own.ECHO), 'Unknown verifier Drafter'),
    (
      dict(drafter=own.favourites_tree(), verifier=own.SLACK),
      "The rule 'slack' verifies chains only; for trees use one of greedy",
    ),
    (
      dict(drafter=own.ECHO._replace(name='suffix')),
      "There is a drafter 'suffix' already; choose another name.",
    ),
    (
      dict(drafter='suffix', verifier=own.SLACK._replace(name='match')),
      "There is a verifier 'match' already; choose another name.",
    ),
    (
      dict(drafter=CHANGED._replace(plan=lambda *_: None)),
      'The plan of the drafter changed must be a DraftPlan, not NoneType.',
    ),
    (
      dict(drafter=_planning(static=np.zeros(3))),
      'must be hashable .unhashable type: .numpy.ndarray.*into params.',
    ),
    (
      dict(drafter=_planning(max_path=2)),
      'has num_draft=3 and max_path=2; for chains max_path must be num_draft',
    ),
    (
      dict(drafter=_planning(is_tree=True, max_path=4)),
      'has num_draft=3 and max_path=4; for trees max_path must be from 1 to',
    ),
    (dict(drafter=_planning(widths=(3, 0))), r'has widths=\(3, 0\); they must'),
    (dict(drafter=_planning(widths=(0, 2))), r'ascend .*to num_draft=3'),
    (
      dict(drafter=_planning(num_draft=5, max_path=5)),
      None,  # The entry decides how many slots it takes.
    ),
    (
      dict(drafter=CHANGED._replace(bind=lambda *_: own.table_of)),
      'The drafter changed must be bound to a Drafter, not _lru_cache_wrapper.',
    ),
    (
      dict(drafter=CHANGED._replace(bind=lambda *_: own.successors(2))),
      'has num_draft=2 and max_path=2, but was to have 3 and 3 ',
    ),
  ],
)
def test_what_fits_no_door_is_told_in_one_sentence(target, settings, words):
  if words is None:
    assert generate(target, **settings)
    return
  with pytest.raises(ValueError, match=words) as error:
    generate(target, **settings)
  assert '\n' not in str(error.value)


def test_custom_refuses_what_it_cannot_know():
  custom = specjax.drafters.custom
  with pytest.raises(
    ValueError, match='custom takes a base.Drafter or a .*str'
  ):
    custom('suffix')
  with pytest.raises(ValueError, match='must draw as the verification rule'):
    custom(own.successors(), has_log_probs=True)
