"""Settings of a certification, changed by `--config.field=value`."""

import dataclasses
import math
from typing import Any, NamedTuple

from specjax import validation
from specjax.certify import controls
from specjax.inference.config import DecodeConfig
from specjax.inference.config import rule_names

_BROKEN = 'broken:'
# Value of a number that the effort decides.
BY_EFFORT = -1


class Effort(NamedTuple):
  """Thoroughness of a certification.

  Attributes:
    samples, law_prompts, num_prompts, max_new_tokens: values of the fields of
      `CertifyConfig` that a user leaves open.
    longest_draft: most draft slots of a law test.
    seconds: time after which no step begins any more.
    expected: duration, in words.
  """

  samples: int
  law_prompts: int
  num_prompts: int
  max_new_tokens: int
  longest_draft: int
  seconds: float
  expected: str


# A law test enumerates every text of K + 2 tokens. Of 4 symbols one ends a
# text, so K = 4 takes 3^5 = 243 paths of the target, and K = 2 takes 3^3 = 27.
EFFORTS = {
  'quick': Effort(2048, 1, 4, 16, 2, 60.0, 'at most 90 s'),
  'standard': Effort(8192, 2, 16, 48, 4, math.inf, '3 to 15 min'),
  'thorough': Effort(65536, 4, 0, 128, 4, math.inf, 'an hour'),
}


def certified_rules() -> tuple[str, ...]:
  """Words that `verifier` takes here."""
  broken = tuple(f'{_BROKEN}{name}' for name in controls.DESCRIPTIONS)
  return rule_names() + broken


@dataclasses.dataclass
class CertifyConfig(DecodeConfig):
  """Settings of a certification: the method, and the effort of its tests.

  Every setting that shapes the output is as in `DecodeConfig`: drafters, rules
  and their options, trees, the warp, precision and quantisation.

  Attributes:
    effort: thoroughness of the test, which decides the numbers below that are
      -1. On two processor cores, with a target of a few million parameters,
      quick takes at most 90 s, standard 3 to 15 min and thorough an hour. A
      quick run whose time is up before its last step is INCONCLUSIVE.
    verifier: verification rule, as for decoding; broken:NAME is a deliberately
      broken rule, to see it flagged.
    temperature: divisor of the logits before sampling. 0 certifies greedy
      decoding alone; above 0 the distribution is tested too.
    max_new_tokens: most new tokens of an answer in the identity tests; -1 is
      16, 48 or 128, by effort.
    batch_size: number of rows that are decoded together in the identity tests.
    num_prompts: number of prompts in the identity tests; 0 takes all; -1 is 4,
      16 or all, by effort.
    law_prompts: number of prompts in the distribution tests, those of the least
      certain next token; -1 is 1, 2 or 4, by effort.
    samples: number of continuations drawn for each distribution, at least 100;
      -1 is 2048, 8192 or 65536, by effort.
    symbols: number of tokens that the distribution tests are confined to, an
      end token included, from 2 to 8.
    false_alarm: probability that an exact method is called NOT LOSSLESS, all
      tests together, between 0 and 0.5.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: most tokens of a prompt, which is cut behind them; 0 cuts
      nothing.
  """

  effort: str = validation.choice('standard', tuple(EFFORTS))
  verifier: str = validation.choice('auto', certified_rules, checked=False)
  temperature: float | None = validation.unset(1.0)
  max_new_tokens: int = BY_EFFORT
  batch_size: int = 4
  num_prompts: int = BY_EFFORT
  law_prompts: int = BY_EFFORT
  samples: int = BY_EFFORT
  symbols: int = 4
  false_alarm: float = 1e-3
  prompt_length: int = 16
  max_prompt_tokens: int = 0

  @property
  def how(self) -> Effort:
    """The effort in force."""
    return EFFORTS[self.effort]

  def validate(self) -> None:
    """Fills in the numbers that the effort decides, and checks all fields.

    Raises:
      ValueError: one sentence about the first bad value.
    """
    validation.one_of('effort', self.effort, tuple(EFFORTS), str)
    # Before the check of the base class, which refuses -1.
    for name in ('samples', 'law_prompts', 'num_prompts', 'max_new_tokens'):
      if getattr(self, name) == BY_EFFORT:
        setattr(self, name, getattr(self.how, name))
    # First, because the default temperature does not suit a beam search.
    validation.whole('num_beams', self.num_beams, 1)
    if self.num_beams > 1:
      raise ValueError('A beam search is not certified; leave num_beams at 1.')
    super().validate()
    if self.truncate != DecodeConfig.truncate:
      raise ValueError(
        'A certificate has prompts of at most max_prompt_tokens; leave '
        f'truncate at none, not {self.truncate}.'
      )
    if self.broken and self.broken not in controls.DESCRIPTIONS:
      raise ValueError(
        f'There is no broken rule {self.broken!r}; there are '
        f'{", ".join(controls.DESCRIPTIONS)}.'
      )
    lowest = {
      'num_draft': 1,
      'max_new_tokens': 1,
      'num_prompts': 0,
      'law_prompts': 1,
      'samples': 100,
      'symbols': 2,
      'batch_size': 1,
      'prompt_length': 1,
      'max_prompt_tokens': 0,
    }
    for name, least in lowest.items():
      validation.whole(name, getattr(self, name), least)
    # 8 symbols and K = 4: 7 ** 5 = 16807 paths of the target for one prompt.
    if self.symbols > 8:
      raise ValueError(
        f'symbols must be at most 8, not {self.symbols}: every text over them '
        'is enumerated.'
      )
    if not 0 < self.false_alarm < 0.5:
      raise ValueError(
        f'false_alarm must be between 0 and 0.5, not {self.false_alarm}.'
      )

  @property
  def longest_draft(self) -> int:
    """Slots that a network made for this run needs."""
    return self.num_draft

  @property
  def broken(self) -> str:
    """Name of the broken rule asked for, or ''."""
    name = self.verifier if isinstance(self.verifier, str) else ''
    return name.removeprefix(_BROKEN) if name.startswith(_BROKEN) else ''

  def rule(self) -> Any:
    """As `DecodeConfig.rule`; a broken rule breaks that of 'auto'."""
    return None if self.broken else super().rule()

  def sampling_at(self, temperature: float, number: int | None = None) -> Any:
    """The warp at a temperature, as `controls.Sampling`.

    Args:
      temperature: temperature of all rows.
      number: prompt whose values are wanted, from 0; None for those of all.
    """
    made = self.sampling(None if number is None else [number])
    return dataclasses.replace(made, temperature=float(temperature))
