"""Values that settings of decoding may have."""

from collections.abc import Callable, Collection
import functools
from typing import Any

import numpy as np

from specjax import validation
from specjax.inference import each
from specjax.inference import logprobs
from specjax.inference import token_lists

# Settings that name tokens, and the functions that read them.
LISTS: dict[str, Callable[[str, Any], Any]] = {
  'stop_token_ids': token_lists.ids,
  'suppress_tokens': token_lists.ids,
  'logit_bias': token_lists.biases,
  'bad_words': token_lists.words,
}

# Settings that a beam search does not follow, and their values in one.
NOT_WITH_BEAMS = {
  'temperature': 0,
  'repetition_penalty': 1,
  'no_repeat_ngram_size': 0,
  'presence_penalty': 0,
  'frequency_penalty': 0,
  'min_new_tokens': 0,
  'logit_bias': 'empty',
  'suppress_tokens': 'empty',
  'bad_words': 'empty',
}

AUTO = 'auto'
# Words that may stand in the place of a number.
WORDS = {'batch_size': (AUTO,)}

# Least values of whole numbers.
WHOLE = {
  'num_draft': 0,
  'corpus_tokens': 2,
  'top_k': 0,
  'no_repeat_ngram_size': 0,
  'num_beams': 1,
  'min_new_tokens': 0,
  'max_new_tokens': 0,
  'num_return_sequences': 1,
  'batch_size': 1,
  'window': 1,
  'prefill_chunk': 1,
  'seed': 0,
}

_CHANGE = (
  lambda v: abs(v) <= token_lists.LARGEST_CHANGE,
  'a number from -1e30 to 1e30',
)

# Numbers: whether one may stand, and which may.
REAL: dict[str, tuple[Callable[[float], bool], str]] = {
  'temperature': (lambda v: 0 <= v < np.inf, '0 or more'),
  'top_p': (lambda v: 0 < v <= 1, 'above 0 and at most 1'),
  'min_p': (lambda v: 0 <= v <= 1, 'between 0 and 1'),
  'repetition_penalty': (lambda v: 1e-30 <= v <= 1e30, 'from 1e-30 to 1e30'),
  'presence_penalty': _CHANGE,
  'frequency_penalty': _CHANGE,
  'length_penalty': (lambda v: abs(v) < np.inf, 'a number'),
}


def check(settings: Any, per_prompt: Collection[str]) -> None:
  """Refuses values out of range.

  Args:
    settings: `DecodeConfig`.
    per_prompt: names of settings that may have a value for each prompt.

  Raises:
    ValueError: names the first bad value.
  """
  for name in (*WHOLE, *REAL):
    given = settings.in_force(name)
    if np.ndim(given) and name not in per_prompt:
      raise ValueError(f'{name} takes one value, not {len(given)}.')
    if not isinstance(given, str) or given not in WORDS.get(name, ()):
      check_value(name, given)
  for name, parse in LISTS.items():
    each.mapped(settings.in_force(name), functools.partial(parse, name))
  logprobs.check(settings.logprobs, settings.num_beams)


def check_value(name: str, value: Any) -> None:
  """Refuses a number, or one of several, that a setting may not have.

  Args:
    name: name of the setting.
    value: a number, a sequence of them, or `Each`.

  Raises:
    ValueError: names the setting and the first bad value.
  """
  for one in each.values(value):
    if name in WHOLE:
      validation.each_whole(name, one, WHOLE[name])
    else:
      validation.each(name, one, *REAL[name])


def check_beams(settings: Any) -> None:
  """Refuses settings that a beam search does not follow.

  Args:
    settings: `DecodeConfig`.

  Raises:
    ValueError: names the first of them.
  """
  if settings.num_beams == 1:
    return
  for name, plain in NOT_WITH_BEAMS.items():
    given = settings.in_force(name)
    if name in LISTS:
      changed = any(bool(LISTS[name](name, one)) for one in each.values(given))
    else:
      changed = bool(np.any(np.asarray(given) != plain))
    if changed:
      raise ValueError(
        f'A beam search (num_beams={settings.num_beams}) scores the target as '
        f'it is; leave {name} {"at " * (name not in LISTS)}{plain}.'
      )
  if settings.num_return_sequences > settings.num_beams:
    raise ValueError(
      f'num_return_sequences is {settings.num_return_sequences}, but a search '
      f'with num_beams={settings.num_beams} has no more answers than beams.'
    )
