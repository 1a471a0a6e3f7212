"""Settings of a certification: what `--config.field=value` can change."""

import dataclasses

from specjax import validation
from specjax.certify import controls
from specjax.inference.config import DecodeConfig


@dataclasses.dataclass
class CertifyConfig:
  """What is certified, and how thoroughly.

  Attributes:
    num_draft: K.
    verify: 'auto', a verifier's name, or 'broken:NAME' with one of the
      deliberately broken rules, to see it flagged.
    sampler: of plain sampling: gumbel or inverse_cdf.
    temperature: 0 certifies greedy decoding alone; above 0 also the law.
    top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size, lenience,
      beta, tau: as in `DecodeConfig`.
    max_new_tokens: length of the identity tests.
    num_prompts: prompts of the identity tests; 0 takes all.
    law_prompts: prompts of the law test, those of the least certain next token.
    samples: continuations drawn for each law.
    symbols: size of the sub-vocabulary of the law test, an end token included.
    false_alarm: chance that an exact method is called NOT LOSSLESS, all tests
      together.
    batch_size: rows of the identity tests decoded at a time.
    seed: of everything drawn.
    dtype: float32 or bfloat16.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: longer prompts are cut behind this many; 0 cuts nothing.
    chat, prefix: as in `DecodeConfig`.
  """

  num_draft: int = 4
  verify: str = 'auto'
  sampler: str = 'gumbel'
  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  no_repeat_ngram_size: int = 0
  lenience: float = 1.0
  beta: int = 1
  tau: float = 0.0
  max_new_tokens: int = 48
  num_prompts: int = 16
  law_prompts: int = 2
  samples: int = 8192
  symbols: int = 4
  false_alarm: float = 1e-3
  batch_size: int = 4
  seed: int = 0
  dtype: str = 'float32'
  prompt_length: int = 16
  max_prompt_tokens: int = 0
  chat: bool = False
  prefix: str = ''

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.decoding().validate()
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
    return (
      self.verify.removeprefix('broken:')
      if self.verify.startswith('broken:')
      else ''
    )

  def decoding(self) -> DecodeConfig:
    """The settings that `DecodeConfig` knows, checked by it."""
    names = {field.name for field in dataclasses.fields(DecodeConfig)}
    shared = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name in names
    }
    if self.broken:
      shared['verify'] = 'auto'
    return DecodeConfig(**shared)
