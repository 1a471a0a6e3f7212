"""How drafters without a model search; what `--config.search.*` can change."""

import dataclasses

from specjax import validation
from specjax.decoding import drafters


@dataclasses.dataclass
class SearchConfig:
  """Settings of `prompt_lookup`, `suffix` and `token_recycling`.

  Attributes:
    tree: `suffix` and `token_recycling` draft a chain at 0, else a tree whose
      paths are at most this long; `num_draft` is then its number of nodes.
    max_ngram: longest match of `prompt_lookup`.
    min_ngram: its shortest match that is worth a draft.
    match: which of its longest matches is copied: latest or earliest.
    periodic: it continues a match close to the end periodically.
    max_depth: matches of `suffix` are shorter than this many tokens.
    min_match: its shortest match.
    factor: after a match of m tokens it drafts at most m * factor + offset.
    offset: see `factor`.
    min_token_prob: it ends a draft before a token less frequent than this.
    min_score: accepted tokens that it must expect to draft at all; -1: what a
      wider block costs on this machine.
    max_matches: matches that it counts.
    max_wait: it looks at least once in so many rounds; 0: in every round.
    successors: width of the table of `token_recycling`.
    decay: how much less likely it thinks each further successor; shapes trees.
  """

  tree: int = 0
  max_ngram: int = 3
  min_ngram: int = 1
  match: str = 'latest'
  periodic: bool = True
  max_depth: int = 24
  min_match: int = 1
  factor: float = 1.0
  offset: float = 0.0
  min_token_prob: float = 0.1
  min_score: float = -1.0
  max_matches: int = 8
  max_wait: int = 16
  successors: int = 8
  decay: float = 0.4

  def suffix(self, num_draft: int, min_promise: float) -> drafters.SuffixSpec:
    """Settings of the suffix drafter.

    Args:
      num_draft: K.
      min_promise: accepted tokens that pay for a block of K, for
        `min_score=-1`.
    """
    return drafters.SuffixSpec(
      num_draft=num_draft,
      max_depth=self.max_depth,
      min_match=self.min_match,
      factor=self.factor,
      offset=self.offset,
      min_token_prob=self.min_token_prob,
      min_score=min_promise if self.min_score < 0 else self.min_score,
      max_matches=self.max_matches,
      max_wait=self.max_wait,
      max_path=self.tree,
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    validation.at_least('search.tree', self.tree, 0)
    most = max(self.tree, 1)
    self.suffix(most, 0.0).validate()
    drafters.prompt_lookup(num_draft=1, **self.lookup())
    drafters.token_recycling(vocab_size=1, num_draft=most, **self.recycling())

  def lookup(self) -> dict:
    """Arguments of `drafters.prompt_lookup`."""
    return dict(
      max_ngram=self.max_ngram,
      min_ngram=self.min_ngram,
      match=self.match,
      periodic=self.periodic,
    )

  def recycling(self) -> dict:
    """Arguments of `drafters.token_recycling`."""
    return dict(
      num_successors=self.successors, max_path=self.tree, decay=self.decay
    )
