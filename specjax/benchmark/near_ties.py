"""Near ties of two logits, which blocks of another width may turn round."""

import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.benchmark.cases import Case
from specjax.benchmark.cases import PromptBatch
from specjax.decoding import precision
from specjax.decoding import sampling
from specjax.decoding import warp as warp_lib
from specjax.inference import bits

# Numbers of the largest array of logits, which are 256 MB.
_MOST_LOGITS = 2**26


def gap_between_widths(case: Case, batch: PromptBatch, plain: Any) -> float:
  """The gap of logits between width 1 and the case's block widths.

  Both score the tokens of plain decoding, as many as memory holds; see
  `bits.gap`.

  Args:
    case: case whose block widths are compared.
    batch: prompts of the batch.
    plain: its `Generation` by plain decoding.
  """
  recipe, count = case.recipe, int(plain.num_tokens.max())
  rows = len(plain.num_tokens)
  count = min(count, max(_MOST_LOGITS // (rows * recipe.target.vocab_size), 1))
  slots = recipe.widths or (recipe.drafter.num_draft,)
  where = _where(case, batch, plain, count + max(slots) + 1)
  tokens = _tokens(plain, count)
  answers = bits.Answers(
    tokens,
    bits.score(*where, 1, tokens),
    np.arange(count) < np.asarray(plain.num_tokens)[:, None],
  )
  return bits.gap(
    max(
      bits.difference(bits.score(*where, width + 1, tokens), answers)[1]
      for width in slots
    )
  )


def distance(
  case: Case, batch: PromptBatch, plain: Any, row: int, at: int, other: int
) -> float:
  """By how much plain decoding preferred its token to another.

  Plain decoding runs once more, in the shapes that it had.

  Args:
    case: case of the target and the warp.
    batch: prompts of the batch.
    plain: its `Generation` by plain decoding.
    row: row of the batch.
    at: number of new tokens before the one in question.
    other: the other token.

  Returns:
    The distance in logits, noise included where it decides; infinity if there
    is no such token.
  """
  # Scores behind [5] that are 3.1000 for its token 9 and 3.0996 for 7 are
  # 0.0004 apart.
  tokens = _tokens(plain, at + 1)
  logits = bits.last(*_where(case, batch, plain, at + 2), tokens)
  budget = int(batch.controls.max_new_tokens.max())
  new = np.zeros((1, budget + 1), np.int32)
  new[0, :at] = tokens[row, :at]
  one, controls = jax.tree.map(
    lambda x: x[row : row + 1], (batch.prompt, batch.controls)
  )
  controls = controls.replace(
    eos_ids=batch.controls.eos_ids, lists=batch.controls.lists
  )
  scores = np.asarray(
    _scores(
      case.recipe.target,
      case.recipe.warp,
      jnp.asarray(logits[row : row + 1]),
      one,
      controls,
      new=jnp.asarray(new),
      at=jnp.int32(at),
    )
  )
  if not 0 <= other < len(scores):
    return math.inf
  found = float(scores[tokens[row, at]] - scores[other])
  # Scores are logits over the temperature.
  temperature = float(controls.temperature[0])
  return found * temperature if temperature > 0 else found


def _where(case, batch, plain, room: int) -> tuple:
  """(target, parameters, prompts, capacity) of plain decoding."""
  recipe = case.recipe
  lm = precision.of_lm(recipe.target, recipe.matmul_precision)
  least = batch.prompt.tokens.shape[1] + room
  capacity = max(plain.tokens.shape[1], least)
  return lm, case.params.target, batch.prompt, capacity


def _tokens(plain: Any, count: int) -> np.ndarray:
  """The first new tokens of every row, zeros behind: int32 [B, count]."""
  made = np.zeros((len(plain.num_tokens), count), np.int32)
  for row, (begin, length) in enumerate(
    zip(plain.prompt_length, plain.num_tokens, strict=True)
  ):
    kept = min(count, int(length))
    made[row, :kept] = plain.tokens[row, begin : begin + kept]
  return made


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scores(lm, spec, logits, prompt, controls, *, new, at):
  """Scores by which new token `at` was chosen, noise included: float32 [V]."""
  capacity = prompt.tokens.shape[1] + new.shape[1] + 1
  # Penalties read the history: the prompt, then the new tokens before `at`.
  given = jnp.ones((1,), jnp.int32)
  tokens = jnp.full((1, 1), lm.start_id or 0, jnp.int32)
  if not lm.is_encoder_decoder:
    given, tokens = prompt.length, prompt.tokens
  tokens = jnp.pad(tokens, ((0, 0), (0, capacity - tokens.shape[1])))
  tokens = lax.dynamic_update_slice(tokens, new, (0, given[0]))
  length = given + at
  context = base.Context(tokens, length, given, controls)
  scores = warp_lib.warp(spec, logits[:, None], context)[:, 0]
  if spec.sampled:
    keys = sampling.position_keys(
      controls.row_key, length[:, None], sampling.TARGET
    )
    noise = sampling.gumbel(keys[:, 0], scores.shape[-1])
    hot = controls.temperature[:, None] > 0
    scores = scores + jnp.where(hot, noise, 0.0)
  return scores[0]
