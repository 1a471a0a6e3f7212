"""Lists of tokens as padded arrays: one for all rows, or one for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from specjax import base
from specjax import text as text_lib


class PerRow(tuple):
  """A value for each row, of a setting whose values are lists themselves."""

  __slots__ = ()


class Sizes(NamedTuple):
  """Most entries of each list in any row of a job, so that no batch recompiles.

  Attributes:
    eos_ids, suppress_tokens, logit_bias, bad_words: number of entries.
    word: number of tokens of the longest bad word.
  """

  eos_ids: int = 0
  suppress_tokens: int = 0
  logit_bias: int = 0
  bad_words: int = 0
  word: int = 0


def values(value: Any) -> Sequence[Any]:
  """The lists of a setting: one, or one for each row."""
  return value if isinstance(value, PerRow) else (value,)


def is_used(value: Any) -> bool:
  """Whether the list of some row has an entry."""
  return any(map(len, values(value)))


def sizes(sampling: Any, eos_ids: Any) -> Sizes:
  """The sizes that the lists of all rows need.

  Args:
    sampling: `controls.Sampling` of a whole job.
    eos_ids: end tokens, one list or `PerRow`.
  """
  words = values(sampling.bad_words)
  return Sizes(
    _most(values(eos_ids)),
    _most(values(sampling.suppress_tokens)),
    _most(values(sampling.logit_bias)),
    _most(words),
    max(map(_most, words), default=0),
  )


def _most(lists: Sequence[Any]) -> int:
  return max(map(len, lists), default=0)


def eos(value: Any, size: int) -> np.ndarray:
  """int32 [E] or [B, E]: end tokens, -1 behind them."""
  return _stacked(value, lambda ids: _padded(ids, _bucket(size, 1)))


def lists(sampling: Any, spec: Any, size: Sizes) -> base.TokenLists | None:
  """The lists that a warp reads; None where it reads none.

  Args:
    sampling: `controls.Sampling` of the rows of a batch.
    spec: `warp.WarpSpec`.
    size: sizes of the job.
  """
  if not (spec.suppress_tokens or spec.logit_bias or spec.bad_words):
    return None
  suppressed = bias_ids = bias = words = None
  if spec.suppress_tokens:
    length = _bucket(size.suppress_tokens)
    suppressed = _stacked(
      sampling.suppress_tokens, lambda ids: _padded(ids, length)
    )
  if spec.logit_bias:
    width = _bucket(size.logit_bias)
    given = sampling.logit_bias
    bias_ids = _stacked(given, lambda one: _padded(list(one), width))
    bias = _stacked(given, lambda one: _biases(one, width))
  if spec.bad_words:
    shape = _bucket(size.bad_words), _bucket(size.word, 4)
    words = _stacked(sampling.bad_words, lambda one: _words(one, shape))
  return base.TokenLists(suppressed, bias_ids, bias, words)


def _stacked(value: Any, make: Callable[[Any], np.ndarray]) -> np.ndarray:
  """The array of a list, or those of all rows on top of each other."""
  if isinstance(value, PerRow):
    return np.stack([make(one) for one in value])
  return make(value)


def _bucket(count: int, least: int = 8) -> int:
  """The length that a list of `count` entries is padded to."""
  # 0 to 8: 8, 9 to 16: 16, 17 to 32: 32
  return max(least, text_lib.power_of_two(count))


def _padded(ids: Sequence[int], length: int) -> np.ndarray:
  """int32 ids with -1 behind them."""
  # [5, 6, 7], length 8: [5 6 7 -1 -1 -1 -1 -1]
  padded = np.full((length,), -1, np.int32)
  padded[: len(ids)] = list(ids)
  return padded


def _biases(given: Mapping[int, float], length: int) -> np.ndarray:
  bias = np.zeros((length,), np.float32)
  bias[: len(given)] = list(given.values())
  return bias


def _words(
  given: Sequence[Sequence[int]], shape: tuple[int, int]
) -> np.ndarray:
  words = np.full(shape, -1, np.int32)
  for row, word in zip(words, given, strict=False):
    row[len(row) - len(word) :] = word
  return words
