"""Log probabilities of an answer's tokens, as its reader gets them."""

import dataclasses
from typing import Any

import numpy as np

from specjax import pieces
from specjax import validation
from specjax.decoding import log_probs


@dataclasses.dataclass(frozen=True)
class Logprob:
  """A token and its log probability under the target as it is.

  Attributes:
    id: id of the token.
    text: text of the token alone; without a tokenizer its id.
    logprob: log probability of the token behind those before it.
    top: the likeliest tokens in its place, the likeliest first.
  """

  id: int
  text: str
  logprob: float
  top: tuple['Logprob', ...] = ()

  def as_dict(self) -> dict[str, Any]:
    """The entry of a JSON line."""
    made = {'id': self.id, 'token': self.text, 'logprob': self.logprob}
    if self.top:
      made['top'] = [one.as_dict() for one in self.top]
    return made


def check(number: Any, beams: int) -> None:
  """Refuses a number of likeliest tokens that cannot be.

  Args:
    number: the setting; None is off.
    beams: hypotheses of a beam search.

  Raises:
    ValueError: one sentence.
  """
  if number is None:
    return
  validation.each_whole('logprobs', number, 0)
  if np.ndim(number):
    raise ValueError(f'logprobs takes one value, not {len(number)}.')
  if beams > 1:
    raise ValueError(
      f'A beam search (num_beams={beams}) has a score and no log probabilities '
      'of tokens; leave logprobs out.'
    )


def check_vocabulary(number: int | None, vocab_size: int) -> None:
  """Refuses more likeliest tokens than there are.

  Args:
    number: the setting; None is off.
    vocab_size: V of the target.

  Raises:
    ValueError: one sentence.
  """
  if number is not None and number > vocab_size:
    raise ValueError(
      f'logprobs={number} asks for more tokens than the {vocab_size} of the '
      f"target's vocabulary; give {vocab_size} or fewer."
    )


def of_row(
  tokenizer: Any, found: log_probs.LogProbs, place: int, tokens: list[int]
) -> tuple[Logprob, ...]:
  """Log probabilities of one answer's tokens.

  Args:
    tokenizer: tokenizer of the target, or None.
    found: those of a batch, as arrays of numpy.
    place: number of the answer in its batch.
    tokens: its ids; what was generated behind them does not count.
  """
  end = len(tokens)
  return of_arrays(
    tokenizer,
    tokens,
    found.chosen[place, :end],
    found.best[place, :end],
    found.best_ids[place, :end],
  )


def of_arrays(
  tokenizer: Any,
  tokens: list[int],
  chosen: np.ndarray,
  best: np.ndarray,
  best_ids: np.ndarray,
) -> tuple[Logprob, ...]:
  """Log probabilities of a row of tokens.

  Args:
    tokenizer: a tokenizer, or None.
    tokens: n ids.
    chosen: float32 [n], their log probabilities.
    best: float32 [n, N], those of the likeliest tokens.
    best_ids: int32 [n, N], ids of these.
  """
  # Ids and texts as one row, since each call of a tokenizer takes time:
  # tokens [5 6], best_ids [[5 7] [8 6]]: [5 6 5 7 8 6]
  every = [*tokens, *best_ids.ravel().tolist()]
  texts = iter(pieces.texts(tokenizer, every))
  own = [next(texts) for _ in tokens]
  made = []
  for token, text, value, ids, values in zip(
    tokens, own, chosen, best_ids, best, strict=True
  ):
    top = tuple(
      Logprob(int(id_), next(texts), float(one))
      for id_, one in zip(ids, values, strict=True)
    )
    made.append(Logprob(token, text, float(value), top))
  return tuple(made)
