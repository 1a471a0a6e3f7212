"""Law tests as a certificate runs them: whose law, and who drafts.

Some of the trials have the user's own drafter. A drafter whose tokens are
seldom refused, or seldom accepted, hides the mistakes that a rule makes there,
so others have drafters of our own: see `law.contrary` and `law.near`.
"""

import dataclasses
from typing import NamedTuple, Optional, Sequence

import numpy as np

from specjax.certify import law as law_lib
from specjax.certify.identity import Subject
from specjax.certify.identity import Tell
from specjax.decoding import drafters
from specjax.decoding import generate as generate_lib

# Longest draft of the law test: texts of K + 2 tokens are enumerated.
LONGEST_DRAFT = 4
# Prompts looked at to find those of the least certain next token.
CANDIDATES = 24
# Drafters of our own, and what they draft from.
OTHERS = (
  ('a contrary drafter', law_lib.contrary),
  ('a near drafter', law_lib.near),
)


class Trial(NamedTuple):
  """One law test.

  Attributes:
    who: drafts, in words; '' for the user's drafter.
    number: of the prompt, from 0.
    prompt: its ids.
    law: what should come out.
    recipe: the method, its target confined to the law's symbols.
    params: of target and drafter.
    seed: of the draws.
  """

  who: str
  number: int
  prompt: Sequence[int]
  law: law_lib.Law
  recipe: generate_lib.Recipe
  params: generate_lib.Params
  seed: int


def number_of(config) -> int:
  """Trials that share the false alarm rate, at most."""
  return config.law_prompts + len(OTHERS)


def make(subject: Subject, tell: Tell) -> list[Trial]:
  """The trials of a method, those with the user's drafter first.

  The prompts are those of the least certain next token. All are confined to
  the same symbols, so that one program serves them.
  """
  config, target = subject.config, subject.target
  scored = []
  for number, prompt in enumerate(subject.prompts[:CANDIDATES]):
    law = law_lib.next_law(target.lm, target.params, prompt, config.temperature)
    entropy = -np.sum(law * np.log(np.maximum(law, 1e-30)))
    scored.append((-entropy, number, law))
  chosen = sorted(scored, key=lambda row: row[:2])[: config.law_prompts]
  symbols = law_lib.choose_symbols(
    sum(law for _, _, law in chosen), config.symbols, target.eos_ids
  )
  num_draft = min(config.num_draft, LONGEST_DRAFT)
  recipe = subject.recipe(config.temperature, num_draft, symbols)
  seed = 1000 * config.seed
  trials = [
    Trial(
      '', number, subject.prompts[number],
      _law(subject, number, symbols, num_draft, tell), recipe,
      subject.params(), seed + 1 + place,
    )
    for place, (_, number, _) in enumerate(chosen)
  ]  # fmt: skip
  return trials + _with_others(subject, trials[0], tell)


def _law(subject, number, symbols, num_draft, tell) -> law_lib.Law:
  tell(f'enumerating the law of prompt {number + 1}')
  return law_lib.enumerate_law(
    subject.target.lm,
    subject.target.params,
    subject.sampling(subject.config.temperature),
    subject.prompts[number],
    symbols,
    num_draft + 2,
    subject.target.eos_ids,
  )


def _with_others(subject, first: Trial, tell) -> list[Trial]:
  """The rule with drafters of our own; none for trees."""
  config, target = subject.config, subject.target
  drafter = first.recipe.drafter
  num_draft = drafter.num_draft
  ends = set(target.eos_ids)
  symbols = tuple(i for i in first.law.symbols if i not in ends)[:3]
  if drafter.max_path < drafter.num_draft or len(symbols) < 2:
    return []
  recipe = subject.recipe(config.temperature, num_draft, symbols)
  style = drafters.style_for(recipe.verifier, recipe.warp, config.sampler)
  recipe = recipe._replace(
    drafter=drafters.table(1, num_draft, style), widths=()
  )
  law = _law(subject, first.number, symbols, num_draft, tell)
  return [
    Trial(
      who, first.number, first.prompt, law, recipe,
      subject.params().replace(drafter=draft_law(law, target.lm.vocab_size)),
      first.seed + 100 + place,
    )
    for place, (who, draft_law) in enumerate(OTHERS)
  ]  # fmt: skip


def run(
  subject: Subject,
  trial: Trial,
  broken: Optional[generate_lib.Recipe] = None,
  beta: int = 1,
) -> law_lib.Outcome:
  """Draws, counts and compares.

  Args:
    subject: what is certified.
    trial: one of `make`.
    broken: in the place of the trial's recipe, with the same drafter.
    beta: of the rows, see `controls.combined`.
  """
  config = subject.config
  sampling = subject.sampling(config.temperature)
  if broken is not None:
    sampling = dataclasses.replace(sampling, beta=beta)
  return law_lib.test(
    trial.recipe if broken is None else broken,
    trial.params,
    sampling,
    trial.prompt,
    trial.law,
    subject.target.eos_ids,
    samples=config.samples,
    false_alarm=config.false_alarm / number_of(config),
    # A mistake is not to be found by the very draws that passed the method.
    seed=trial.seed + 500 * (broken is not None),
  )
