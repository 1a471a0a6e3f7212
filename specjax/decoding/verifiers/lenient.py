"""Lenience: a lossy relaxation of speculative sampling.

References:
  Leviathan, Kalman, Matias. Fast inference from Transformers via speculative
    decoding. ICML 2023, appendix. https://arxiv.org/abs/2211.17192
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from specjax import validation
from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.sampling import ratio


@dataclasses.dataclass
class LenientOptions:
  """Options of `lenient`.

  Attributes:
    lenience: bound l, above 0 and at most 1: no token becomes more than 1 / l
      times as likely as under the target; 1 is the rule `sampling`. One value,
      or one a prompt.
  """

  lenience: float = 1.0

  def validate(self) -> None:
    """Raises ValueError with one sentence about a bad value."""
    validation.each(
      'lenience',
      self.lenience,
      lambda v: 0 < v <= 1,
      'above 0 and at most 1',
    )


def _verify(context: Context, draft: Draft, logits: Array) -> Verdict:
  """Rows of temperature 0: accept x if p(x) > l max p (or x is the argmax).

  Their logits should come as the penalties left them
  (`WarpSpec(one_hot=False)`); one-hot rows are judged strictly.
  """
  common.check(draft, logits, 'lenient')
  lenience = context.controls.rule['lenience']
  cold = context.controls.temperature == 0
  # Both ways are computed for all rows: rows of a batch may have their own
  # temperatures, and a row's way is chosen by `where`.
  sampled = ratio(context, draft, logits, lenience)
  target = sampling.argmax(logits)
  at_target = common.at_tokens(logits, target)[:, :-1]
  at_draft = common.at_tokens(logits[:, :-1], draft.tokens)
  # Differences of logits are log ratios, so no softmax over V is needed.
  # lenience .5, best token 1.0 above the draft: -1 > -.69 fails
  ok = at_draft > at_target + jnp.log(lenience)[:, None]
  ok = (ok | common.agrees(draft, logits, target)) & common.filled(draft)
  count = common.count_leading(ok)
  return Verdict(
    jnp.where(cold, count, sampled[0]),
    jnp.where(cold, common.take_slot(target, count), sampled[1]),
  )


def lenient(
  sampler: str = 'gumbel', max_path: int = 0, static: tuple = ()
) -> Verifier:
  """The lossy rule `lenient`: keeps a token with min(1, p / (l q)).

  Rows of temperature 0 follow the paper's greedy analogue: a token is kept if
  the target, at temperature 1, gives it more than l times its best token's
  probability.
  """
  del sampler, max_path, static
  return Verifier(_verify, 'round', True)


def _is_exact(options: LenientOptions) -> bool:
  return bool(np.all(np.asarray(options.lenience) == 1))


ENTRY = VerifierEntry(
  'lenient',
  'lossy: a token with probability min(1, p / (lenience q))',
  lenient,
  LenientOptions,
  greedy_at_zero=False,
  # Rows of temperature 0 are judged by their gaps, which one-hot rows lose.
  wants_one_hot=False,
  exact_when=_is_exact,
)
