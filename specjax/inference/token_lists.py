"""Settings that name tokens: lists of ids, biases by id, and bad words.

A command line gives them as JSON. Their sizes and the target's vocabulary are
checked before anything is decoded.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import numbers
from typing import Any

import numpy as np

from specjax import files
from specjax import validation
from specjax.decoding import token_rows
from specjax.inference import each

# Largest change of a logit, in size. Sums of a few stay far below the largest
# float32, which is 3e38.
LARGEST_CHANGE = 1e30
Word = str | tuple[int, ...]


def ids(name: str, value: Any) -> tuple[int, ...]:
  """A list of token ids.

  Args:
    name: name of the setting.
    value: a sequence of ids, one id, JSON of either, or '' for none.

  Raises:
    ValueError: it is something else.
  """
  value = _parsed(name, value, 'a JSON list of token ids, as [5,6]')
  if isinstance(value, numbers.Integral):
    value = [value]
  return _checked_ids(name, value, 'a list of token ids, as [5,6]')


def biases(name: str, value: Any) -> dict[int, float]:
  """Numbers by token id.

  Args:
    name: name of the setting.
    value: a mapping of ids to numbers, JSON of one, whose keys are strings, or
      '' for none.

  Raises:
    ValueError: it is something else.
  """
  like = 'a map of token ids to numbers, as {"5": -2.5}'
  value = _parsed(name, value, like) or {}
  if not isinstance(value, Mapping):
    raise ValueError(f'{name} must be {like}, not {value!r}.')
  made: dict[int, float] = {}
  for key, bias in value.items():
    is_text = isinstance(key, str) and key.isascii() and key.isdigit()
    (token,) = _checked_ids(name, [int(key) if is_text else key], like)
    is_real = isinstance(bias, numbers.Real)
    if not is_real or isinstance(bias, bool) or not abs(bias) <= LARGEST_CHANGE:
      raise ValueError(
        f'{name} must hold numbers from -1e30 to 1e30, not {bias!r} for token '
        f'{token}; suppress_tokens forbids one.'
      )
    if token in made:
      raise ValueError(f'{name} has two values for token {token}; give one.')
    made[token] = float(bias)
  return made


def words(name: str, value: Any) -> tuple[Word, ...]:
  """Bad words: strings, and sequences of token ids.

  Args:
    name: name of the setting.
    value: a sequence of words, one string, JSON of either, or '' for none.

  Raises:
    ValueError: it is something else, or a word is empty.
  """
  like = 'a list of strings or of lists of token ids, as ["bad",[5,6]]'
  # 'bad' is one word, and what begins with [ is JSON of a list.
  if isinstance(value, str) and value and value[0] != '[':
    value = [value]
  value = _parsed(name, value, like)
  if not _is_list(value):
    raise ValueError(f'{name} must be {like}, not {value!r}.')
  made: list[Word] = []
  for word in value:
    made.append(
      word if isinstance(word, str) else _checked_ids(name, word, like)
    )
    if not len(word):
      raise ValueError(f'{name} must not hold an empty word.')
  return tuple(made)


def resolved(config: Any, model: Any) -> Any:
  """A config whose lists fit a target, with bad words as ids.

  Args:
    config: `DecodeConfig`.
    model: the target.

  Returns:
    The config; itself where it names no tokens.

  Raises:
    ValueError: an id is not in the vocabulary, there is no tokenizer for a
      word, or no token is left to generate.
  """
  read = {
    name: each.mapped(getattr(config, name), functools.partial(parse, name))
    for name, parse in _PARSERS.items()
  }
  if not any(any(map(len, each.values(value))) for value in read.values()):
    return config
  size = model.lm.vocab_size

  def known(name, given):
    if name == 'bad_words':
      given = _word_ids(given, model.tokenizer)
    for one in given if name == 'bad_words' else [given]:
      _check_vocabulary(name, one, size)
    return given

  found = {
    name: each.mapped(value, functools.partial(known, name))
    for name, value in read.items()
  }
  config = dataclasses.replace(config, **found)
  ends = config.end_ids(model.eos_ids)
  config = dataclasses.replace(
    config, bad_words=_without_ends(found['bad_words'], ends)
  )
  _check_any_left(config, ends, size)
  return config


def sizes(config: Any, model: Any) -> token_rows.Sizes:
  """The sizes that lists of tokens need in any batch.

  Args:
    config: result of `resolved`.
    model: the target.
  """
  ends = each.rows(config.end_ids(model.eos_ids), None)
  return token_rows.sizes(config.sampling(), ends)


# Functions that read settings which name tokens.
_PARSERS: dict[str, Callable[[str, Any], Any]] = {
  'stop_token_ids': ids,
  'suppress_tokens': ids,
  'logit_bias': biases,
  'bad_words': words,
}


def _without_ends(bad: Any, ends: Any) -> Any:
  """Bad words without end tokens alone, which are none, as in transformers."""

  def kept(place):
    own = each.at(ends, place)
    given = each.at(bad, place)
    return tuple(w for w in given if len(w) > 1 or w[0] not in own)

  return each.joined(kept, bad, ends)


def _word_ids(given: Sequence[Word], tokenizer: Any) -> list[tuple[int, ...]]:
  """Bad words as ids; a string as it begins a text and as it follows a space.

  In:  'bad', and a tokenizer of words with ▁ for a space
  Out: [(id of 'bad',), (id of '▁bad',)], or one if they are the same
  """
  made: list[tuple[int, ...]] = []
  for word in given:
    if not isinstance(word, str):
      made.append(word)
      continue
    if tokenizer is None:
      raise ValueError(
        f'bad_words has the string {word!r}, but the target has no tokenizer; '
        'give token ids.'
      )
    for text in (word, f' {word.lstrip()}'):
      validation.text(f'The bad word {word!a}', word)
      found = tokenizer(text, add_special_tokens=False, verbose=False)
      tokens = tuple(found.input_ids)
      if not tokens:
        raise ValueError(
          f'bad_words has {word!r}, which the tokenizer gives no tokens; leave '
          'it out.'
        )
      made.append(tokens)
  return list(dict.fromkeys(made))


def _check_any_left(config: Any, ends: Any, vocab_size: int) -> None:
  """Refuses settings that forbid every token."""

  def check(place):
    gone = set(each.at(config.suppress_tokens, place))
    words = each.at(config.bad_words, place)
    gone |= {word[0] for word in words if len(word) == 1}
    least = np.asarray(config.min_new_tokens)
    if np.any(least[place] if least.ndim and place >= 0 else least):
      own = each.at(ends, place)
      gone |= {token for token in own if 0 <= token < vocab_size}
    if len(gone) == vocab_size:
      raise ValueError(
        f'suppress_tokens, bad_words and min_new_tokens leave none of the '
        f'{vocab_size} tokens to generate; forbid fewer.'
      )

  each.joined(check, config.suppress_tokens, config.bad_words, ends)


def _check_vocabulary(name: str, given: Any, vocab_size: int) -> None:
  for token in given:
    if token >= vocab_size:
      raise ValueError(
        f'{name} has the token id {token}, but the target has the ids 0 to '
        f'{vocab_size - 1}.'
      )


def _checked_ids(name: str, value: Any, like: str) -> tuple[int, ...]:
  """Ids as plain integers."""
  if not _is_list(value):
    raise ValueError(f'{name} must be {like}, not {value!r}.')
  for token in value:
    is_whole = isinstance(token, numbers.Integral)
    if not is_whole or isinstance(token, bool) or not 0 <= token < 2**31:
      raise ValueError(f'{name} must be {like}, and {token!r} is no token id.')
  return tuple(int(token) for token in value)


def _is_list(value: Any) -> bool:
  is_row = isinstance(value, (Sequence, np.ndarray, set, frozenset))
  return is_row and not isinstance(value, (str, bytes))


def _parsed(name: str, value: Any, like: str) -> Any:
  """The value of JSON; other values as they are, and () for '' and None."""
  if value is None or (isinstance(value, str) and not value.strip()):
    return ()
  if not isinstance(value, str):
    return value
  try:
    return files.parse_json(value, unique=True)
  except ValueError as error:
    raise ValueError(
      f'{name} must be {like}, not {value!r}: {error}.'
    ) from None
