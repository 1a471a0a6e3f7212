"""Times of a round's parts, each alone in a compiled loop of its own.

A part is repeated inside one program, each repetition depending on the one
before. Dispatch then costs nothing, and the compiler cannot move the work out
of the loop or run it once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax.benchmark.cases import Case
from specjax.inference import timing

# Bytes read to measure memory: many times the processor's caches (more on an
# accelerator), or the speed of a cache would be measured.
_READ_BYTES = 2**28


class Parts(NamedTuple):
  """Times of a round's parts, in milliseconds.

  Attributes:
    step: time of the target's pass over one token.
    block: time of the target's pass over the blocks that were really run, a
      mean where their widths vary.
    draft: time of proposing once.
    by_width: time of the target's pass by block width.
    operations: ratio of a drafter's step to a target's in operations that the
      compiler counts; 0 for a drafter without a network, None where drafting is
      no step of a language model.
  """

  step: float
  block: float
  draft: float
  by_width: dict
  operations: float | None = None


@jax.jit
def _read_steps(array, steps):
  """Passes over an array [rows, columns], each using the last one's result."""

  def body(_, seen):
    return jnp.max(array + seen[:, None], axis=1)

  start = jnp.zeros(array.shape[0], array.dtype)
  return lax.fori_loop(0, steps, body, start)


def bytes_per_second() -> float:
  """Speed at which this device reads memory: a maximum over a large array."""
  size = _READ_BYTES if jax.default_backend() == 'cpu' else 4 * _READ_BYTES
  array = jnp.zeros((size // 2**16, 2**14), jnp.float32)
  (milliseconds,) = timing.interleaved([timing.timer(_read_steps, array)])
  return 1e3 * array.nbytes / milliseconds


def _operations_ratio(case, params, state) -> float | None:
  """See `Parts.operations`."""
  source = case.source
  if source.model is None:
    return 0.0
  if source.model.lm is None or source.entry.wraps:
    return None
  batch = state.last_token.shape[0]
  drafting = case.recipe._replace(target=source.model.lm)
  mine = timing.operations(
    drafting, params.replace(target=params.drafter), state.drafter, batch
  )
  whole = timing.operations(case.recipe, params, state.cache, batch)
  return mine / whole if mine and whole else None


def widths_used(case: Case, generations: Sequence) -> dict[int, float]:
  """Share of the rounds that ran at each block width."""
  # A round runs at the least width that holds the longest draft of its rows:
  #
  #   widths of drafts        [0, 2, 8]
  #   longest draft, by round [0, 2, 5, 1] -> places [0, 1, 2, 1]
  #   rounds of each width    [1, 2, 1]
  #   shares of block widths  {1: 0.25, 3: 0.5, 9: 0.25}
  widths = np.asarray(case.recipe.widths or (case.recipe.drafter.num_draft,))
  rounds = np.zeros(len(widths))
  for generation in generations:
    count = int(generation.num_rounds)
    longest = generation.rounds.drafted[:, :count].max(axis=0)
    at = np.searchsorted(widths[:-1], longest)
    rounds += np.bincount(at, minlength=len(widths))
  shares = rounds / max(rounds.sum(), 1)
  return {int(w) + 1: float(s) for w, s in zip(widths, shares, strict=True)}


def round_parts(
  case: Any,
  params: Any,
  state: Any,
  by_width: dict,
  generations: Sequence,
  *,
  also: Sequence[int] = (),
) -> Parts:
  """Times the parts of a case's rounds.

  Args:
    case: speculative case, or plain decoding.
    params: `generate.Params` of the case.
    state: `generate.DecodeState` in the middle of a generation, because a pass
      takes longer the more tokens are committed.
    by_width: milliseconds of target passes timed so far; added to.
    generations: outputs of the case, which weigh the widths it used.
    also: further widths to time.
  """
  shares = widths_used(case, generations)
  batch = state.last_token.shape[0]
  # A pass depends on no drafter, so all cases of a group share these times.
  missing = [w for w in sorted({1, *shares, *also}) if w not in by_width]
  timers = [
    timing.extend_timer(case.recipe, params, state.cache, batch, w)
    for w in missing
  ]
  if case.drafts:
    timers.append(timing.propose_timer(case.recipe, params, state))
  times = timing.interleaved(timers)
  by_width.update(zip(missing, times, strict=False))
  draft = times[-1] if case.drafts else 0.0
  block = sum(by_width[w] * share for w, share in shares.items())
  ratio = _operations_ratio(case, params, state)
  return Parts(by_width[1], block, draft, dict(by_width), ratio)
