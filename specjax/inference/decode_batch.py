"""One batch on the device, and the tokens it gives."""

from collections.abc import Sequence
import contextlib
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import stop_strings
from specjax import text as text_lib
from specjax import waiting
from specjax.decoding import beam
from specjax.decoding import generate as generate_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import batching
from specjax.inference import row_stops
from specjax.inference import sharing
from specjax.inference.batching import Job
from specjax.inference.batching import Row

# Most rounds between two looks of the host at rows that run.
ROUNDS_BETWEEN_LOOKS = 8


class Done(NamedTuple):
  """A row that is done.

  Attributes:
    place: its place among all rows of the job.
    row: it.
    generation: `Generation` of numpy that holds it, and
    at: its number there.
  """

  place: int
  row: Row
  generation: generate_lib.Generation
  at: int


class Step(NamedTuple):
  """A part of the decoding of a job.

  Attributes:
    done: rows that are done now.
    row_rounds: rounds of these rows.
    all_rounds: rounds that ran meanwhile, times the rows of a batch.
  """

  done: list[Done]
  row_rounds: int
  all_rounds: int


class WholeBatches:
  """The batches of a job, one after the other.

  Attributes:
    job: the job; its parameters may be exchanged between two steps.
  """

  def __init__(self, job: Job):
    self.job = job
    self._next = 0

  def compile(self) -> None:
    """Runs every program once, without a row."""
    for width in sorted({batch.width for batch in self.job.batches}):
      decode(self.job, (), width)

  def step(self, limit: int) -> Step | None:
    """Decodes the next batch with a row before `limit`; None without one."""
    for batch in self.job.batches[self._next :]:
      self._next += 1
      if min(batch.places) >= limit:
        continue
      rows = [self.job.rows.at(place) for place in batch.places]
      made = decode(self.job, rows, batch.width)
      done = [
        Done(place, row, made, at)
        for at, (place, row) in enumerate(zip(batch.places, rows, strict=True))
      ]
      ran = int(np.count_nonzero(made.rounds.emitted[: len(rows)]))
      return Step(done, ran, int(made.num_rounds) * self.job.batch_size)
    return None


def decode(
  job: Job, rows: Sequence[Row], width: int
) -> generate_lib.Generation:
  """Decodes rows, filled up to the batch size.

  Args:
    job: result of `planning.plan`.
    rows: at most `job.batch_size`, none of them blank.
    width: prompt tokens to which rows are padded.

  Returns:
    `Generation` of numpy, its first rows in the order of `rows`.

  Raises:
    MemoryError: the device has too little memory.
  """
  prompt, controls = batching.batch_inputs(job, rows, width)
  most = text_lib.budget(int(np.max(job.config.max_new_tokens)))
  shapes = job.batch_size, width, most
  capacity = generate_lib.capacity_for(job.recipe, width, most)
  prompt = sharing.attach(job, prompt, rows, capacity)
  with _enough_memory(job, shapes):
    if job.config.num_beams > 1:
      search = beam.compiled(job.recipe.target, job.config.beams(), most)
      rank = [row.sequence for row in rows]
      rank += [0] * (job.batch_size - len(rows))
      with _compiling('a beam search', shapes, job.recipe, job.config.beams()):
        generation = search(
          job.params.target, prompt, controls, _ranks(job, rank)
        )
    elif job.config.stops():
      generation = _decode_with_stops(job, rows, prompt, controls, most)
    else:
      generate_batch = assemble.compiled(job.recipe, most)
      with _compiling('decoding', shapes, job.recipe):
        generation = generate_batch(job.params, prompt, controls)
    return transfer.to_host(generation)


def watched(
  job: Job, what: str, shapes: tuple[int, int, int]
) -> contextlib.ExitStack:
  """Watches a call that may compile, or find too little memory.

  Args:
    job: job whose recipe runs.
    what: name of the program, in words.
    shapes: rows, prompt width and most new tokens.
  """
  stack = contextlib.ExitStack()
  stack.enter_context(_enough_memory(job, shapes))
  stack.enter_context(_compiling(what, shapes, job.recipe))
  return stack


@contextlib.contextmanager
def _enough_memory(job: Job, shapes: tuple[int, int, int]):
  """Raises MemoryError with one sentence where the device has too little."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    _, width, most = shapes
    raise MemoryError(
      f'The device has too little memory for {job.batch_size} rows of {width} '
      f'prompt tokens and {most} new ones; lower batch_size or '
      'max_new_tokens, or use dtype=bfloat16.'
    ) from None


def _compiling(what: str, shapes: tuple[int, int, int], *key):
  """Watches a call that compiles once for these shapes; see `waiting`."""
  rows, width, most = shapes
  return waiting.compiling(
    f'{what} for {rows} row{"s" * (rows > 1)}, prompts of up to {width} tokens '
    f'and up to {most} new ones',
    *key,
  )


def _ranks(job: Job, rank: Sequence[int]):
  rank = np.asarray(rank, np.int32)
  if job.layout is None:
    return jnp.asarray(rank)
  return transfer.put(rank, job.layout, job.layout.rows(len(rank)))


def _decode_with_stops(job, rows, prompt, controls, most: int):
  """As `assemble.compiled`, but looks for stop strings every few rounds."""
  shapes = job.batch_size, prompt.tokens.shape[1], most
  with _compiling('the prefill', shapes, job.recipe):
    state = _start(
      job.recipe, job.params, prompt, controls, max_new_tokens=most
    )
  ended = np.zeros(job.batch_size, bool)
  stops = row_stops.RowStops(job.tokenizer, job.config.stops())
  searched = [0] * len(rows)  # Tokens of each row without a stop.
  while True:
    with _compiling('some rounds', shapes, job.recipe):
      state, generation = _advance(job.recipe, job.params, state, ended)
    seen = transfer.to_host(generation)
    status = seen.status
    if not np.any(status == generate_lib.RUNNING):
      return seen
    for place in range(len(rows)):
      if status[place] == generate_lib.RUNNING:
        new = new_tokens(seen, place)
        mine = stops.of(rows[place].prompt_index)
        found = stop_strings.find(mine, new, searched[place])
        ended[place], searched[place] = found is not None, len(new)


_start = jax.jit(
  generate_lib.start, static_argnames=('recipe', 'max_new_tokens')
)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _advance(recipe, params, state, ended):
  """Some more rounds, for the rows that have not ended."""
  state = generate_lib.run(
    recipe, params, without(state, ended), max_rounds=ROUNDS_BETWEEN_LOOKS
  )
  return state, generate_lib.finish(state)


def without(
  state: generate_lib.DecodeState, ended: base.Array
) -> generate_lib.DecodeState:
  """The state in which rows that the host has ended do not run any more.

  Args:
    state: state between two runs.
    ended: bool [B].
  """
  over = ended & (state.status == generate_lib.RUNNING)
  return state.replace(
    status=jnp.where(over, generate_lib.LENGTH, state.status)
  )


def new_tokens(generation: generate_lib.Generation, place: int) -> list[int]:
  """Generated ids of one row.

  Args:
    generation: `Generation` of numpy.
    place: number of the row in its batch.
  """
  begin = int(generation.prompt_length[place])
  end = begin + int(generation.num_tokens[place])
  return generation.tokens[place, begin:end].tolist()
