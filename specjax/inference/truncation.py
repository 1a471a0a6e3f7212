"""Prompts that do not fit the target, cut on request."""

import array
from typing import Any
import warnings

from specjax.inference import encoding
from specjax.inference.config import DecodeConfig
from specjax.inference.config import per_row

LEFT, RIGHT = 'left', 'right'


def apply(
  config: DecodeConfig, model: Any, encoded: encoding.Encoded
) -> encoding.Encoded:
  """Cuts the prompts that do not fit, and warns of how many there are.

  Args:
    config: settings of the job: `truncate` and the budgets.
    model: the target.
    encoded: the prompts.

  Returns:
    Prompts with ids that fit.
  """
  most = model.lm.max_positions
  if config.truncate not in (LEFT, RIGHT):
    return encoded
  if most is None or model.lm.is_encoder_decoder:
    warnings.warn(
      f'truncate={config.truncate} changes nothing: {model.name} takes prompts '
      'of any length.',
      stacklevel=3,
    )
    return encoded
  rooms = array.array('i', encoded.lengths)
  for index in range(len(rooms)):
    budget = int(per_row(config.max_new_tokens, index))
    room = most - budget
    # Without any room the check of lengths names the prompt.
    if room > 0:
      rooms[index] = min(rooms[index], room)
  begins = {model.bos_id, getattr(model.tokenizer, 'bos_token_id', None)}
  encoded = encoded.shortened(
    rooms, lambda tokens, room: cut(tokens, room, config.truncate, begins)
  )
  count = sum(map(bool, encoded.lost))
  if count:
    warnings.warn(
      f'{count} of {len(encoded)} prompts did not fit the {most} positions of '
      f'the target and lost tokens on the {config.truncate}, '
      f'{sum(encoded.lost)} in all.',
      stacklevel=3,
    )
  return encoded


def cut(
  tokens: list[int], room: int, side: str, begins: set[int | None]
) -> list[int]:
  """The tokens of a prompt that are kept.

  Args:
    tokens: ids, more than `room`.
    room: number of tokens that fit, at least 1.
    side: side on which the others are cut off, 'left' or 'right'.
    begins: first ids of a text, which stay in front of what is left.
  """
  # [<s> a b c], room 3: on the left [<s> b c], on the right [<s> a b]
  if side == RIGHT:
    return tokens[:room]
  head = tokens[:1] if tokens[0] in begins and room > 1 else []
  return head + tokens[len(tokens) - room + len(head) :]
