"""Text to token rows and back: tokenisation, lengths.

Tokenizers are those of transformers; anything with `__call__`, `decode` and
`get_vocab` of the same meaning serves.
"""

from collections.abc import Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from specjax import chat_template
from specjax import pieces
from specjax import prompts as prompts_lib
from specjax import validation

# English sentences, for whoever names no file of prompts.
BUNDLED_PROMPTS = pathlib.Path(__file__).parent / 'assets' / 'demo_prompts.txt'

SMALLEST_WIDTH = 16
MAX_SHOWN = 80


def encode(
  tokenizer: Any,
  prompt: str | prompts_lib.Messages,
  *,
  chat: bool = False,
  prefix: str = '',
  template: chat_template.Template = chat_template.PLAIN,
) -> list[int]:
  """Tokenises one prompt by the tokenizer's own settings.

  Args:
    tokenizer: tokenizer of the target.
    prompt: text or messages.
    chat: whether text is wrapped as a user's message in the tokenizer's chat
      template; messages always are.
    prefix: text in front of the prompt, such as a T5 task prefix.
    template: way in which messages are put into the chat template.

  Returns:
    Token ids; none for an empty prompt where the tokenizer adds none.

  Raises:
    ValueError: the prompt is not valid Unicode text, or the chat template is
      missing or refuses the messages.
  """
  if isinstance(prompt, str):
    prompt = prefix + prompt
    if not chat:
      _check_text(prompt)
      return list(tokenizer(prompt, verbose=False).input_ids)
    prompt = [{'role': 'user', 'content': prompt}]
  if not getattr(tokenizer, 'chat_template', None):
    raise ValueError(
      "The target's tokenizer has no chat template; give plain prompts and "
      'leave chat off.'
    )
  text = chat_template.apply(tokenizer, prompt, template)
  _check_text(text)
  # A template spells the special tokens itself; with the tokenizer's own a text
  # would begin twice.
  ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
  return list(ids)


def _check_text(prompt: str) -> None:
  validation.text(f'The prompt {prompt[:MAX_SHOWN]!a}', prompt)


def decode(
  tokenizer: Any, tokens: Sequence[int], *, special: bool = False
) -> str:
  """Text of generated tokens.

  A character that the tokens do not finish is left out at the end.

  Args:
    tokenizer: a tokenizer; None gives the ids, as '5 6'.
    tokens: ids.
    special: whether special tokens are spelled; else they are left out.
  """
  ids = [int(token) for token in tokens]
  if tokenizer is None:
    return ' '.join(map(str, ids))
  if not ids:
    return ''
  return pieces.decode(tokenizer, ids, special=special)


def spelled_ids(text: str, where: str) -> tuple[int, ...]:
  """Token ids of a text for a model without a tokenizer, the reverse of decode.

  In:  '5 6'
  Out: (5, 6)

  Args:
    text: ids with spaces between them.
    where: name of the text, for errors.

  Raises:
    ValueError: something else stands there.
  """
  for word in text.split():
    if not (word.isascii() and word.isdigit()):
      raise ValueError(
        f'{where}: the target has no tokenizer, so text must be token ids with '
        f'spaces between them, as 5 6 7, and {word[:MAX_SHOWN]!r} is none.'
      )
  return tuple(int(word) for word in text.split())


def one_line(text: str) -> str:
  """Text as one line of output, line ends written as \\n and \\r."""
  return text.replace('\r', '\\r').replace('\n', '\\n')


def bucket(length: int) -> int:
  """The smallest of 16, 24, 32, 48, 64, 96, ... that is at least `length`."""
  size = SMALLEST_WIDTH
  while size < length:
    if size + size // 2 >= length:
      return size + size // 2
    size *= 2
  return size


def budget(tokens: int) -> int:
  """The smallest of 32, 64, 128, 192, 256, 384, ... that is at least `tokens`.

  The static bound of every row's own budget: coarse where memory is small, so
  that another number of tokens seldom asks for another program.
  """
  return bucket(tokens) if tokens > 128 else max(32, power_of_two(tokens))


def row_count(rows: int) -> int:
  """The smallest of 1, 4, 8, 16, 32, ... that is at least `rows`.

  One row alone is decoded alone; from two on, rows that are filled up cost
  little beside another program.
  """
  return 1 if rows <= 1 else max(4, power_of_two(rows))


def power_of_two(number: int) -> int:
  """The smallest power of two that is at least `number`."""
  return 1 << max(number - 1, 0).bit_length()


def widths(lengths: Sequence[int]) -> list[int]:
  """Padded widths for rows or batches of the given lengths.

  Args:
    lengths: token counts, at least one.

  Returns:
    A width for each, from three at most: the bucket of the longest, its half
    and its quarter. Few widths mean few compiled programs.
  """
  # lengths [40 12]: choices [24 48], widths [48 24]
  longest = bucket(max(lengths))
  choices = [longest]
  while len(choices) < 3 and choices[0] // 2 >= SMALLEST_WIDTH:
    choices.insert(0, choices[0] // 2)
  return [next(c for c in choices if c >= length) for length in lengths]


def pad(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, ...]:
  """Right-pads token rows.

  Args:
    rows: ids, at most `width` each; an empty row becomes one zero token.
    width: S.

  Returns:
    (tokens int32 [B, S], lengths int32 [B], each at least 1).
  """
  # rows [5 6] and [], width 3: [[5 6 0] [0 0 0]], lengths [2 1]
  tokens = np.zeros((len(rows), width), np.int32)
  for index, row in enumerate(rows):
    tokens[index, : len(row)] = row
  lengths = np.array([max(len(row), 1) for row in rows], np.int32)
  return tokens, lengths


def fingerprint(tokenizer: Any) -> str:
  """Hexadecimal digest of which id means which token."""
  # By id, since the order of a vocabulary depends on how its file was written.
  rows = sorted((id_, token) for token, id_ in tokenizer.get_vocab().items())
  return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_same_vocabulary(
  target: Any,
  drafter: Any,
  names: tuple[str, str] = ('the target', 'the drafter'),
  *,
  may_lack: bool = False,
) -> None:
  """Raises ValueError unless drafter and target have the same vocabulary.

  Args:
    target: a tokenizer, or None if the model has none.
    drafter: a tokenizer, or None.
    names: names of their owners.
    may_lack: whether one may have ids that the other has not.

  Raises:
    ValueError: naming the first id that differs.
  """
  if target is None or drafter is None:
    return
  left = {id_: token for token, id_ in target.get_vocab().items()}
  right = {id_: token for token, id_ in drafter.get_vocab().items()}
  both = left.keys() & right.keys() if may_lack else ()
  ids = both or left.keys() | right.keys()
  first = min((i for i in ids if left.get(i) != right.get(i)), default=None)
  if first is None:
    return
  one, other = names
  raise ValueError(
    f'The tokenizer of {other} differs from that of {one}: the first differing '
    f'id is {first}, {_token(left, first)} for {one} and '
    f'{_token(right, first)} for {other}; both need the same tokenizer.'
  )


def _token(vocabulary: dict[int, str], id_: int) -> str:
  return repr(vocabulary[id_]) if id_ in vocabulary else 'missing'
