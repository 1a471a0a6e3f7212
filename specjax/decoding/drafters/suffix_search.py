"""The search of `suffix`: which ends repeat, and whether a draft pays.

How much is drafted follows from the length of the match and from how often it
was continued alike; all of it is read off verified tokens only, so that
dropping slots never biases the output.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025. https://arxiv.org/abs/2411.04975
"""

import dataclasses
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from specjax import base
from specjax import control_flow
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters import matching
from specjax.decoding.drafters import voting


@dataclasses.dataclass(frozen=True)
class SuffixSpec:
  """Static settings of `suffix`; hashable.

  Attributes:
    num_draft: K, most tokens (nodes of a tree) drafted a round.
    max_depth: a match is shorter than this many tokens.
    min_match: no match shorter than this is used.
    factor: a match of m tokens drafts at most floor(m * factor + offset).
    offset: summand of `factor`.
    min_token_prob: a draft ends before a token whose probability, estimated by
      counting, is below this.
    max_matches: W, matches that are counted: the longest, then the latest.
      Counts are those of the definition where no more than W exist.
    max_wait: after rounds in which nothing drafted was accepted, a row is not
      searched again for 1, 2, 4, ... rounds, at most this many; 0 searches in
      every round.
    max_path: 0 drafts a chain; more, a tree with paths of at most this length.
  """

  num_draft: int = 8
  max_depth: int = 24
  min_match: int = 1
  factor: float = 1.0
  offset: float = 0.0
  min_token_prob: float = 0.1
  max_matches: int = 8
  max_wait: int = 0
  max_path: int = 0

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    for name, low, high in (
      ('num_draft', 1, None),
      ('max_depth', 2, corpus_lib.INDEX_DEPTH),
      ('min_match', 1, self.max_depth - 1),
      ('max_matches', 1, 128),
      ('max_wait', 0, 2**20),
      ('max_path', 0, self.num_draft),
      ('factor', 0, None),
      ('min_token_prob', 0, 1),
    ):
      value = getattr(self, name)
      if value < low or (high is not None and value > high):
        most = '' if high is None else f' and at most {high}'
        raise ValueError(
          f'{name} of the suffix drafter must be at least {low}{most}, not '
          f'{value}.'
        )


@struct.dataclass
class SuffixParams:
  """Parameters of `suffix`.

  Attributes:
    index: `corpus.Index` of earlier answers, or None.
    min_expected_accepted: float32 []. Drafts that promise fewer accepted tokens
      than this, on the mean over the live rows, are not proposed: verifying
      them would cost more than they bring. A wide block is wide for all rows of
      a batch.
  """

  index: Any = None
  min_expected_accepted: Any = 0.0


@struct.dataclass
class SuffixState:
  """State of `suffix`.

  Attributes:
    source: `base.Prompt` of an encoder, or None.
    wait: int32 [B], rounds left without a search.
    misses: int32 [B], searches in a row that brought nothing.
    drafted: int32 [B], tokens proposed in this round.
  """

  source: base.Prompt | None
  wait: base.Array
  misses: base.Array
  drafted: base.Array


class Found(NamedTuple):
  """The result of a search.

  Attributes:
    tokens: int32 [B, K], `EMPTY` where nothing is drafted.
    score: float32 [B], accepted tokens expected.
    tree: `base.Tree`, or None for a chain.
  """

  tokens: base.Array
  score: base.Array
  tree: base.Tree | None


def start(
  spec: SuffixSpec, prompt: base.Prompt, search_source: bool
) -> SuffixState:
  """State before the first round."""
  del spec
  zero = jnp.zeros((prompt.tokens.shape[0],), jnp.int32)
  return SuffixState(prompt if search_source else None, zero, zero, zero)


def search(
  spec: SuffixSpec,
  index: corpus_lib.Index | None,
  source: base.Prompt | None,
  context: base.Context,
) -> Found:
  """Searches context, source and corpus.

  Args:
    spec: settings.
    index: the corpus, or None.
    source: an encoder's source, or None.
    context: committed tokens and controls.

  Returns:
    The draft of the best score; of equal ones, that of the context.
    `worthwhile` decides whether it pays.
  """
  span = spec.max_path or spec.num_draft
  wanted = matching.pattern(context, spec.max_depth)
  near = matching.local(context, source, wanted, spec.max_matches, span)
  found = _draft(spec, near, True)
  if index is not None:
    far = matching.in_corpus(index, wanted, spec.max_matches, span)
    other = _draft(spec, far, False)
    ours = found.score >= other.score - 1e-5
    # Sums of equal fractions differ by rounding, hence the 1e-5.
    found = jax.tree.map(
      lambda a, b: jnp.where(ours.reshape(-1, *[1] * (a.ndim - 1)), a, b),
      found,
      other,
    )
  return _only(found.score > 0, found)


def worthwhile(least: base.Array, found: Found, live: base.Array) -> Found:
  """The drafts, if together they pay for a wider block; else none.

  Args:
    least: float32 [], accepted tokens that pay for it.
    found: result of `search`.
    live: bool [B], rows that still decode.
  """
  # least 1.5, score [2 2 0]: the mean is 1.33 and no row drafts. Once the third
  # row has ended the mean is 2, and the other two draft.
  score = jnp.where(live, found.score, 0.0)
  mean = jnp.sum(score) / jnp.maximum(jnp.sum(live), 1)
  return _only(live & (mean >= least - 1e-5), found)


def search_due(
  spec: SuffixSpec,
  params: SuffixParams,
  state: SuffixState,
  view: base.View,
) -> Found:
  """The worthwhile drafts of `search`, for live rows that do not wait.

  Skips the search if there are no such rows.
  """

  def find(_=None):
    return search(spec, params.index, state.source, view.context)

  least = params.min_expected_accepted
  if not spec.max_wait:
    return worthwhile(least, find(), view.live)
  due = (state.wait == 0) & view.live
  found = control_flow.run_if(jnp.any(due), find, control_flow.blank(find))
  return worthwhile(least, _only(due, found), view.live)


def waits(state: SuffixState) -> base.Array:
  """bool [B]: rows that are not searched in the coming round."""
  return state.wait > 0


def learn(
  spec: SuffixSpec, state: SuffixState, num_accepted: base.Array
) -> SuffixState:
  """Lets rows wait whose searches bring nothing.

  Args:
    spec: settings.
    state: state after `propose`, which set `drafted`.
    num_accepted: int32 [B], tokens of the suffix draft that were accepted.
  """
  if not spec.max_wait:
    return state
  # searches without an accepted token: 1 2 3 4 5 ...
  # rounds of waiting, max_wait 8:      1 2 4 8 8 ...
  searched = state.wait == 0
  hit = searched & (num_accepted > 0)
  misses = jnp.where(hit, 0, state.misses + searched)
  pause = jnp.minimum(2 ** jnp.clip(misses - 1, 0, 20), spec.max_wait)
  pause = jnp.where(misses > 0, pause, 0)
  return state.replace(
    misses=misses, wait=jnp.where(searched, pause, state.wait - 1)
  )


def _only(rows, found: Found) -> Found:
  """Drafts of some rows alone."""
  return found._replace(
    tokens=jnp.where(rows[:, None], found.tokens, base.EMPTY),
    score=jnp.where(rows, found.score, 0.0),
  )


def _draft(spec, matches, is_local) -> Found:
  """The best draft from one searched text."""
  depth = spec.max_depth - 1
  votes = voting.count(matches, depth, is_local)
  most = voting.lengths(depth, spec.num_draft, spec.factor, spec.offset)
  # min_match 3: [1 2 3 4] becomes [0 0 3 4].
  most[: spec.min_match - 1] = 0
  if spec.max_path:
    tokens, score, tree = voting.tree(
      matches, votes, most, spec.min_token_prob, spec.num_draft
    )
    return Found(tokens, score, tree)
  tokens, score = voting.path(matches, votes, most, spec.min_token_prob)
  return Found(tokens, score, None)
