"""Drafts what followed the longest repeated end of the context.

Searched are the context itself, an encoder's source, and a corpus of earlier
outputs (the drafter's parameters, `corpus.Index`; None for no corpus); see
`suffix_search`.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025. https://arxiv.org/abs/2411.04975
"""

import dataclasses
import functools

import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import suffix_search
from specjax.models.common import rows as rows_lib


@dataclasses.dataclass
class SuffixOptions:
  """Options of `suffix`.

  Attributes:
    tree: longest path of a tree draft, in tokens, with `num_draft` nodes; 0
      drafts chains.
    max_depth: length, in tokens, below which a match stays.
    min_match: shortest match, in tokens.
    factor: drafted tokens for each token of a match: after m tokens at most m *
      factor + offset are drafted.
    offset: drafted tokens beside those of `factor`.
    min_token_prob: least frequency of a drafted token among the continuations,
      from 0 to 1; a rarer one ends the draft.
    min_expected_accepted: least number of accepted tokens that a draft must
      promise; -1 takes the cost of a block beyond that of a step (see `costs`).
    max_matches: most matches that are counted.
    max_wait: longest time between two searches of a row, in rounds; 0 searches
      in each.
  """

  tree: int = 0
  max_depth: int = 24
  min_match: int = 1
  factor: float = 1.0
  offset: float = 0.0
  min_token_prob: float = 0.1
  min_expected_accepted: float = -1.0
  max_matches: int = 8
  max_wait: int = 16

  def spec(self, num_draft: int) -> suffix_search.SuffixSpec:
    """The static settings for K draft slots."""
    return suffix_search.SuffixSpec(
      num_draft=num_draft,
      max_depth=self.max_depth,
      min_match=self.min_match,
      factor=self.factor,
      offset=self.offset,
      min_token_prob=self.min_token_prob,
      max_matches=self.max_matches,
      max_wait=self.max_wait,
      max_path=self.tree,
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    validation.at_least('suffix.tree', self.tree, 0)
    # K is not known yet. The least K that the tree allows is taken, so that no
    # bound on K fails here.
    self.spec(max(self.tree, 1)).validate()


@functools.cache
def suffix(
  spec: suffix_search.SuffixSpec = suffix_search.SuffixSpec(),
  *,
  search_source: bool = False,
) -> base.Drafter:
  """Makes the drafter; its parameters are `SuffixParams`.

  Args:
    spec: settings.
    search_source: whether the prompt is an encoder's source.

  Returns:
    A drafter of point masses: verify with `greedy`, `match` or `coupled`.

  Raises:
    ValueError: on settings out of range.
  """
  spec.validate()

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    return suffix_search.start(spec, prompt, search_source)

  def propose(params, state, view):
    found = suffix_search.search_due(spec, params, state, view)
    # tokens [[a b EMPTY] [EMPTY EMPTY EMPTY]]: drafted [2 0]
    drafted = jnp.sum(found.tokens != base.EMPTY, axis=1, dtype=jnp.int32)
    draft = base.Draft(found.tokens, tree=found.tree)
    return draft, state.replace(drafted=drafted)

  def observe(params, state, observation):
    del params
    return suffix_search.learn(spec, state, observation.num_accepted)

  return base.Drafter(
    init,
    propose,
    observe,
    spec.num_draft,
    spec.max_path or spec.num_draft,
    # With max_wait 0 a row is searched in every round and never idle, so that
    # the loop need not ask.
    is_idle=suffix_search.waits if spec.max_wait else None,
    insert=rows_lib.insert,
  )


def least(given: float, slots: int, data: entry.DraftData) -> base.Array:
  """float32 []: accepted tokens that pay for a block with so many slots.

  Args:
    given: value of the options; below 0 it follows from the costs.
    slots: K.
    data: holds the costs.
  """
  # An array in both cases. A number of Python has a weak type, and going from
  # one to the other would compile anew.
  value = data.costs.beyond_a_step(slots) if given < 0 else given
  return jnp.float32(value)


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del source, rows
  return entry.search_plan(
    'suffix',
    options.tree,
    num_draft,
    static=(options.spec(num_draft), target.lm.is_encoder_decoder),
    reads_corpus=True,
    # Timing takes seconds, so costs are wanted only where no bound is given.
    uses_costs=options.min_expected_accepted < 0,
    # Whether a draft pays is decided for the batch.
    row_independent=False,
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm, config, style
  spec, search_source = plan.static
  return suffix(spec, search_source=search_source)


def _params(plan, target, source, data) -> suffix_search.SuffixParams:
  del target, source
  given = data.options.min_expected_accepted
  return suffix_search.SuffixParams(
    data.index, least(given, plan.num_draft, data)
  )


ENTRY = entry.DrafterEntry(
  'suffix',
  'copies the most frequent continuation of the longest repeated ending, '
  'also from earlier answers',
  _plan,
  _bind,
  _params,
  options=SuffixOptions,
)
