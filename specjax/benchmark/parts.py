"""Times of a round's parts, each alone in a compiled loop of its own.

A part is repeated inside one program, each repetition depending on the one
before, so that neither dispatch nor the compiler's hoisting counts.
"""

import functools
import time
from typing import Callable, NamedTuple, Optional, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.benchmark.cases import Case
from specjax.decoding import sampling
from specjax.distributed import processes

# How long one sample should take, and how many are taken.
SAMPLE_SECONDS = 0.08
SAMPLES = 5
# Calls that the number of steps is chosen by. One alone may be interrupted, and
# a sample of too few steps lasts no longer than a call does without any.
TRIALS = 3
MOST_STEPS = 512
# What a clock tells apart.
_LEAST_SECONDS = 1e-7
# Read to measure memory: many times what caches hold (more on an accelerator).
_READ_BYTES = 2**28


class Parts(NamedTuple):
  """Milliseconds.

  Attributes:
    step: the target's pass over one token.
    verify: the target's pass over the blocks that were really run, a mean
      where their widths vary.
    draft: proposing once.
    by_width: milliseconds by block width.
    operations: of a drafter's step over a target's, as the compiler counts
      them; 0 for a drafter without a network, None where drafting is no step
      of a language model.
  """

  step: float
  verify: float
  draft: float
  by_width: dict
  operations: Optional[float] = None


@functools.partial(jax.jit, static_argnums=0)
def _extend_steps(lm, params, cache, tokens, steps):
  """Passes over blocks [B, T] of what the block before predicted."""

  def body(_, carry):
    cache, tokens = carry
    scored, cache = lm.extend(params, cache, tokens)
    return cache, sampling.argmax(scored.logits)

  return lax.fori_loop(0, steps, body, (cache, tokens))[1]


@functools.partial(jax.jit, static_argnums=0)
def _propose_steps(drafter, params, state, view, steps):
  """Proposals, each from a context that the one before touched."""

  def body(_, carry):
    state, tokens, total = carry
    context = view.context.replace(tokens=tokens)
    draft, state = drafter.propose(params, state, view.replace(context=context))
    first = jnp.maximum(draft.tokens[:, 0], 0)
    # The first token of the context is no longer what it was, which keeps a
    # pass from being the same as the last and hardly matters to any drafter.
    return state, tokens.at[:, 0].set(first), total + jnp.sum(draft.tokens)

  start = state, view.context.tokens, jnp.zeros((), jnp.int32)
  return lax.fori_loop(0, steps, body, start)[1:]


def _timer(function, *arguments) -> Callable[[int], float]:
  """Compiles; returns what gives the seconds of a number of steps."""

  def seconds(steps: int) -> float:
    count = jnp.int32(steps)
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments, count))
    return time.perf_counter() - begin

  seconds(1)
  return seconds


@jax.jit
def _read_steps(array, steps):
  """Passes over an array [rows, columns], each by what the one before found."""

  def body(_, seen):
    return jnp.max(array + seen[:, None], axis=1)

  start = jnp.zeros(array.shape[0], array.dtype)
  return lax.fori_loop(0, steps, body, start)


def bytes_per_second() -> float:
  """How fast this device reads its memory: a maximum over a large array."""
  size = _READ_BYTES if jax.default_backend() == 'cpu' else 4 * _READ_BYTES
  array = jnp.zeros((size // 2**16, 2**14), jnp.float32)
  (milliseconds,) = interleaved([_timer(_read_steps, array)])
  return 1e3 * array.nbytes / milliseconds


def interleaved(timers: Sequence[Callable[[int], float]]) -> list[float]:
  """Median milliseconds of a step of each, samples taken in turn.

  What a call costs without any step, such as its own copy of the caches, is
  measured with every sample and taken off.
  """
  steps = []
  for timer in timers:
    few = max(min(timer(2) for _ in range(TRIALS)), 1e-6) / 2
    count = int(np.clip(SAMPLE_SECONDS / few, 2, MOST_STEPS))
    # Several processes must run the same number of steps.
    steps.append(processes.from_first(count))
  samples = [
    [
      1e3 * max(timer(count) - timer(0), _LEAST_SECONDS) / count
      for timer, count in zip(timers, steps)
    ]
    for _ in range(SAMPLES)
  ]
  return [float(x) for x in np.median(samples, axis=0)]


def extend_timer(lm, params, cache, batch: int, width: int):
  """Timer of the target's pass over a block of `width` tokens."""
  tokens = jnp.ones((batch, width), jnp.int32)
  return _timer(_extend_steps, lm, params, cache, tokens)


def operations(lm, params, cache, batch: int) -> float:
  """Arithmetic of a pass over one token a row; 0 where nobody counts it."""
  tokens = jnp.ones((batch, 1), jnp.int32)
  lowered = _extend_steps.lower(lm, params, cache, tokens, jnp.int32(1))
  return float((lowered.cost_analysis() or {}).get('flops', 0.0))


def _operations_ratio(case, params, state) -> Optional[float]:
  """See `Parts.operations`."""
  if case.drafter is None or case.drafter.kind in ('slots', 'hybrid'):
    return None
  if case.drafter.kind != 'model':
    return 0.0
  batch = state.last_token.shape[0]
  mine = operations(case.drafter.model.lm, params.drafter, state.drafter, batch)
  whole = operations(case.recipe.target, params.target, state.cache, batch)
  return mine / whole if mine and whole else None


def propose_timer(drafter: base.Drafter, params, state):
  """Timer of one proposal, from a `generate.DecodeState`."""
  view = base.View(state.context, state.last_token, state.cache)
  return _timer(_propose_steps, drafter, params, state.drafter, view)


def widths_used(case: Case, generations: Sequence) -> dict[int, float]:
  """Share of the rounds that ran at each block width."""
  widths = np.asarray(case.recipe.widths or (case.recipe.drafter.num_draft,))
  rounds = np.zeros(len(widths))
  for generation in generations:
    count = int(generation.num_rounds)
    longest = generation.rounds.drafted[:, :count].max(axis=0)
    at = np.searchsorted(widths[:-1], longest)
    rounds += np.bincount(at, minlength=len(widths))
  shares = rounds / max(rounds.sum(), 1)
  return {int(w) + 1: float(s) for w, s in zip(widths, shares)}


def round_parts(
  case, params, state, by_width: dict, generations, *, also: Sequence[int] = ()
) -> Parts:
  """Times the parts of a case's rounds.

  Args:
    case: a speculative case.
    params: its `generate.Params`.
    state: a `generate.DecodeState` in the middle of a generation.
    by_width: milliseconds of target passes timed so far; added to.
    generations: what the case gave, to weigh the widths it used.
    also: further widths to time.
  """
  shares = widths_used(case, generations)
  batch = state.last_token.shape[0]
  lm = case.recipe.target
  missing = [w for w in sorted({1, *shares, *also}) if w not in by_width]
  timers = [
    extend_timer(lm, params.target, state.cache, batch, w) for w in missing
  ]
  if case.num_draft:
    timers.append(propose_timer(case.recipe.drafter, params.drafter, state))
  times = interleaved(timers)
  by_width.update(zip(missing, times))
  draft = times[-1] if case.num_draft else 0.0
  verify = sum(by_width[w] * share for w, share in shares.items())
  ratio = _operations_ratio(case, params, state)
  return Parts(by_width[1], verify, draft, dict(by_width), ratio)
