"""Settings of what an answer holds beside its tokens."""

import dataclasses


@dataclasses.dataclass
class AnswerSettings:
  """Settings of what stands in an answer.

  Attributes:
    logprobs: number of likeliest tokens whose log probabilities stand in an
      answer beside those of its own tokens, 0 or more; None computes none. They
      are the target's own, before temperature, penalties and filters.
    skip_special_tokens: whether special tokens, such as the end token, are left
      out of an answer's text. Stop strings end an answer in the same place.
  """

  logprobs: int | None = None
  skip_special_tokens: bool = True
