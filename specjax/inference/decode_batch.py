"""One batch on the device, and the tokens it gives."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from specjax import stop_strings
from specjax import text as text_lib
from specjax import waiting
from specjax.decoding import beam
from specjax.decoding import generate as generate_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import batching
from specjax.inference import row_stops
from specjax.inference.batching import Job
from specjax.inference.batching import Row

# Rounds between two checks for stop strings.
ROUNDS_BETWEEN_STOPS = 8


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
  try:
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
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
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
  over = ended & (state.status == generate_lib.RUNNING)
  state = state.replace(
    status=jnp.where(over, generate_lib.LENGTH, state.status)
  )
  state = generate_lib.run(
    recipe, params, state, max_rounds=ROUNDS_BETWEEN_STOPS
  )
  return state, generate_lib.finish(state)


def new_tokens(generation: generate_lib.Generation, place: int) -> list[int]:
  """Generated ids of one row.

  Args:
    generation: `Generation` of numpy.
    place: number of the row in its batch.
  """
  begin = int(generation.prompt_length[place])
  end = begin + int(generation.num_tokens[place])
  return generation.tokens[place, begin:end].tolist()
