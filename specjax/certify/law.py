"""The law of the output against the law of the target, cell by cell.

The target is confined to a few symbols, so that every continuation of a few
tokens can be enumerated with its exact probability. Continuations are then
drawn by the real loop and counted; chi-square tests compare the counts of the
first token, of the first two, and so on, with Bonferroni's correction.
"""

from typing import NamedTuple, Optional, Sequence

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
  difference: Optional[chi_square.CellDifference]
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
  most = exact_law.MOST_NUMBERS // (slots * recipe.target.vocab_size)
  rows = int(max(1, min(samples, 1024, most)))
  decode = assemble.compiled(recipe, law.length)
  counts, drafted, accepted = {}, 0, 0
  for start in range(0, samples, rows):
    keys = row_keys(seed, np.arange(start, start + rows))
    controls = sampling.controls(keys, law.length, end_ids)
    dials = jax.tree.map(lambda dial: np.full((rows,), dial), rule or {})
    controls = controls.replace(rule=dials)
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


def near(law: exact_law.Law, vocab_size: int) -> Table:
  """A draft law between the target's and the even one.

  Whole drafts are often accepted, so a rule that errs behind them shows it.
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
    weights[symbol] = max(p, 0.02)
  with np.errstate(divide='ignore'):
    logs = np.log(weights / weights.sum())
  return Table(jnp.asarray(logs, jnp.float32))


def detectable(
  law: exact_law.Law, length: int, samples: int, false_alarm: float
):
  """See `chi_square.detectable`; of the law of the first `length` tokens."""
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
  rule: Optional[dict] = None,
) -> LawOutcome:
  """Draws, counts and compares; see `LawOutcome`.

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
  """Total variation of what was counted, and what sampling makes of it."""
  texts = set(law.probability) | set(counts)
  gaps = [
    abs(counts.get(t, 0) / samples - law.probability.get(t, 0.0)) for t in texts
  ]
  noise = sum(
    np.sqrt(max(p * (1 - p), 0.0) * 2 / (np.pi * samples))
    for p in law.probability.values()
  )
  return sum(gaps) / 2, float(noise / 2)
