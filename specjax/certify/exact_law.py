"""The target's law of the next few tokens, computed path by path.

It is computed from the same model and warp as decoding, but without a drafter,
a verifier or the loop. Only so can it judge them.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling

# Numbers held at once: rows times slots times vocabulary.
MOST_NUMBERS = 2**23


class Law(NamedTuple):
  """Exact probabilities of continuations.

  Attributes:
    symbols: ids the target is confined to; end tokens among them end a text.
    length: number of tokens of a continuation without an end token.
    probability: {tuple of ids: probability} of whole continuations.
  """

  symbols: tuple[int, ...]
  length: int
  probability: dict


@functools.cache
def confined(lm: base.CachedLM, symbols: tuple[int, ...]) -> base.CachedLM:
  """The model with every other token's probability at 0; () changes nothing.

    logits [.., V = 4]:         [1.0, 2.0,  0.5,  3.0]
    confined to symbols (1, 3): [-inf, 2.0, -inf, 3.0]

  Cached, because a recipe is a static argument: another function for the same
  symbols would compile every program anew.
  """
  if not symbols:
    return lm

  def extend(params, cache, tokens, tree=None, slots=None):
    scored, cache = lm.extend(params, cache, tokens, tree, slots)
    allowed = jnp.zeros((scored.logits.shape[-1],), bool)
    allowed = allowed.at[jnp.asarray(symbols)].set(True)
    logits = jnp.where(allowed, scored.logits, -jnp.inf)
    return scored.replace(logits=logits), cache

  return lm._replace(extend=extend)


def next_law(
  lm: base.CachedLM,
  params: base.PyTree,
  sampling: Sampling,
  prompt: Sequence[int],
  end_ids: Sequence[int] = (),
) -> np.ndarray:
  """The target's law of the next token, float64 [V].

  Penalties and forbidden tokens count; filters do not, as they apply anew to
  the symbols that are left of the vocabulary.

  Args:
    lm: language model of the target.
    params: parameters of the target.
    sampling: temperature above 0, and penalties.
    prompt: ids.
    end_ids: ids that end a text.
  """
  open_ = dataclasses.replace(sampling, top_k=0, top_p=1.0, min_p=0.0)
  law = _path_laws(
    lm,
    open_.warp_spec(),
    params,
    repeat(prompt, 1),
    jnp.zeros((1, 0), jnp.int32),
    open_.controls(row_keys(0, [0]), 1, end_ids),
  )
  # float64 from here on: products of many probabilities are compared with
  # counts, and rounding must not look like a bias.
  law = np.asarray(law, np.float64)[0, 0]
  return law / law.sum()


def choose_symbols(
  law: np.ndarray, count: int, end_ids: Sequence[int]
) -> tuple[int, ...]:
  """The likeliest tokens, and one end token if the model has any."""
  ends = [i for i in end_ids if 0 <= i < len(law)]
  # One end token is enough to test that texts end; each symbol multiplies the
  # number of texts.
  ends = sorted(ends, key=lambda i: -law[i])[:1]
  order = [int(i) for i in np.argsort(-law, kind='stable') if i not in end_ids]
  return tuple(order[: count - len(ends)] + ends)


def enumerate_law(
  lm: base.CachedLM,
  params: base.PyTree,
  sampling: Sampling,
  prompt: Sequence[int],
  *,
  symbols: tuple[int, ...],
  length: int,
  end_ids: Sequence[int] = (),
) -> Law:
  """Computes the exact law of plain decoding, one path at a time.

  Args:
    lm: language model of the target.
    params: parameters of the target.
    sampling: temperature above 0, filters and penalties.
    prompt: ids.
    symbols: ids the target is confined to.
    length: number of tokens of the continuations.
    end_ids: ids that end a text.
  """
  ends = set(end_ids)
  # With symbols (5, 9, 1), end token 1 and length 3, paths are what can stand
  # before the last token: [[5, 5], [5, 9], [9, 5], [9, 9]]. One pass over a
  # path gives the laws after (), (5) and (5, 5).
  inner = [s for s in symbols if s not in ends]
  paths = np.array(
    list(itertools.product(inner, repeat=length - 1)), np.int32
  ).reshape(-1, length - 1)
  small = confined(lm, symbols)
  most = MOST_NUMBERS // (length * lm.vocab_size)
  rows = max(1, min(len(paths), 256, most))
  steps = {}
  for start in range(0, len(paths), rows):
    part = paths[start : start + rows]
    # Copies of the first path fill the last part: one program serves all.
    filled = np.concatenate([part, np.repeat(part[:1], rows - len(part), 0)])
    laws = _path_laws(
      small,
      sampling.warp_spec(),
      params,
      repeat(prompt, rows),
      jnp.asarray(filled),
      sampling.controls(row_keys(0, np.zeros(rows)), length, end_ids),
    )
    laws = np.asarray(laws, np.float64)[: len(part)]
    for path, law in zip(part, laws, strict=True):
      for t in range(length):
        steps[tuple(path[:t].tolist())] = law[t, list(symbols)]
  law = Law(symbols, length, {})
  _walk(law, steps, ends, (), 1.0)
  return law


def _walk(law: Law, steps, ends, prefix, mass) -> None:
  """Multiplies the steps' probabilities out, into `law.probability`.

  In:  steps () -> [5: 0.6, 1: 0.4], (5,) -> [5: 0.5, 1: 0.5]; 1 ends
  Out: {(5, 5): 0.3, (5, 1): 0.3, (1,): 0.4}
  """
  # Rows of float32 sum to 1 up to rounding; a law has to sum to 1.
  here = steps[prefix] / steps[prefix].sum()
  for symbol, p in zip(law.symbols, here, strict=True):
    text = prefix + (symbol,)
    if symbol in ends or len(text) == law.length:
      law.probability[text] = mass * p
    else:
      _walk(law, steps, ends, text, mass * p)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _path_laws(lm, spec, params, prompt, paths, controls):
  """Laws after each prefix of each path, float32 [rows, length, V].

  The context of every prefix is written out as plain decoding would have it,
  because penalties of the warp read the tokens before. For prompt [7, 8] and
  path [5, 9] the last one is tokens [7, 8, 5, 9, 0, ..] with length 4.
  """
  batch, steps = paths.shape
  width = prompt.tokens.shape[1]
  capacity = width + steps + 4
  prefilled = lm.prefill(params, prompt, capacity=capacity)
  block = jnp.concatenate([prefilled.last_token[:, None], paths], axis=1)
  logits = lm.extend(params, prefilled.cache, block)[0].logits
  tokens = jnp.zeros((batch, capacity), jnp.int32)
  if lm.is_encoder_decoder:
    tokens = tokens.at[:, 0].set(lm.start_id)
    given = jnp.ones((batch,), jnp.int32)
  else:
    inside = jnp.arange(width) < prompt.length[:, None]
    given = jnp.where(inside, prompt.tokens, 0)
    tokens = tokens.at[:, :width].set(given)
    given = prompt.length
  laws = []
  for t in range(steps + 1):
    written = tokens
    if t:
      at = given[:, None] + jnp.arange(t)
      written = tokens.at[jnp.arange(batch)[:, None], at].set(paths[:, :t])
    context = base.Context(written, given + t, given, controls)
    scores = warp_lib.warp(spec, logits[:, t : t + 1], context)[:, 0]
    laws.append(jax.nn.softmax(scores))
  return jnp.stack(laws, axis=1)


def repeat(prompt: Sequence[int], rows: int) -> base.Prompt:
  """A batch of one prompt, padded to one of few widths to compile."""
  width = text_lib.bucket(len(prompt))
  tokens, lengths = text_lib.pad([prompt] * rows, width)
  return base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths))
