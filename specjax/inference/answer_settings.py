"""Settings of what an answer holds and of what it answers."""

import dataclasses

from specjax import validation

TRUNCATE = ('none', 'left', 'right')


@dataclasses.dataclass
class AnswerSettings:
  """Settings of what stands in an answer.

  Attributes:
    logprobs: number of likeliest tokens whose log probabilities stand in an
      answer beside those of its own tokens, 0 or more; None computes none. They
      are the target's own, before temperature, penalties and filters.
    skip_special_tokens: whether special tokens, such as the end token, are left
      out of an answer's text. Stop strings end an answer in the same place.
    truncate: side on which a prompt loses the tokens that, with max_new_tokens,
      do not fit the target; none refuses the prompt. On the left a first token
      such as BOS stays in front of what is left.
  """

  logprobs: int | None = None
  skip_special_tokens: bool = True
  truncate: str = validation.choice('none', TRUNCATE)
