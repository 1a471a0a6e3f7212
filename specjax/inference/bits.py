"""Compares logits to the bit between shapes of a decoding.

The same texts are scored in every shape: their prompts are prefilled, and the
target's own greedy tokens are given to it in blocks, as a drafter that is
always right would give them.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import text as text_lib

WIDTHS, BATCHES = (1, 2, 5, 9, 16), (1, 4, 8, 32)
# Tokens that are scored behind each prompt, and most of the prompts and of
# their tokens. Every batch size needs some prompts of its own.
LENGTH, PROMPTS, PROMPT_TOKENS = 16, 32, 48
_ROOM = 16

Tokens = Sequence[int] | np.ndarray


class Cell(NamedTuple):
  """Shapes of a decoding.

  Attributes:
    width: tokens a row of every pass, those of a draft and one more.
    batch: number of rows decoded together.
    prompt_width: padded width of the prompts.
    capacity: rows of the cache.
  """

  width: int
  batch: int
  prompt_width: int
  capacity: int


class Answers(NamedTuple):
  """Greedy answers to the prompts of a batch.

  Attributes:
    tokens: int32 [B, T].
    logits: float32 [B, T, V].
    live: bool [B, T], whether the answer has not ended before; behind an end
      token no logits are compared.
  """

  tokens: np.ndarray
  logits: np.ndarray
  live: np.ndarray


def grid(lm: base.CachedLM, prompts: Sequence[Tokens]) -> list[Cell]:
  """All cells for these prompts; the first is the reference.

  Args:
    lm: the target.
    prompts: ids of the prompts, at most `PROMPT_TOKENS` each.

  Raises:
    ValueError: the target has too few positions.
  """
  narrow = text_lib.bucket(max(map(len, prompts)))
  wide = text_lib.bucket(narrow + 1)
  # The widest blocks write up to a width beyond the last scored token.
  given = 1 if lm.is_encoder_decoder else wide
  least = given + LENGTH + max(WIDTHS)
  needed = max(map(len, prompts)) * (not lm.is_encoder_decoder) + LENGTH
  if lm.max_positions and needed + max(WIDTHS) > lm.max_positions:
    raise ValueError(
      f'The bits of {needed + max(WIDTHS)} positions are compared, but the '
      f'target was made for {lm.max_positions}; give shorter prompts.'
    )
  sizes = WIDTHS, BATCHES, (narrow, wide), (least, least + _ROOM)
  return list(itertools.starmap(Cell, itertools.product(*sizes)))


def covering(cells: Sequence[Cell]) -> list[Cell]:
  """A few of the cells, which hold every width beside every batch size.

  Args:
    cells: cells of `grid`.
  """
  # Prompt widths and capacities go round, one further with each width, so that
  # they stand beside every width and every batch size too.
  pairs = {}
  for cell in cells:
    pairs.setdefault((cell.width, cell.batch), []).append(cell)
  return [
    made[(i + i // len(BATCHES)) % len(made)]
    for i, made in enumerate(pairs.values())
  ]


def answer(
  lm: base.CachedLM,
  params: base.PyTree,
  prompt: base.Prompt,
  capacity: int,
  eos_ids: Sequence[int] = (),
) -> Answers:
  """Decodes a batch greedily, token by token.

  Args:
    lm: the target.
    params: its parameters.
    prompt: prompts of the batch.
    capacity: rows of the cache.
    eos_ids: tokens that end an answer.
  """
  cached = _prefill(lm, params, prompt, capacity)
  cache, token, found = cached.cache, cached.last_token[:, None], []
  for _ in range(LENGTH):
    logits, cache = _extend(lm, params, cache, token)
    token = jnp.argmax(logits, -1).astype(jnp.int32)
    found.append(np.asarray(logits))
  logits = np.concatenate(found, 1)
  tokens = logits.argmax(-1).astype(np.int32)
  # Tokens [[5 2 9]] with the end token 2 are live at [[1 1 0]].
  ended = np.cumsum(np.isin(tokens, np.asarray(eos_ids, np.int32)), 1)
  live = np.pad(ended, ((0, 0), (1, 0)))[:, :-1] == 0
  return Answers(tokens, logits, live)


def score(
  lm: base.CachedLM,
  params: base.PyTree,
  prompt: base.Prompt,
  capacity: int,
  width: int,
  tokens: np.ndarray,
) -> np.ndarray:
  """Scores answers in blocks.

  Args:
    lm: the target.
    params: its parameters.
    prompt: prompts of the batch.
    capacity: rows of the cache.
    width: tokens a row of every pass.
    tokens: the answers, int32 [B, T].

  Returns:
    Logits by which they were chosen, float32 [B, T, V].
  """
  found = list(_passes(lm, params, prompt, capacity, width, tokens))
  return np.concatenate(found, 1)[:, : tokens.shape[1]]


def last(
  lm: base.CachedLM,
  params: base.PyTree,
  prompt: base.Prompt,
  capacity: int,
  tokens: np.ndarray,
) -> np.ndarray:
  """Logits by which the last of the tokens was chosen, float32 [B, V].

  Args:
    lm: the target.
    params: its parameters.
    prompt: prompts of the batch.
    capacity: rows of the cache.
    tokens: the answers, int32 [B, T].
  """
  passes = _passes(lm, params, prompt, capacity, 1, tokens)
  return np.asarray(collections.deque(passes, maxlen=1).pop())[:, 0]


def _passes(lm, params, prompt, capacity, width, tokens) -> Iterator[Any]:
  """Logits [B, width, V] of every pass over the answers."""
  cached = _prefill(lm, params, prompt, capacity)
  # 16 tokens at width 5 are blocks of 5 5 5 1, filled up with zeros. The first
  # token given is the prompt's last one.
  length = tokens.shape[1]
  given = np.pad(tokens[:, :-1], ((0, 0), (0, -length % width)))
  given = jnp.concatenate([cached.last_token[:, None], given], 1)
  cache = cached.cache
  for at in range(0, length, width):
    logits, cache = _extend(lm, params, cache, given[:, at : at + width])
    yield logits


def difference(ours: np.ndarray, theirs: Answers) -> tuple[bool, float]:
  """(whether logits are equal to the bit, their largest difference).

  Args:
    ours: float32 [B, T, V].
    theirs: answers whose logits they are compared with.
  """
  ours, want = ours[theirs.live], theirs.logits[theirs.live]
  return bool(np.array_equal(ours, want)), float(np.max(np.abs(ours - want)))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _prefill(lm, params, prompt, capacity):
  return lm.prefill(params, prompt, capacity=capacity)


@functools.partial(jax.jit, static_argnums=0)
def _extend(lm, params, cache, block):
  scored, cache = lm.extend(params, cache, block)
  rows, width = block.shape
  return scored.logits, lm.commit(cache, jnp.full((rows,), width, jnp.int32))


def compare(
  lm: base.CachedLM,
  params: base.PyTree,
  prompts: Sequence[Tokens],
  cells: Sequence[Cell],
  eos_ids: Sequence[int] = (),
  progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
  """Compares every cell with the first, which has width 1.

  Args:
    lm: the target.
    params: its parameters.
    prompts: ids of the prompts.
    cells: cells of `grid`.
    eos_ids: tokens that end an answer.
    progress: callback with a line for each cell.

  Returns:
    A dict for each cell: its shapes, whether all logits are `equal` to the bit,
    and their `max_abs_diff`.
  """
  first = cells[0]
  made = [
    answer(lm, params, prompt, first.capacity, eos_ids)
    for prompt in _batches(prompts, first)
  ]
  whole = Answers(
    *(np.concatenate(x)[: len(prompts)] for x in zip(*made, strict=True))
  )
  found = []
  for number, cell in enumerate(cells, 1):
    progress(f'cell {number} of {len(cells)}: {cell}')
    equal, largest = True, 0.0
    for index, prompt in enumerate(_batches(prompts, cell)):
      rows = _rows(len(prompts), index, cell.batch)
      want = Answers(*(x[rows] for x in whole))
      given = cell.capacity, cell.width, want.tokens
      same, far = difference(score(lm, params, prompt, *given), want)
      equal, largest = equal and same, max(largest, far)
    found.append(cell._asdict() | {'equal': equal, 'max_abs_diff': largest})
  return found


def _rows(count: int, index: int, batch: int) -> list[int]:
  """Numbers of a batch's prompts; the last is filled up from the first on."""
  # 5 prompts in batches of 4: [0 1 2 3], [4 0 1 2]
  return [(index * batch + i) % count for i in range(batch)]


def _batches(prompts: Sequence[Tokens], cell: Cell) -> Iterator[base.Prompt]:
  """The prompts in batches of a cell."""
  for index in range(-(-len(prompts) // cell.batch)):
    rows = _rows(len(prompts), index, cell.batch)
    tokens, lengths = text_lib.pad(
      [prompts[i] for i in rows], cell.prompt_width
    )
    yield base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths))


def gap(max_abs_diff: float) -> float:
  """The largest distance of two best logits that shapes can turn round.

  Args:
    max_abs_diff: the largest difference of a logit between shapes.
  """
  # Either of the two may move: with 0.02, 3.10 and 3.06 may both become 3.08.
  return 2 * max_abs_diff
