"""Decoding in which the next prompts take the places of finished rows.

One batch runs on for many prompts. Every few rounds, and as soon as enough rows
are done, the host looks: rows that are done come out, and the next prompts are
prefilled, a few at a time, and inserted into their places. There is one program
that prefills and inserts for each prompt width, and one that runs rounds for
each width of a batch.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from specjax import stop_strings
from specjax import text as text_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.state import with_keys
from specjax.distributed import transfer
from specjax.inference import batching
from specjax.inference import decode_batch
from specjax.inference import row_stops
from specjax.inference import sharing
from specjax.inference import windows
from specjax.inference.batching import Job
from specjax.inference.batching import Row
from specjax.inference.decode_batch import Done
from specjax.inference.decode_batch import Step

# Prompt tokens that a prefill reads at once, about: from here on a CPU takes as
# long for each of them.
_PREFILLED = 64
# Rows of a batch for each of those that a prefill makes: so many of their
# places wait for each other.
_ROWS_PER_FRESH = 16


class _Sizes(NamedTuple):
  """Static sizes of a batch; `capacity` as in `generate.start`."""

  max_new_tokens: int
  capacity: int


@functools.partial(
  jax.jit, static_argnames=('recipe', 'sizes'), donate_argnums=2
)
def _fill(recipe, params, state, given, sizes):
  """Prefills (prompts, controls, places) and puts them into their places."""
  *inputs, places = given
  state = with_keys(state, jax.random.wrap_key_data)
  fresh = _start(recipe, params, *inputs, sizes)
  state = generate_lib.insert(recipe, state, fresh, places)
  return with_keys(state, jax.random.key_data)


@functools.partial(jax.jit, static_argnames=('recipe', 'sizes'))
def _prefill(recipe, params, prompt, controls, sizes):
  """Prefills prompts, to be put into more than one place."""
  fresh = _start(recipe, params, prompt, controls, sizes)
  return with_keys(fresh, jax.random.key_data)


@functools.partial(jax.jit, static_argnames='recipe', donate_argnums=1)
def _put(recipe, state, fresh, controls, places):
  """Puts prefilled prompts into places, with the controls of these."""
  state = with_keys(state, jax.random.wrap_key_data)
  most = fresh.context.controls.max_new_tokens
  controls = controls.replace(max_new_tokens=most)
  context = fresh.context.replace(controls=controls)
  fresh = fresh.replace(context=context)
  state = generate_lib.insert(recipe, state, fresh, places)
  return with_keys(state, jax.random.key_data)


@functools.partial(jax.jit, static_argnames='recipe', donate_argnums=2)
def _advance(recipe, params, state, ended, enough):
  """Some more rounds; (state, `Generation`, rows that run, their rounds)."""
  state = with_keys(state, jax.random.wrap_key_data)
  state = decode_batch.without(state, ended)
  state = generate_lib.run(
    recipe,
    params,
    state,
    max_rounds=decode_batch.ROUNDS_BETWEEN_LOOKS,
    enough_done=enough,
  )
  seen = generate_lib.finish(state), generate_lib.runs(state), state.row_rounds
  return with_keys(state, jax.random.key_data), *seen


def _start(recipe, params, prompt, controls, sizes: _Sizes):
  return generate_lib.start(recipe, params, prompt, controls, **sizes._asdict())


# Where the arrays of a state lie on a mesh, which the compiler decides.
_placements: dict[Any, Any] = {}


class Places:
  """The running batches of a job, whose rows are refilled.

  Attributes:
    job: the job; its parameters may be exchanged between two steps.
  """

  def __init__(self, job: Job):
    self.job = job
    begin = job.rows.begin
    self._limit = begin + len(job.rows)
    self._queue = [
      place for batch in job.batches for place in batch.places if place >= begin
    ]
    self._stops = row_stops.RowStops(job.tokenizer, job.config.stops())
    self._most = text_lib.budget(int(np.max(job.config.max_new_tokens)))
    self._window = job.config.window * job.batch_size
    self._undone = begin  # Every row before it is done.
    self._done: set[int] = set()
    self._pass()
    self._width = 0  # Width that the running batch has room for.
    self._state = None
    # Of each place of the batch: the row's place in the input and the row, or
    # None; tokens that hold no stop; rounds that were counted.
    self._held: list[tuple[int, Row] | None] = [None] * job.batch_size
    self._searched = [0] * job.batch_size
    self._rounds = 0  # Of the batch.
    self._fresh: tuple[Any, Any, Any] = (None, None, None)

  def compile(self) -> None:
    """Runs every program once, without a row."""
    refill = self.job.refill
    # Where the state of a mesh lies is known after a first call, and the
    # program that is used is the one for a state that lies there.
    times = 1 if self.job.layout is None else 2
    for width in refill.prompts * times:
      self._open(windows.at_least(refill.batches, width))
      self._insert(width, [], [])
      self._advance(0)
    self._state, self._width = None, 0

  def step(self, limit: int) -> Step | None:
    """Refills, runs some rounds and gives the rows that are done by then.

    Args:
      limit: rows from this place on are not begun any more.

    Returns:
      `Step`; None where nothing is left.
    """
    if limit < self._limit:
      self._queue = [place for place in self._queue if place < limit]
      self._limit = limit
    self._refill()
    if not any(self._held):
      return None
    seen, live, rounds = self._advance(self._enough())
    step = Step([], 0, 0)
    for at, held in enumerate(self._held):
      if held is None:
        continue
      place, row = held
      if live[at] and not self._has_stop(row, seen, at):
        continue
      step.done.append(Done(place, row, seen, at))
      step = step._replace(row_rounds=step.row_rounds + int(rounds[at]))
      self._held[at] = None
      self._done.add(place)
    self._pass()
    every = int(seen.num_rounds) - self._rounds
    self._rounds = int(seen.num_rounds)
    return step._replace(all_rounds=every * self.job.batch_size)

  def _pass(self) -> None:
    """Goes on to the first row that is not done; blank ones always are."""
    rows = self.job.rows
    end = rows.begin + len(rows)
    while self._undone < end and (
      self._undone in self._done or not rows.length(self._undone)
    ):
      self._done.discard(self._undone)
      self._undone += 1

  def _next(self) -> list[int]:
    """Places of the next rows that may be begun."""
    # At most one window may be lost at a kill: row 40 waits until the rows
    # before 8 are done where a window has 32 rows. Such rows stand in two
    # windows at most.
    near = self._queue[: 2 * self._window]
    return [place for place in near if place < self._undone + self._window]

  def _refill(self) -> None:
    """Puts the next rows into free places."""
    while True:
      waiting = self._next()
      free = [at for at, held in enumerate(self._held) if held is None]
      if not waiting or not free:
        return
      lengths, refill = self.job.rows.length, self.job.refill
      room = windows.at_least(refill.batches, lengths(waiting[0]))
      if room != self._width:
        if len(free) < len(self._held):
          return  # The batch runs out before one of another width begins.
        self._open(room)
      width = windows.at_least(refill.prompts, lengths(waiting[0]))
      chosen = []
      for place in waiting[: min(self._count(width), len(free))]:
        if windows.at_least(refill.prompts, lengths(place)) != width:
          break
        chosen.append(place)
      for place in chosen:
        self._queue.remove(place)
      rows = [self.job.rows.at(place) for place in chosen]
      self._insert(width, rows, free[: len(rows)])
      for at, place, row in zip(free, chosen, rows, strict=False):
        self._held[at], self._searched[at] = (place, row), 0

  def _count(self, width: int) -> int:
    """Rows that a prefill makes."""
    # Answers to one prompt are put into their places one by one.
    if self.job.config.num_return_sequences > 1:
      return 1
    most = max(self.job.batch_size // _ROWS_PER_FRESH, 1)
    return max(min(_PREFILLED // width, most), 1)

  def _enough(self) -> int:
    """Number of free places at which the host should look."""
    waiting = self._next()
    every = len(self._held)
    if not waiting:
      return every
    lengths, refill = self.job.rows.length, self.job.refill
    if windows.at_least(refill.batches, lengths(waiting[0])) != self._width:
      return every
    width = windows.at_least(refill.prompts, lengths(waiting[0]))
    free = sum(held is None for held in self._held)
    return min(free + self._count(width), every)

  def _open(self, width: int) -> None:
    """Begins a batch with room for prompts of a width, without a row."""
    job = self.job
    capacity = generate_lib.capacity_for(job.recipe, width, self._most)
    self._width, self._sizes = width, _Sizes(self._most, capacity)
    self._state, self._rounds = None, 0
    inputs = batching.batch_inputs(job, (), width)
    blank = jax.eval_shape(
      lambda *given: with_keys(
        _start(job.recipe, *given, self._sizes), jax.random.key_data
      ),
      job.params,
      *inputs,
    )
    # Zeros of the host, which takes no program. A row that does not run.
    self._state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), blank)
    self._state = self._state.replace(
      status=np.full_like(self._state.status, generate_lib.LENGTH)
    )
    self._placed()

  def _placed(self) -> None:
    """Puts the state of a mesh where its programs expect it."""
    job = self.job
    if job.layout is None:
      return
    key = job.recipe, job.layout, job.batch_size, self._width, self._sizes
    if key in _placements:
      self._state = jax.device_put(self._state, _placements[key])
    elif isinstance(self._state.status, jax.Array):
      _placements[key] = jax.tree.map(lambda x: x.sharding, self._state)

  def _insert(
    self, width: int, rows: Sequence[Row], places: Sequence[int]
  ) -> None:
    """Prefills rows and puts them into places of the batch."""
    job, size = self.job, self._count(width)
    prompt, controls = batching.batch_inputs(job, rows, width, size)
    spare = [job.batch_size] * (size - len(rows))
    at = transfer.put(np.asarray([*places, *spare], np.int32), job.layout)
    with decode_batch.watched(job, 'the prefill', (size, width, self._most)):
      if job.config.num_return_sequences == 1:
        prompt = self._shared(prompt, rows)
        given = prompt, controls, at
        self._state = _fill(
          job.recipe, job.params, self._state, given, self._sizes
        )
      else:
        fresh = self._fresh_of(rows, prompt, controls)
        self._state = _put(job.recipe, self._state, fresh, controls, at)
    self._placed()

  def _shared(self, prompt, rows: Sequence[Row]):
    """The prompts with what all prompts of the job share."""
    return sharing.attach(self.job, prompt, rows, self._sizes.capacity)

  def _fresh_of(self, rows: Sequence[Row], prompt, controls):
    """One prefilled prompt, which is kept for its next answers."""
    job = self.job
    width = prompt.tokens.shape[1]
    key = *(row.prompt_index for row in rows), width, self._sizes
    # The corpus may have grown since, which drafters read when they begin.
    if key != self._fresh[0] or job.params is not self._fresh[1]:
      prompt = self._shared(prompt, rows)
      made = _prefill(job.recipe, job.params, prompt, controls, self._sizes)
      self._fresh = key, job.params, made
    return self._fresh[2]

  def _advance(self, enough: int) -> tuple:
    """`Generation`, rows that run and their rounds, of numpy."""
    job = self.job
    ended = np.asarray([held is None for held in self._held])
    given = transfer.put((ended, np.int32(enough)), job.layout)
    shapes = job.batch_size, self._width, self._most
    with decode_batch.watched(job, 'some rounds', shapes):
      self._state, *seen = _advance(job.recipe, job.params, self._state, *given)
      self._placed()
      return transfer.to_host(tuple(seen))

  def _has_stop(self, row: Row, seen: generate_lib.Generation, at: int) -> bool:
    """Whether a running row holds a stop string."""
    stops = self._stops.of(row.prompt_index)
    tokens = decode_batch.new_tokens(seen, at)
    found = stop_strings.find(stops, tokens, self._searched[at])
    self._searched[at] = len(tokens)
    return found is not None
