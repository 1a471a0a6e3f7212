"""Keeps tokens equal to the target's argmax.

References:
  Stern, Shazeer, Uszkoreit. Blockwise parallel decoding for deep autoregressive
    models. NeurIPS 2018. https://arxiv.org/abs/1811.03115
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.walk import walk


def verify(context: Context, draft: Draft, logits: Array) -> Verdict:
  """Accepts the leading draft tokens equal to the argmax; then the argmax."""
  del context
  common.check(draft, logits, 'greedy')
  # Draft [a b c], argmax of the four slots [a b x y]: two accepted, next is x.
  target = sampling.argmax(logits)
  num_accepted = common.count_leading(common.agrees(draft, logits, target))
  return Verdict(num_accepted, common.take_slot(target, num_accepted))


def _tree(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  """Follows the argmax from the root."""
  del context
  common.check_tree(draft, 'greedy')
  return walk(draft, logits, sampling.argmax(logits), max_path)


def greedy(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `greedy`: the tokens of greedy decoding, whatever is drafted."""
  del sampler, static
  return Verifier(common.for_paths(verify, _tree, max_path))


ENTRY = VerifierEntry(
  'greedy',
  "tokens equal to the target's argmax",
  greedy,
  requires_zero_temperature=True,
  keeps_target_sample=True,
  trees=True,
  exact_for='argmax',
)
