"""Times of a round's parts, each alone in a compiled loop of its own.

A part is repeated inside one program, each repetition depending on the one
before, so that neither dispatch nor the compiler's hoisting counts.
"""

from collections.abc import Callable, Sequence
import functools
import time
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import waiting
from specjax.decoding import generate as generate_lib
from specjax.decoding import precision
from specjax.decoding import sampling
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.distributed import processes

# How long one sample should take, and how many are taken.
SAMPLE_SECONDS = 0.08
SAMPLES = 5
# Calls that the number of steps is chosen by. One alone may be interrupted, and
# a sample of too few steps lasts no longer than a call does without any.
TRIALS = 3
MOST_STEPS = 512
# The resolution of the clock, in seconds.
_LEAST_SECONDS = 1e-7


@functools.partial(jax.jit, static_argnums=0)
@precision.scoped
def _extend_steps(recipe, params, cache, tokens, steps):
  """Passes over blocks [B, T] of what the block before predicted."""

  def body(_, carry):
    cache, tokens = carry
    scored, cache = recipe.target.extend(params.target, cache, tokens)
    return cache, sampling.argmax(scored.logits)

  return lax.fori_loop(0, steps, body, (cache, tokens))[1]


@functools.partial(jax.jit, static_argnums=0)
@precision.scoped
def _propose_steps(recipe, params, state, view, steps):
  """Proposals, each from a context that the one before touched."""

  def body(_, carry):
    state, tokens, total = carry
    context = view.context.replace(tokens=tokens)
    view_now = view.replace(context=context)
    draft, state = recipe.drafter.propose(params.drafter, state, view_now)
    first = jnp.maximum(draft.tokens[:, 0], 0)
    # The first token of the context is no longer what it was, which keeps a
    # pass from being the same as the last and hardly matters to any drafter.
    return state, tokens.at[:, 0].set(first), total + jnp.sum(draft.tokens)

  start = state, view.context.tokens, jnp.zeros((), jnp.int32)
  return lax.fori_loop(0, steps, body, start)[1:]


def timer(function: Callable, *arguments: Any) -> Callable[[int], float]:
  """Compiles; returns a function from a number of steps to seconds."""

  def seconds(steps: int) -> float:
    count = jnp.int32(steps)
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments, count))
    return time.perf_counter() - begin

  with waiting.compiling('a part of a round, to time it'):
    seconds(1)
  return seconds


def interleaved(
  timers: Sequence[Callable[[int], float]],
  *,
  samples: int = SAMPLES,
  seconds: float = SAMPLE_SECONDS,
  limit: float | None = None,
) -> list[float]:
  """Median milliseconds of a step of each, samples taken in turn.

  The cost of a call without any step, such as its own copy of the caches, is
  measured with every sample and subtracted.

  Args:
    timers: functions that give the seconds of a number of steps.
    samples: number of samples of each.
    seconds: time that one sample should take.
    limit: seconds for all of it; where that would not do, each is called once
      for two steps.
  """
  # A step takes (time of n steps - time of 0 steps) / n.
  first = [timer(2) for timer in timers]
  longer = sum(TRIALS * x + samples * max(x, seconds) for x in first)
  if limit is not None and processes.from_first(longer > limit):
    return [
      1e3 * max(two - timer(0), _LEAST_SECONDS) / 2
      for two, timer in zip(first, timers, strict=True)
    ]
  steps = []
  for timer, two in zip(timers, first, strict=True):
    few = max(min(two, *(timer(2) for _ in range(TRIALS - 1))), 1e-6) / 2
    count = int(np.clip(seconds / few, 2, MOST_STEPS))
    # Several processes must run the same number of steps.
    steps.append(processes.from_first(count))
  found = [
    [
      1e3 * max(timer(count) - timer(0), _LEAST_SECONDS) / count
      for timer, count in zip(timers, steps, strict=True)
    ]
    for _ in range(samples)
  ]
  return [float(x) for x in np.median(found, axis=0)]


def extend_timer(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  cache: base.PyTree,
  batch: int,
  width: int,
) -> Callable[[int], float]:
  """Timer of the target's pass over a block of `width` tokens."""
  tokens = jnp.ones((batch, width), jnp.int32)
  return timer(_extend_steps, recipe, params, cache, tokens)


def operations(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  cache: base.PyTree,
  batch: int,
) -> float:
  """Arithmetic of a pass over one token a row; 0 where nobody counts it."""
  tokens = jnp.ones((batch, 1), jnp.int32)
  lowered = _extend_steps.lower(recipe, params, cache, tokens, jnp.int32(1))
  return float((lowered.cost_analysis() or {}).get('flops', 0.0))


def propose_timer(
  recipe: generate_lib.Recipe, params: generate_lib.Params, state: Any
) -> Callable[[int], float]:
  """Timer of one proposal, from a `generate.DecodeState`."""
  live = state.status == generate_lib.RUNNING
  view = base.View(state.context, state.last_token, state.cache, live)
  return timer(_propose_steps, recipe, params, state.drafter, view)


def middle_state(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  rows: int,
  width: int,
  rule: dict,
) -> generate_lib.DecodeState:
  """A state to time parts from: prompts of `width` tokens, nothing decoded.

  Args:
    recipe: parts of the decoder.
    params: its parameters.
    rows: B.
    width: S.
    rule: dials of its rule.
  """
  prompt = base.Prompt(
    np.ones((rows, width), np.int32), np.full((rows,), width, np.int32)
  )
  controls = Sampling().controls(
    row_keys(0, range(rows)), width, rule=rule, spec=recipe.warp
  )
  return _start(recipe, params, prompt, controls, max_new_tokens=width)


_start = jax.jit(
  generate_lib.start, static_argnames=('recipe', 'max_new_tokens')
)
