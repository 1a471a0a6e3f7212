"""The law of the output against the law of the target, cell by cell.

The target is confined to a few symbols, so that every continuation of a few
tokens can be enumerated with its exact probability. Continuations are then
drawn by the real loop and counted; chi-square tests compare the counts of the
first token, of the first two, and so on, with Bonferroni's correction.
"""

import functools
import itertools
from typing import NamedTuple, Optional, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.certify import chi_square
from specjax.decoding import generate as generate_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.table import Table
from specjax.inference import assemble

# Numbers held at once: rows times slots times vocabulary.
MOST_NUMBERS = 2**23


class Law(NamedTuple):
  """Exact probabilities of continuations.

  Attributes:
    symbols: ids the target is confined to; end tokens among them end a text.
    length: tokens of a continuation that does not end before.
    probability: {tuple of ids: probability}, of whole continuations.
  """

  symbols: tuple[int, ...]
  length: int
  probability: dict


class Outcome(NamedTuple):
  """What a law test found.

  Attributes:
    p_value: the smallest of the tests, times their number.
    difference: `Difference`, or None where no test failed.
    samples: continuations drawn.
    drafted, accepted: tokens, over all of them.
    distance: total variation distance of the whole continuations; about
      `noise` for an exact method.
    noise: what sampling alone makes of it.
    detectable: a distance of the first token's, and of the whole
      continuations' law, that is flagged nine times out of ten.
  """

  p_value: float
  difference: Optional[chi_square.Difference]
  samples: int
  drafted: int
  accepted: int
  distance: float
  noise: float
  detectable: tuple[float, float]


@functools.lru_cache(maxsize=None)
def confined(lm: base.CachedLM, symbols: tuple[int, ...]) -> base.CachedLM:
  """The model with every other token's probability at 0; () changes nothing."""
  if not symbols:
    return lm

  def extend(params, cache, tokens, tree=None, slots=None):
    scored, cache = lm.extend(params, cache, tokens, tree, slots)
    allowed = jnp.zeros((scored.logits.shape[-1],), bool)
    allowed = allowed.at[jnp.asarray(symbols)].set(True)
    logits = jnp.where(allowed, scored.logits, -jnp.inf)
    return scored.replace(logits=logits), cache

  return lm._replace(extend=extend)


def next_law(lm, params, prompt: Sequence[int], temperature: float):
  """The target's law of the next token, float64 [V]."""
  logits = _first_logits(lm, params, _repeat(prompt, 1))[0, 0]
  logits = np.asarray(logits, np.float64) / (temperature or 1.0)
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


@functools.partial(jax.jit, static_argnums=0)
def _first_logits(lm, params, prompt):
  width = prompt.tokens.shape[1]
  prefilled = lm.prefill(params, prompt, capacity=width + 4)
  block = prefilled.last_token[:, None]
  return lm.extend(params, prefilled.cache, block)[0].logits


def choose_symbols(
  law: np.ndarray, count: int, end_ids: Sequence[int]
) -> tuple[int, ...]:
  """The likeliest tokens, and one end token if the model has any."""
  ends = [i for i in end_ids if 0 <= i < len(law)]
  ends = sorted(ends, key=lambda i: -law[i])[:1]
  order = [int(i) for i in np.argsort(-law, kind='stable') if i not in end_ids]
  return tuple(order[: count - len(ends)] + ends)


def enumerate_law(
  lm: base.CachedLM,
  params: base.PyTree,
  sampling: Sampling,
  prompt: Sequence[int],
  symbols: tuple[int, ...],
  length: int,
  end_ids: Sequence[int] = (),
) -> Law:
  """Computes the exact law of plain decoding, one path at a time.

  Args:
    lm: the target.
    params: its parameters.
    sampling: temperature above 0, filters and penalties.
    prompt: ids.
    symbols: what the target is confined to.
    length: of the continuations.
    end_ids: of the model.
  """
  ends = set(end_ids)
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
    filled = np.concatenate([part, np.repeat(part[:1], rows - len(part), 0)])
    laws = _path_laws(
      small,
      sampling.warp_spec(),
      params,
      _repeat(prompt, rows),
      jnp.asarray(filled),
      sampling.controls(row_keys(0, np.zeros(rows)), length, end_ids),
    )
    laws = np.asarray(laws, np.float64)
    for path, law in zip(part, laws):
      for t in range(length):
        steps[tuple(path[:t].tolist())] = law[t, list(symbols)]
  probability = {}
  _walk((), 1.0, steps, symbols, ends, length, probability)
  return Law(symbols, length, probability)


def _walk(prefix, mass, steps, symbols, ends, length, found) -> None:
  """Multiplies the steps' probabilities out."""
  law = steps[prefix] / steps[prefix].sum()
  for symbol, p in zip(symbols, law):
    text = prefix + (symbol,)
    if symbol in ends or len(text) == length:
      found[text] = mass * p
    else:
      _walk(text, mass * p, steps, symbols, ends, length, found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _path_laws(lm, spec, params, prompt, paths, controls):
  """Laws after each prefix of each path, float32 [rows, length, V].

  The context of every prefix is written out as plain decoding would have it.
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


def _repeat(prompt: Sequence[int], rows: int) -> base.Prompt:
  """Rows of one prompt, padded so that few widths occur."""
  width = text_lib.bucket(len(prompt))
  tokens, lengths = text_lib.pad([prompt] * rows, width)
  return base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths))


def sample(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  sampling: Sampling,
  prompt: Sequence[int],
  law: Law,
  end_ids: Sequence[int],
  *,
  samples: int,
  seed: int,
  rule: Optional[dict] = None,
):
  """Draws continuations with the real loop; the target must be confined.

  Args:
    recipe, params: what draws.
    sampling: temperature above 0, filters and penalties.
    prompt: ids.
    law: names the symbols and the length.
    end_ids: of the model.
    samples: continuations to draw.
    seed: of the draws.
    rule: dials of the rule, one value each; nested dicts of arrays.

  Returns:
    ({continuation: count}, drafted tokens, accepted tokens).
  """
  slots = recipe.drafter.num_draft + 1
  most = MOST_NUMBERS // (slots * recipe.target.vocab_size)
  rows = int(max(1, min(samples, 1024, most)))
  decode = assemble.compiled(recipe, law.length)
  counts, drafted, accepted = {}, 0, 0
  for start in range(0, samples, rows):
    keys = row_keys(seed, np.arange(start, start + rows))
    controls = sampling.controls(keys, law.length, end_ids)
    dials = jax.tree.map(lambda dial: np.full((rows,), dial), rule or {})
    controls = controls.replace(rule=dials)
    made = jax.device_get(decode(params, _repeat(prompt, rows), controls))
    for row in range(min(rows, samples - start)):
      begin = int(made.prompt_length[row])
      end = begin + int(made.num_tokens[row])
      text = tuple(made.tokens[row, begin:end].tolist())
      counts[text] = counts.get(text, 0) + 1
    drafted += int(made.rounds.drafted.sum())
    accepted += int(made.rounds.accepted.sum())
  return counts, drafted, accepted


def contrary(law: Law, vocab_size: int) -> Table:
  """A draft law that gives most to what the target gives least.

  Made of the law of the second token, with its probabilities dealt out in the
  opposite order. What the target likes it avoids, so a rule that errs where
  drafts are refused shows it here.
  """
  mass = _second_token(law)
  order = sorted(mass, key=mass.get)
  return _table(
    {symbol: mass[other] for symbol, other in zip(order, reversed(order))},
    vocab_size,
  )


def near(law: Law, vocab_size: int) -> Table:
  """A draft law between the target's and the even one.

  Whole drafts are often accepted, so a rule that errs behind them shows it.
  """
  return _table(
    {symbol: p**0.5 for symbol, p in _second_token(law).items()}, vocab_size
  )


def _second_token(law: Law) -> dict:
  """{symbol: probability} of the second token."""
  mass = dict.fromkeys(law.symbols, 0.0)
  for text, p in law.probability.items():
    mass[text[min(1, len(text) - 1)]] += p
  return mass


def _table(mass: dict, vocab_size: int) -> Table:
  """A drafter that draws every token from the same law."""
  weights = np.zeros(vocab_size)
  for symbol, p in mass.items():
    weights[symbol] = max(p, 0.02)
  with np.errstate(divide='ignore'):
    logs = np.log(weights / weights.sum())
  return Table(jnp.asarray(logs, jnp.float32))


def detectable(law: Law, length: int, samples: int, false_alarm: float):
  """See `chi_square.detectable`; of the law of the first `length` tokens."""
  return chi_square.detectable(
    law.probability, law.length, length, samples, false_alarm
  )


def test(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  sampling: Sampling,
  prompt: Sequence[int],
  law: Law,
  end_ids: Sequence[int],
  *,
  samples: int,
  false_alarm: float,
  seed: int = 0,
  rule: Optional[dict] = None,
) -> Outcome:
  """Draws, counts and compares; see `Outcome`.

  Args:
    recipe: the method under test, its target confined to the law's symbols.
    params: its parameters.
    sampling: what `law` was enumerated with.
    prompt: ids.
    law: from `enumerate_law`.
    end_ids: of the model.
    samples: how many continuations to draw.
    false_alarm: chance that an exact method fails this test.
    seed: of the draws.
    rule: as for `sample`.
  """
  counts, drafted, accepted = sample(
    recipe,
    params,
    sampling,
    prompt,
    law,
    end_ids,
    samples=samples,
    seed=seed,
    rule=rule,
  )
  p_value, difference = chi_square.compare(
    law.probability, law.length, counts, false_alarm
  )
  texts = set(law.probability) | set(counts)
  gaps = [
    abs(counts.get(t, 0) / samples - law.probability.get(t, 0.0)) for t in texts
  ]
  noise = sum(
    np.sqrt(max(p * (1 - p), 0.0) * 2 / (np.pi * samples))
    for p in law.probability.values()
  )
  return Outcome(
    p_value,
    difference,
    samples,
    drafted,
    accepted,
    sum(gaps) / 2,
    float(noise / 2),
    (
      detectable(law, 1, samples, false_alarm),
      detectable(law, law.length, samples, false_alarm),
    ),
  )
