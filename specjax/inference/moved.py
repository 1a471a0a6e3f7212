"""Options and keywords that have another name now."""

from collections.abc import Mapping
from typing import Any

# Options and keywords of version 0.1 that have another name now.
MOVED = {
  'verify': 'verifier',
  'tree': 'drafters.speculator.tree',
  'lenience': 'verifiers.lenient.lenience',
  'beta': 'verifiers.top_candidates.beta',
  'tau': 'verifiers.top_candidates.tau',
  'search': 'drafters.NAME.FIELD',
  'search.tree': 'drafters.suffix.tree or drafters.token_recycling.tree',
  'search.max_ngram': 'drafters.prompt_lookup.max_ngram',
  'search.min_ngram': 'drafters.prompt_lookup.min_ngram',
  'search.match': 'drafters.prompt_lookup.match',
  'search.periodic': 'drafters.prompt_lookup.periodic',
  'search.max_depth': 'drafters.suffix.max_depth',
  'search.min_match': 'drafters.suffix.min_match',
  'search.factor': 'drafters.suffix.factor',
  'search.offset': 'drafters.suffix.offset',
  'search.min_token_prob': 'drafters.suffix.min_token_prob',
  'search.min_score': 'drafters.suffix.min_expected_accepted',
  'search.max_matches': 'drafters.suffix.max_matches',
  'search.max_wait': 'drafters.suffix.max_wait',
  'search.successors': 'drafters.token_recycling.successors',
  'search.decay': 'drafters.token_recycling.decay',
}


def check_moved(given: Mapping[str, Any]) -> None:
  """Raises ValueError for a keyword that has another name now.

  Args:
    given: keywords and their values.
  """
  for name in given:
    if name in MOVED:
      new = MOVED[name]
      how = new
      if '.' in new:
        group, entry, field = new.split(' or ')[0].split('.')
        how = f"{group}={{'{entry}': {{'{field}': ...}}}}"
      raise ValueError(f'{name} has moved: give {how} instead.')
