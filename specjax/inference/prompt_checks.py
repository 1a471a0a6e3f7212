"""Checks that prompts fit target, drafter and settings, before decoding."""

from collections.abc import Sequence
import warnings

import numpy as np

from specjax import prompts as prompts_lib
from specjax.inference import assemble
from specjax.inference import logprobs
from specjax.inference import refusals
from specjax.inference.config import DecodeConfig
from specjax.inference.config import PER_PROMPT
from specjax.inference.config import per_row


def check(
  assembled: assemble.Assembled,
  config: DecodeConfig,
  lengths: Sequence[int],
  lines: Sequence[prompts_lib.Line],
) -> bool:
  """Refuses settings or prompts that do not fit.

  Args:
    assembled: `assemble.Assembled`, what decodes.
    config: `DecodeConfig`.
    lengths: tokens of every prompt.
    lines: the prompts; a `refusals.Checked` takes the errors of its prompts.

  Returns:
    Whether prompts were refused that were not refused before.

  Raises:
    ValueError: one sentence that names the setting or the prompt.
  """
  if config.stops() and assembled.target.tokenizer is None:
    raise ValueError(
      'Stop strings need a tokenizer, and the target has none; leave stop '
      'empty.'
    )
  logprobs.check_vocabulary(config.logprobs, assembled.recipe.target.vocab_size)
  _check_dials(assembled, len(lengths))
  found = {}
  for index, length in enumerate(lengths):
    try:
      _check_length(assembled.recipe, config, index, length)
      _check_source(assembled, index, length)
    except ValueError as error:
      found[index] = refusals.named(lines[index], index, error)
      if not isinstance(lines, refusals.Checked):
        raise ValueError(found[index]) from None
  if found:
    lines.errors.update(found)
    return True
  note_positions(assembled, config, lengths)
  return False


def note_positions(
  assembled: assemble.Assembled,
  config: DecodeConfig,
  lengths: Sequence[int],
) -> None:
  """Warns of a drafter with fewer positions than rows may reach.

  Args:
    assembled: `assemble.Assembled`, what decodes.
    config: `DecodeConfig`.
    lengths: tokens of every prompt, at least one.
  """
  is_pairs = assembled.target.lm.is_encoder_decoder
  reached = max(
    (1 if is_pairs else length) + int(per_row(config.max_new_tokens, index))
    for index, length in enumerate(lengths)
  )
  note = about_positions(assembled, reached)
  if note:
    warnings.warn(note, stacklevel=2)


def about_positions(assembled: assemble.Assembled, reached: int) -> str:
  """A sentence on a drafter with too few positions; '' on another, or none.

  Args:
    assembled: `assemble.Assembled`, what decodes.
    reached: most positions that a row may take in the decoder.
  """
  most = assembled.plan.max_positions
  if not most or reached <= most:
    return ''
  return (
    f'The drafter {assembled.source.name} was made for {most} positions and '
    f'rows may reach {reached}; drafts beyond will be poor or none, the output '
    'stays exact.'
  )


def _check_source(assembled, index: int, length: int) -> None:
  """Refuses a source that is longer than the drafter was trained for."""
  most = assembled.plan.max_source_tokens
  if most is not None and length > most:
    raise ValueError(
      f'Prompt {index + 1} has {length} tokens, but the drafter '
      f'{assembled.source.name} was trained for sources of at most {most}; '
      'shorten it, or decode without this drafter.'
    )


def _check_dials(assembled, count: int) -> None:
  """Refuses a rule's dial with a wrong number of values."""
  for name, value in assembled.dials().items():
    if np.ndim(value) and len(value) != count:
      raise ValueError(
        f'{name} has {len(value)} values for {count} prompts; give one value '
        'or one for each prompt.'
      )


def check_per_prompt(config: DecodeConfig, count: int) -> None:
  """Refuses a setting with another number of values than there are prompts.

  Args:
    config: `DecodeConfig`.
    count: prompts.

  Raises:
    ValueError: names the setting.
  """
  for name in PER_PROMPT:
    value = getattr(config, name)
    if np.ndim(value) and len(value) != count:
      raise ValueError(
        f'{name} has {len(value)} values for {count} prompts; give one value '
        'or one for each prompt.'
      )


def _check_length(recipe, config, index: int, length: int) -> None:
  """Refuses what the target's positions cannot hold."""
  lm = recipe.target
  budget = int(per_row(config.max_new_tokens, index))
  given = 1 if lm.is_encoder_decoder else length
  needed = given + budget
  if lm.max_positions is None or needed <= lm.max_positions or not length:
    return
  if given >= lm.max_positions:
    raise ValueError(
      f'Prompt {index + 1} has {given} tokens, but the target was made for '
      f'{lm.max_positions} positions; shorten it.'
    )
  raise ValueError(
    f'Prompt {index + 1} has {given} tokens; with {budget} new ones that is '
    f'{needed}, but the target was made for {lm.max_positions} positions; '
    'shorten it, or lower max_new_tokens.'
  )
