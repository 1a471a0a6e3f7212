"""Drafts from a table of counts: unigrams or bigrams.

The cheapest drafters that Leviathan et al. measure: no network, one gather a
token, and an acceptance that is low but not nothing.

References:
  Leviathan et al. 2023, section 4.1 and table 3.
"""

from collections.abc import Sequence
import functools

from flax import struct
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import validation
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.models.common import rows as rows_lib

# Largest V of a bigram table: one gigabyte.
LARGEST_BIGRAM = 16384


@struct.dataclass
class Table:
  """Parameters of `table`.

  Attributes:
    log_probs: float32 [V] for unigrams, [V, V] for bigrams, whose row belongs
      to the token before.
  """

  log_probs: base.Array


def count_table(
  rows: Sequence[Sequence[int]],
  *,
  order: int,
  vocab_size: int,
  smoothing: float = 1.0,
) -> Table:
  """Makes a table from token rows.

  Args:
    rows: texts as ids.
    order: 1 or 2.
    vocab_size: V. A table of order 2 takes 4 V^2 bytes.
    smoothing: number of times that the unigram law (for order 1: the even
      law) counts as seen, so that no token has probability 0.

  Returns:
    `Table`, each row of which sums to 1.

  Raises:
    ValueError: if there is nothing to count, or the order is another.
  """
  if order not in (1, 2):
    raise ValueError(f'A table drafter has order 1 or 2, not {order}.')
  if order == 2 and vocab_size > LARGEST_BIGRAM:
    raise ValueError(
      f'A bigram table of {vocab_size} tokens is too large; at most '
      f'{LARGEST_BIGRAM} fit. Use unigram.'
    )
  ids = [np.asarray(row, np.int64) for row in rows if len(row)]
  if not ids:
    raise ValueError('A table drafter needs some text to count.')
  single = np.bincount(np.concatenate(ids), minlength=vocab_size)
  # Ids [0 0 1] of 4, smoothing 1: [2.25 1.25 .25 .25] / 4. A token of
  # probability 0 would have a log of -inf, and no draft could be drawn behind a
  # rare token.
  single = single + smoothing / vocab_size
  single = single / single.sum()
  if order == 1:
    return Table(jnp.asarray(np.log(single), jnp.float32))
  double = np.repeat(
    np.asarray(smoothing * single, np.float32)[None], vocab_size, axis=0
  )
  for row in ids:
    # Unlike double[...] += 1, this counts a pair as often as it occurs.
    np.add.at(double, (row[:-1], row[1:]), 1.0)
  double /= double.sum(axis=1, keepdims=True)
  return Table(jnp.asarray(np.log(double), jnp.float32))


@functools.cache
def table(order: int, num_draft: int, style: drawing.Style) -> base.Drafter:
  """Drafts each token from the one before it alone.

  Args:
    order: 1 (every token from the same law) or 2.
    num_draft: K, at least 1.
    style: way of drawing tokens.

  Returns:
    A drafter whose params are a `Table`.

  Raises:
    ValueError: if `num_draft` is less than 1.
  """
  validation.at_least('num_draft', num_draft, 1)

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    law = params.log_probs

    def step(state, last):
      if order == 2:
        return law[last[:, 0]], state
      return jnp.broadcast_to(law, (last.shape[0], *law.shape)), state

    first, _ = step(state, view.last_token[:, None])
    return drawing.sequence(first, step, state, view.context, num_draft, style)

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(
    init, propose, observe, num_draft, num_draft, insert=rows_lib.insert
  )


def _plan(order, target, source, options, num_draft, rows) -> entry.DraftPlan:
  del source, options, rows
  return entry.DraftPlan(
    num_draft,
    num_draft,
    has_log_probs=True,
    static=(order, target.lm.vocab_size),
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm, config
  return table(plan.static[0], plan.num_draft, style)


def _params(plan, target, source, data) -> Table:
  del target, source
  order, vocab_size = plan.static
  return count_table(data.rows, order=order, vocab_size=vocab_size)


UNIGRAM = entry.DrafterEntry(
  'unigram',
  'draws every token by its frequency in the prompts, for comparisons',
  functools.partial(_plan, 1),
  _bind,
  _params,
)
BIGRAM = UNIGRAM._replace(
  name='bigram',
  summary='draws every token by its frequency behind the one before',
  plan=functools.partial(_plan, 2),
)
