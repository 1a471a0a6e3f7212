"""Prompts that do not fit the target, cut on request."""

from collections.abc import Sequence
from typing import Any
import warnings

from specjax.inference.config import DecodeConfig
from specjax.inference.config import per_row

LEFT, RIGHT = 'left', 'right'


def apply(
  config: DecodeConfig, model: Any, encoded: Sequence[tuple[str, list[int]]]
) -> tuple[list[tuple[str, list[int]]], list[int]]:
  """Cuts the prompts that do not fit, and warns of how many there are.

  The place that is left depends on settings alone, so that every drafter, and
  none, meets the same prompts.

  Args:
    config: settings of the job: `truncate`, budgets and `num_draft`.
    model: the target.
    encoded: (text to show, ids) of every prompt.

  Returns:
    (prompts with ids that fit, number of tokens that each has lost).
  """
  encoded, most = list(encoded), model.lm.max_positions
  lost = [0] * len(encoded)
  if config.truncate not in (LEFT, RIGHT):
    return encoded, lost
  if most is None or model.lm.is_encoder_decoder:
    warnings.warn(
      f'truncate={config.truncate} changes nothing: {model.name} takes prompts '
      'of any length.',
      stacklevel=3,
    )
    return encoded, lost
  begins = {model.bos_id, getattr(model.tokenizer, 'bos_token_id', None)}
  for index, (shown, tokens) in enumerate(encoded):
    budget = int(per_row(config.max_new_tokens, index))
    room = most - budget - config.num_draft
    # Without any room the check of lengths names the prompt.
    if 0 < room < len(tokens):
      made = cut(tokens, room, config.truncate, begins)
      encoded[index], lost[index] = (shown, made), len(tokens) - room
  count = sum(map(bool, lost))
  if count:
    warnings.warn(
      f'{count} of {len(lost)} prompts did not fit the {most} positions of the '
      f'target and lost tokens on the {config.truncate}, {sum(lost)} in all.',
      stacklevel=3,
    )
  return encoded, lost


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
