"""Heads that score only some tokens of the vocabulary (`output_ids`)."""

import jax.numpy as jnp
import numpy as np

from specjax.base import Array


def check_output_ids(
  output_ids: tuple, vocab_size: int, tied: bool, rising: bool = False
) -> None:
  """Raises ValueError if no head can have these rows.

  Args:
    output_ids: the ids of its rows; () for all.
    vocab_size: rows of the embedding table.
    tied: whether the head is the embedding table.
    rising: whether they must stand in rising order.
  """
  if not output_ids:
    return
  whole = (int, np.integer)
  if not all(isinstance(one, whole) for one in output_ids):
    raise ValueError(f'output_ids must be whole numbers, not {output_ids!r}.')
  ordered = tuple(sorted(set(output_ids)))
  if (
    tied
    or len(ordered) < len(output_ids)
    or (rising and tuple(output_ids) != ordered)
    or not 0 <= ordered[0] <= ordered[-1] < vocab_size
  ):
    order = ' in rising order' if rising else ''
    raise ValueError(
      f'output_ids must be distinct ids{order} below vocab_size, and the head '
      'must not be tied to the embeddings.'
    )


def spread(logits: Array, output_ids: tuple, vocab_size: int) -> Array:
  """Returns a head's logits over the vocabulary, -inf where it has none.

  It gathers: a scatter goes through its entries one by one on a CPU.

  Args:
    logits: [..., V'], of the whole vocabulary or of `output_ids`.
    output_ids: the ids of the V' logits, in their order; () for 0, 1, 2, ...
    vocab_size: V; ids at or above it are dropped.

  Returns:
    [..., V], in the dtype of the logits.
  """
  if not output_ids:
    missing = vocab_size - logits.shape[-1]
    if missing <= 0:
      return logits[..., :vocab_size]
    # In:  logits [x y], vocab_size 3
    # Out: [x y -inf]
    pads = [(0, 0)] * (logits.ndim - 1) + [(0, missing)]
    return jnp.pad(logits, pads, constant_values=-jnp.inf)
  # In:  logits [x y], output_ids (3, 1), vocab_size 5
  # Out: [-inf y -inf x -inf]
  place = np.full(max(vocab_size, max(output_ids) + 1), -1, np.int32)
  place[list(output_ids)] = np.arange(len(output_ids))
  place = place[:vocab_size]
  # `place` is a constant of the program: -1 marks ids without a row, which read
  # row 0 and are then masked.
  found = jnp.take(logits, np.maximum(place, 0), axis=-1, mode='clip')
  return jnp.where(place < 0, -jnp.inf, found)
