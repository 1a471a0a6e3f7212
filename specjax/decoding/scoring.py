"""Log probabilities of given tokens, block by block through the cache."""

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import log_probs
from specjax.decoding import precision
from specjax.decoding.recipe import Recipe
from specjax.decoding.state import Params

# Widths of a block, and the most logits of one: 256 MiB of float32.
_BLOCKS = (64, 48, 32, 24, 16, 8)
_MOST_LOGITS = 2**26


def block_of(width: int, rows: int, vocab_size: int) -> int:
  """Tokens of each row that are scored in one pass.

  Args:
    width: columns of the completions, a multiple of 8.
    rows: B.
    vocab_size: V.
  """
  # 96 columns of 8 rows and 50,000 tokens: 48; of 300,000 tokens: 24
  fits = [
    block
    for block in _BLOCKS
    if width % block == 0 and rows * block * vocab_size <= _MOST_LOGITS
  ]
  return fits[0] if fits else _BLOCKS[-1]


@precision.scoped
def score(
  recipe: Recipe,
  params: Params,
  prompt: base.Prompt,
  completion: base.Prompt,
  *,
  block: int,
) -> log_probs.LogProbs:
  """Log probabilities of completions under the target as it is.

  Args:
    recipe: recipe with the target and the number of likeliest tokens; static.
    params: its parameters.
    prompt: tokens int32 [B, S] and lengths [B].
    completion: tokens int32 [B, C] behind them, and lengths [B].
    block: tokens that are scored in one pass, a divisor of C; static.

  Returns:
    `LogProbs` of C columns; those behind a length mean nothing.
  """
  lm = recipe.target
  rows, width = completion.tokens.shape
  given = 1 if lm.is_encoder_decoder else prompt.tokens.shape[1]
  # Of a block that ends behind a row, what is left is written and not kept.
  prefilled = lm.prefill(params.target, prompt, capacity=given + width + block)
  # Last token x, completion [a b c d], blocks of 2: [x a] predicts a and b,
  # [b c] predicts c and d.
  fed = jnp.concatenate(
    [prefilled.last_token[:, None], completion.tokens[:, :-1]], axis=1
  )

  def cut(tokens):
    return tokens.reshape(rows, width // block, block).swapaxes(0, 1)

  def step(cache, columns):
    tokens, wanted, begin = columns
    scored, cache = lm.extend(params.target, cache, tokens)
    left = jnp.clip(completion.length - begin, 0, block)
    found = log_probs.of(scored.logits, wanted, recipe.logprobs)
    return lm.commit(cache, left), found

  begins = jnp.arange(0, width, block, dtype=jnp.int32)
  _, found = lax.scan(
    step, prefilled.cache, (cut(fed), cut(completion.tokens), begins)
  )
  return jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(rows, width, *x.shape[3:]), found
  )
