"""Runs cases side by side and times them.

Compilation is done ahead and counted apart. Every engine decodes all prompts
once to warm up. Then the engines take turns, so that what slows the machine for
a while slows all of them. The order rotates, because an engine may leave caches
and clock speed in a state that helps or hurts the next one:

  repetition 0: plain, A, B
  repetition 1: A, B, plain
  repetition 2: B, plain, A

Medians are taken over the repetitions of each batch. Other load adds time,
rarely but much: a mean of 5 repetitions carries every such outlier, their
median ignores up to 2 of them.
"""

from collections.abc import Callable, Sequence
import functools
import gc
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.benchmark import memory
from specjax.benchmark.cases import Case
from specjax.benchmark.cases import PromptBatch
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding.state import with_keys
from specjax.distributed import transfer

# Pause after an engine ran, for the waiting threads of a peer to stop spinning.
PAUSE_SECONDS = 0.25


class Timing(NamedTuple):
  """Seconds of one batch; prefill and decode are 0 where unknown."""

  total: float
  prefill: float = 0.0
  decode: float = 0.0


class Engine(NamedTuple):
  """A compiled case, a search or a peer, which decodes batches.

  Attributes:
    label: name in lines of progress.
    run: function of a batch's index; returns `Timing` and the result.
    pause: function of a batch's index and a number of rounds; returns the
      `generate.DecodeState` after so many. None for peers.
    compile_seconds: seconds of compiling, or of loading a peer.
    program_bytes: temporary memory of the compiled loop, or None.
    total_bytes: bytes of a device: parameters, and results and temporaries of
      the compiled program that needs most; or None.
  """

  label: str
  run: Callable[[int], tuple[Timing, Any]]
  pause: Callable[[int, int], Any] | None = None
  compile_seconds: float = 0.0
  program_bytes: int | None = None
  total_bytes: int | None = None


class Measured(NamedTuple):
  """Timings of an engine.

  Attributes:
    engine: engine that ran.
    results: results by timed batch: `generate.Generation` of numpy arrays, or
      the answers of a peer.
    timings: fields of `Timing`, float64 [repetitions, batches, 3].
    peak: `memory.Peak` of one pass.
    untimed: results of the further batches, which are not timed.
  """

  engine: Engine
  results: list
  timings: np.ndarray
  peak: memory.Peak
  untimed: Sequence = ()

  @property
  def every(self) -> list:
    """Results of all batches, the timed ones first."""
    return [*self.results, *self.untimed]

  @property
  def seconds(self) -> np.ndarray:
    """Median seconds, float64 [batches, 3]: total, prefill, decode."""
    # totals [repetitions, batches] [[2.0, 3.0], [2.1, 9.0], [2.2, 3.1]]
    # -> [2.1, 3.1]: a repetition is slow in one batch without harm to the rest
    return np.median(self.timings, axis=0)


@functools.partial(
  jax.jit, static_argnames=('recipe', 'max_new_tokens', 'capacity')
)
def _start(recipe, params, prompt, controls, **static):
  state = generate_lib.start(recipe, params, prompt, controls, **static)
  return with_keys(state, jax.random.key_data)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _run(recipe, params, state, rounds):
  state = with_keys(state, jax.random.wrap_key_data)
  state = generate_lib.run(recipe, params, state, max_rounds=rounds)
  finished = generate_lib.finish(state)
  return with_keys(state, jax.random.key_data), finished


def capacity(cases: Sequence[Case], width: int, config: Any) -> int:
  """One capacity for all cases, so that they share timings of their parts."""
  most = max(
    generate_lib.capacity_for(case.recipe, width, config.max_new_tokens)
    for case in cases
  )
  # The widest block that is timed must fit behind half a generation.
  widest = max(config.widths, default=0)
  return most + max(widest - config.max_new_tokens // 2, 0)


def engine(
  case: Case,
  batches: Sequence[PromptBatch],
  config: Any,
  room: Callable[[int], int],
  continuations: Sequence[base.Array] | None = None,
  *,
  programs: dict | None = None,
) -> Engine:
  """Compiles a case for the widths of its batches.

  Args:
    case: way to decode.
    batches: prompts, in batches.
    config: `BenchmarkConfig`.
    room: function of a prompt width that returns the capacity.
    continuations: new tokens of plain decoding, int32 [B, N] for each batch;
      needed by simulated drafters.
    programs: programs of this case by prompt width, which are added to.
  """
  scripts = continuations or [None] * len(batches)
  params = [case.params_for(script) for script in scripts]
  programs = {} if programs is None else programs
  begin = time.perf_counter()
  for batch, given in zip(batches, params, strict=True):
    width = batch.prompt.tokens.shape[1]
    if width not in programs:
      static = dict(max_new_tokens=config.max_new_tokens, capacity=room(width))
      programs[width] = _compile(case, given, batch, static)
  seconds = time.perf_counter() - begin
  sizes = [_most_bytes(*made, params[0]) for made in programs.values()]
  every = jnp.int32(config.max_new_tokens)

  def call(index: int):
    batch = batches[index]
    start, run = programs[batch.prompt.tokens.shape[1]]
    # A call returns before the device is done; waiting for each part divides
    # the time of prefill from that of the loop.
    begin = time.perf_counter()
    state = start(params[index], batch.prompt, case.controls(batch))
    jax.block_until_ready(state)
    middle = time.perf_counter()
    _, generation = run(params[index], state, every)
    jax.block_until_ready(generation)
    end = time.perf_counter()
    timing = Timing(end - begin, middle - begin, end - middle)
    found = transfer.to_host(generation)
    contract.refuse(found.faults)
    return timing, found

  def pause(index: int, rounds: int):
    batch = batches[index]
    start, run = programs[batch.prompt.tokens.shape[1]]
    state = start(params[index], batch.prompt, case.controls(batch))
    state = run(params[index], state, jnp.int32(rounds))[0]
    return with_keys(state, jax.random.wrap_key_data)

  return Engine(
    case.label, call, pause, seconds, *map(max, zip(*sizes, strict=True))
  )


def _compile(case: Case, params, batch: PromptBatch, static: dict):
  """Programs that start and that run a batch of this width."""
  inputs = case.recipe, params, batch.prompt, case.controls(batch)
  start = _start.lower(*inputs, **static).compile()
  state = jax.eval_shape(
    lambda *rest: _start(case.recipe, *rest, **static), *inputs[1:]
  )
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    start.output_shardings,
  )
  return start, _run.lower(case.recipe, params, state, jnp.int32(0)).compile()


def _most_bytes(start, run, params) -> tuple[int, int]:
  """(temporary memory of the loop, most bytes of a device in either part)."""
  (_, first), (temporary, second) = (_bytes(x, params) for x in (start, run))
  return temporary, max(first, second)


def _bytes(program, params) -> tuple[int, int]:
  """(temporary memory of a compiled program, bytes of a device meanwhile).

  All parameters lie there, whether or not this program reads them, and the
  state that it is given becomes the one that it gives.
  """
  analysis = program.memory_analysis()
  if analysis is None:  # The backend reports nothing.
    return 0, 0
  # A drafter may borrow arrays of its target.
  resident = {id(leaf): leaf for leaf in jax.tree.leaves(params)}
  held = sum(map(memory.local_bytes, resident.values()))
  temporary = int(analysis.temp_size_in_bytes)
  return temporary, int(held + temporary + analysis.output_size_in_bytes)


def measure(
  engines: Sequence[Engine],
  num_batches: int,
  config: Any,
  log_fn: Callable[[str], None] = lambda text: None,
  seen: Callable[[list[Measured]], None] = lambda measured: None,
  *,
  untimed: int = 0,
) -> list[Measured]:
  """Runs all engines over all batches, taking turns.

  Args:
    engines: engines to compare, at least one.
    num_batches: number of batches of each pass.
    config: `BenchmarkConfig`.
    log_fn: callback with a line of progress.
    seen: callback with what is known after every repetition but the last.
    untimed: number of further batches, which are decoded once.

  Returns:
    `Measured` for each engine.
  """

  def known(repetitions: int) -> list[Measured]:
    return [
      Measured(item, results[i], timings[:repetitions, i], peaks[i], more[i])
      for i, item in enumerate(engines)
    ]

  results, peaks, more = [], [], []
  for item in engines:
    log_fn(f'warming up {item.label}')
    memory.reset_peak()
    for _ in range(max(config.warmup, 1)):
      outputs = [item.run(index)[1] for index in range(num_batches)]
    results.append(outputs)
    peaks.append(memory.peak())
    more.append([item.run(num_batches + i)[1] for i in range(untimed)])
  timings = np.zeros((config.repetitions, len(engines), num_batches, 3))
  # A collection takes milliseconds and would fall into some engine's time.
  gc.collect()
  gc.disable()
  try:
    for repetition in range(config.repetitions):
      for offset in range(len(engines)):
        place = (repetition + offset) % len(engines)
        log_fn(
          f'repetition {repetition + 1} of {config.repetitions}: '
          f'{engines[place].label}'
        )
        time.sleep(PAUSE_SECONDS)
        for index in range(num_batches):
          timings[repetition, place, index] = engines[place].run(index)[0]
      if repetition + 1 < config.repetitions:
        seen(known(repetition + 1))
  finally:
    gc.enable()
  return known(config.repetitions)


def start_state(
  case: Case, params: Any, batch: PromptBatch, config: Any, room: int
) -> Any:
  """A `generate.DecodeState` with the whole prompt and nothing generated."""
  state = _start(
    case.recipe,
    params,
    batch.prompt,
    batch.controls,
    max_new_tokens=config.max_new_tokens,
    capacity=room,
  )
  return with_keys(state, jax.random.wrap_key_data)
