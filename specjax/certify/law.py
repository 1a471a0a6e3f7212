"""The law of the output against the law of the target, cell by cell.

The target is confined to a few symbols, so that every continuation of a few
tokens can be enumerated with its exact probability. Continuations are then
drawn by the real loop and counted. Chi-square tests compare the counts of the
first token, of the first two, and so on, with Bonferroni's correction.

With symbols 5 and 9 and continuations of 2 tokens:

  exact law:       (5, 5): 0.42  (5, 9): 0.28  (9, 5): 0.12  (9, 9): 0.18
  1,000 draws:     (5, 5): 431   (5, 9): 270   (9, 5): 118   (9, 9): 181
  first token:     5: 0.70 and 701 counted, 9: 0.30 and 299 counted

The whole continuation is tested because many mistakes leave the first token
right: a rule that reuses the noise of a refused slot biases the round after it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax.certify import chi_square
from specjax.certify import exact_law
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.table import Table
from specjax.inference import assemble


class LawOutcome(NamedTuple):
  """Result of a law test.

  Attributes:
    p_value: smallest p-value of the tests, times their number.
    difference: `CellDifference`, or None where no test failed.
    samples: number of continuations drawn.
    drafted, accepted: numbers of tokens, over all continuations.
    distance: total variation distance of the whole continuations; about
      `noise` for an exact method.
    noise: distance to be expected from sampling alone.
    detectable: distances of the first token's law, and of the whole
      continuations', that are flagged nine times out of ten.
  """

  p_value: float
  difference: chi_square.CellDifference | None
  samples: int
  drafted: int
  accepted: int
  distance: float
  noise: float
  detectable: tuple[float, float]


def sample(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  sampling: Sampling,
  prompt: Sequence[int],
  law: exact_law.Law,
  end_ids: Sequence[int],
  *,
  samples: int,
  seed: int,
  rule: dict | None = None,
) -> tuple[dict, int, int]:
  """Draws continuations with the real loop; the target must be confined.

  Args:
    recipe: loop that draws.
    params: parameters of its target and drafter.
    sampling: temperature above 0, filters and penalties.
    prompt: ids.
    law: law whose symbols and length are used.
    end_ids: ids that end a text.
    samples: number of continuations to draw.
    seed: seed of the draws.
    rule: dials of the rule, one value each; nested dicts of arrays.

  Returns:
    ({continuation: count}, drafted tokens, accepted tokens).
  """
  # Logits [rows, K + 1, V] are the largest array of the loop, so they bound the
  # rows: with K = 4 and 32,000 tokens, 2^23 / (5 x 32,000) = 52 rows.
  slots = recipe.drafter.num_draft + 1
  most = exact_law.MOST_NUMBERS // (slots * recipe.target.vocab_size)
  rows = int(max(1, min(samples, 1024, most)))
  decode = assemble.compiled(recipe, law.length)
  counts, drafted, accepted = {}, 0, 0
  for start in range(0, samples, rows):
    # Every continuation has a row key of its own: draws must be independent.
    keys = row_keys(seed, np.arange(start, start + rows))
    # By the recipe's switches: this prompt alone may need fewer.
    controls = sampling.controls(keys, law.length, end_ids, spec=recipe.warp)
    dials = jax.tree.map(lambda dial: np.full((rows,), dial), rule or {})
    controls = controls.replace(rule=dials)
    # Rows of the last part beyond `samples` are drawn and not counted, so that
    # one program serves all parts.
    made = jax.device_get(
      decode(params, exact_law.repeat(prompt, rows), controls)
    )
    contract.refuse(made.faults)
    for row in range(min(rows, samples - start)):
      begin = int(made.prompt_length[row])
      end = begin + int(made.num_tokens[row])
      text = tuple(made.tokens[row, begin:end].tolist())
      counts[text] = counts.get(text, 0) + 1
    drafted += int(made.rounds.drafted.sum())
    accepted += int(made.rounds.accepted.sum())
  return counts, drafted, accepted


def contrary(law: exact_law.Law, vocab_size: int) -> Table:
  """A draft law that gives most to the tokens to which the target gives least.

  It has the probabilities of the target's second token in the opposite order.
  Most drafts are refused, so a rule that errs behind a refusal is flagged.

    In:  second token 5: 0.7, 9: 0.2, 4: 0.1
    Out: 5: 0.1, 9: 0.2, 4: 0.7
  """
  mass = _second_token(law)
  order = sorted(mass, key=mass.get)
  return _table(
    {
      symbol: mass[other]
      for symbol, other in zip(order, reversed(order), strict=True)
    },
    vocab_size,
  )


def near(law: exact_law.Law, vocab_size: int) -> Table:
  """A draft law between the target's and the uniform one.

  Whole drafts are often accepted, so a rule that errs behind them is flagged.

    In:  second token 5: 0.7, 9: 0.2, 4: 0.1
    Out: 5: 0.52, 9: 0.28, 4: 0.20 (square roots, normalised)
  """
  return _table(
    {symbol: p**0.5 for symbol, p in _second_token(law).items()}, vocab_size
  )


def _second_token(law: exact_law.Law) -> dict:
  """{symbol: probability} of the second token."""
  mass = dict.fromkeys(law.symbols, 0.0)
  for text, p in law.probability.items():
    mass[text[min(1, len(text) - 1)]] += p
  return mass


def _table(mass: dict, vocab_size: int) -> Table:
  """A drafter that draws every token from the same law."""
  weights = np.zeros(vocab_size)
  for symbol, p in mass.items():
    # A symbol that is never drafted would leave its ratio p/q untested.
    weights[symbol] = max(p, 0.02)
  with np.errstate(divide='ignore'):
    logs = np.log(weights / weights.sum())
  return Table(jnp.asarray(logs, jnp.float32))


def detectable(
  law: exact_law.Law, length: int, samples: int, false_alarm: float
) -> float:
  """`chi_square.detectable` for the law of the first `length` tokens."""
  return chi_square.detectable(
    law.probability, law.length, length, samples, false_alarm
  )


def test(
  recipe: generate_lib.Recipe,
  params: generate_lib.Params,
  sampling: Sampling,
  prompt: Sequence[int],
  law: exact_law.Law,
  end_ids: Sequence[int],
  *,
  samples: int,
  false_alarm: float,
  seed: int = 0,
  rule: dict | None = None,
) -> LawOutcome:
  """Draws, counts and compares; see `LawOutcome`.

  Args:
    recipe: method under test, its target confined to the law's symbols.
    params: parameters of its target and drafter.
    sampling: warp with which `law` was enumerated.
    prompt: ids.
    law: exact law, from `enumerate_law`.
    end_ids: ids that end a text.
    samples: number of continuations to draw.
    false_alarm: chance that an exact method fails this test.
    seed: seed of the draws.
    rule: dials, as for `sample`.
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
  distance, noise = _distance(law, counts, samples)
  return LawOutcome(
    p_value,
    difference,
    samples,
    drafted,
    accepted,
    distance,
    noise,
    (
      detectable(law, 1, samples, false_alarm),
      detectable(law, law.length, samples, false_alarm),
    ),
  )


def _distance(law, counts, samples) -> tuple[float, float]:
  """Total variation of the counts from the law, and its mean under the law."""
  texts = set(law.probability) | set(counts)
  gaps = [
    abs(counts.get(t, 0) / samples - law.probability.get(t, 0.0)) for t in texts
  ]
  # A share counted from n draws deviates by sqrt(2 p (1 - p) / (pi n)) in the
  # mean (that of a normal variable), and the distance is half the sum: 0.0126
  # for two texts of 0.5 each and n = 1,000. A reader needs it to judge a
  # distance of 0.03 over 243 texts.
  noise = sum(
    np.sqrt(max(p * (1 - p), 0.0) * 2 / (np.pi * samples))
    for p in law.probability.values()
  )
  return sum(gaps) / 2, float(noise / 2)
