"""Keeps tokens equal to the target's own sample: `match` and `coupled`.

Every emitted token *is* a sample of the target, drawn with noise that belongs
to its position. So the output equals plain sampling with the same row key token
for token, whatever the drafter, the draft length and the batch, up to rounding
in the logits. The two rules differ in the drafter's noise alone: under
`coupled` it shares the target's, which makes equal tokens likely; under `match`
it is free.

References:
  Daliri, Musco, Suresh. Coupling without communication and drafter-invariant
    speculative decoding. 2024. https://arxiv.org/abs/2408.07978
"""

import functools

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.walk import walk


def _chain(
  context: Context, draft: Draft, logits: Array, *, name: str, sampler: str
) -> Verdict:
  common.check(draft, logits, name)
  # Draft [a b c], the target's samples [a b x y]: two are accepted and x is
  # next, the very token that plain sampling would draw there.
  depth = jnp.arange(logits.shape[1])
  target = common.target_samples(context, logits, depth, sampler)
  num_accepted = common.count_leading(common.agrees(draft, logits, target))
  return Verdict(num_accepted, common.take_slot(target, num_accepted))


def _tree(
  context: Context,
  draft: Draft,
  logits: Array,
  *,
  name: str,
  sampler: str,
  max_path: int,
) -> Verdict:
  common.check_tree(draft, name)
  target = common.target_samples(context, logits, draft.tree.depth, sampler)
  return walk(draft, logits, target, max_path)


def _make(name: str, noise: str, sampler: str, max_path: int) -> Verifier:
  # Neither rule reads q: tokens are compared, so `Draft.log_probs` is not made,
  # which saves [B, K, V] floats a round.
  verify = functools.partial(_chain, name=name, sampler=sampler)
  if max_path:
    verify = functools.partial(
      _tree, name=name, sampler=sampler, max_path=max_path
    )
  return Verifier(verify, noise)


def match(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `match`; with no draft slots it is plain decoding.

  Args:
    sampler: 'gumbel' or 'inverse_cdf'.
    max_path: longest path of trees; 0 for chains.
    static: unused.
  """
  del static
  return _make('match', 'private', sampler, max_path)


def coupled(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The rule `coupled`: the drafter draws with the target's own noise.

  Args:
    sampler: 'gumbel' or 'inverse_cdf'; Gumbel noise couples better.
    max_path: longest path of trees; 0 for chains.
    static: unused.
  """
  del static
  return _make('coupled', 'position', sampler, max_path)


MATCH = VerifierEntry(
  'match',
  "tokens equal to the target's own sample",
  match,
  keeps_target_sample=True,
  trees=True,
)
COUPLED = MATCH._replace(
  name='coupled',
  summary="tokens equal to the target's own sample, with noise shared",
  make=coupled,
)
