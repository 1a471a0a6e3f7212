"""Beginnings that all prompts of a job share, read before the batches."""

from collections.abc import Iterable, Sequence
import functools

import jax

from specjax import base
from specjax.decoding import precision
from specjax.decoding.recipe import Recipe
from specjax.decoding.state import Params

# Fewest tokens that are worth a program of their own, and the steps in which
# their number grows, so that other prompts seldom ask for another program.
FEWEST, STEP = 16, 8


def common(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
  """The tokens that all rows begin with, as far as they are read beforehand.

  Args:
    rows: token ids of the prompts; empty ones do not count.

  Returns:
    Fewer tokens than any row has: a multiple of `STEP`, at least `FEWEST`; ()
    where fewer are shared, or where there is one row.
  """
  # Rows [a b c x], [a b c y] and [a b z]: shared [a b c] and then [a b], and
  # the shortest row leaves two at most.
  shared, count = None, 0
  for row in rows:
    if not len(row):
      continue
    shared = list(row[:-1]) if shared is None else shared[: len(row) - 1]
    pairs = zip(shared, row, strict=False)
    apart = (at for at, (a, b) in enumerate(pairs) if a != b)
    shared = shared[: next(apart, None)]
    count += 1
    if len(shared) < FEWEST:
      return ()
  return tuple(shared[: len(shared) // STEP * STEP]) if count > 1 else ()


@functools.partial(jax.jit, static_argnames=('recipe', 'capacity'))
@precision.scoped
def begin(
  recipe: Recipe, params: Params, prompt: base.Prompt, *, capacity: int
) -> base.Shared:
  """Reads a beginning once.

  Args:
    recipe: target and drafter; the target has `select` and no encoder.
    params: their parameters.
    prompt: the beginning, a single row without padding.
    capacity: token slots of the batches behind it, see `generate.start`.

  Returns:
    `Shared`, for `Prompt.shared` of every such batch.
  """
  begun = recipe.target.prefill(params.target, prompt, capacity=capacity)
  cache = None
  if recipe.drafter.network_cache is not None:
    made = recipe.drafter.init(params.drafter, prompt, begun, capacity=capacity)
    cache = recipe.drafter.network_cache(made)
  columns = prompt.tokens.shape[1]
  return base.Shared(begun=begun, drafter=cache, columns=columns)
