"""Settings of a certification: what `--config.field=value` can change."""

import dataclasses
from typing import Any

from specjax import validation
from specjax.certify import controls
from specjax.inference.config import DecodeConfig

_BROKEN = 'broken:'


@dataclasses.dataclass
class CertifyConfig(DecodeConfig):
  """What is certified, and how thoroughly.

  All that changes what is decoded is as in `DecodeConfig`: drafters and their
  options, rules and theirs, trees, the warp, precision and quantisation.

  Attributes:
    verifier: as in `DecodeConfig`, or 'broken:NAME' with one of the
      deliberately broken rules, to see it flagged.
    temperature: 0 certifies greedy decoding alone; above 0 also the law.
    max_new_tokens: length of the identity tests.
    batch_size: rows of the identity tests decoded at a time.
    num_prompts: prompts of the identity tests; 0 takes all.
    law_prompts: prompts of the law test, those of the least certain next token.
    samples: continuations drawn for each law.
    symbols: size of the sub-vocabulary of the law test, an end token included.
    false_alarm: chance that an exact method is called NOT LOSSLESS, all tests
      together.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: longer prompts are cut behind this many; 0 cuts nothing.
  """

  temperature: float = 1.0
  max_new_tokens: int = 48
  batch_size: int = 4
  num_prompts: int = 16
  law_prompts: int = 2
  samples: int = 8192
  symbols: int = 4
  false_alarm: float = 1e-3
  prompt_length: int = 16
  max_prompt_tokens: int = 0

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    super().validate()
    if self.broken and self.broken not in controls.DESCRIPTIONS:
      raise ValueError(
        f'There is no broken rule {self.broken!r}; there are '
        f'{", ".join(controls.DESCRIPTIONS)}.'
      )
    if self.num_beams > 1:
      raise ValueError('A beam search is not certified; leave num_beams at 1.')
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

  def sampling_at(self, temperature: float) -> Any:
    """The warp at a temperature, as `controls.Sampling`."""
    made = self.sampling()
    return dataclasses.replace(made, temperature=float(temperature))
