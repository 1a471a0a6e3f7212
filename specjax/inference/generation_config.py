"""Settings from a model's generation_config.json, where a user gives none.

Published models state there how they want to be decoded. Whatever shapes the
distribution without a draw is taken by default. How to draw is the caller's
choice: greedy decoding stays greedy unless asked otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple
import warnings

import numpy as np

from specjax import validation
from specjax.checkpoints import model as model_lib
from specjax.inference import token_lists
from specjax.inference import value_ranges
from specjax.inference.config import DecodeConfig

_FILE = 'generation_config.json'


class Taken(NamedTuple):
  """The part of a generation_config.json that is in force.

  Attributes:
    values: values taken, under their names in the file.
    ignored: names of the values that are not.
  """

  values: dict[str, Any]
  ignored: tuple[str, ...]


def _number(name: str, value: Any) -> Any:
  """A number within the range of the setting of that name."""
  if name in value_ranges.REAL:
    validation.number(name, value)
    validation.each(name, value, *value_ranges.REAL[name])
  else:
    lowest = value_ranges.WHOLE.get(name, 0)
    if isinstance(value, list):
      raise ValueError(f'{name} must be a whole number, not {value!r}.')
    validation.each_whole(name, value, lowest)
  return value


def _flag(name: str, value: Any) -> bool:
  if not isinstance(value, bool):
    raise ValueError(f'{name} must be true or false, not {value!r}.')
  return value


def _ids(name: str, value: Any) -> tuple[int, ...]:
  if not isinstance(value, list):
    raise ValueError(f'{name} must be a list of token ids, not {value!r}.')
  return token_lists.ids(name, value)


def _words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
  if not isinstance(value, list):
    raise ValueError(
      f'{name} must be a list of lists of token ids, not {value!r}.'
    )
  words = tuple(_ids(name, word) for word in value)
  if not all(words):
    raise ValueError(f'{name} must not hold an empty list.')
  return words


class _Entry(NamedTuple):
  """A value of the file: its setting, and the function that checks it."""

  setting: str
  read: Callable[[str, Any], Any] = _number


_SAFE = {
  'repetition_penalty': _Entry('repetition_penalty'),
  'no_repeat_ngram_size': _Entry('no_repeat_ngram_size'),
  'suppress_tokens': _Entry('suppress_tokens', _ids),
  'bad_words_ids': _Entry('bad_words', _words),
  'min_new_tokens': _Entry('min_new_tokens'),
  'min_length': _Entry('min_new_tokens'),
}
_SAMPLING = {
  'do_sample': _Entry('temperature', _flag),
  'temperature': _Entry('temperature'),
  'top_k': _Entry('top_k'),
  'top_p': _Entry('top_p'),
  'min_p': _Entry('min_p'),
}
# Values of other settings of transformers that change no token; any other is
# ignored, and named.
_NEUTRAL = {
  'begin_suppress_tokens': (None,),
  'encoder_no_repeat_ngram_size': (None, 0),
  'encoder_repetition_penalty': (None, 1),
  'epsilon_cutoff': (None, 0),
  'eta_cutoff': (None, 0),
  'exponential_decay_length_penalty': (None,),
  'forced_bos_token_id': (None,),
  'forced_eos_token_id': (None,),
  'guidance_scale': (None, 1),
  'num_beams': (None, 1),
  'sequence_bias': (None,),
  'stop_strings': (None,),
  'typical_p': (None, 1),
}


def decide(config: DecodeConfig, model: model_lib.Model) -> Taken:
  """Chooses what is taken from a model's file.

  Args:
    config: settings of the user, None where nothing is given.
    model: the target.

  Raises:
    ValueError: a value that would be taken is none that it may have.
  """
  file = model.generation_config or {}
  mode = config.generation_config
  if mode == 'none':
    return Taken({}, ())
  try:
    values = _chosen(config, file, mode)
  except ValueError as error:
    raise ValueError(f'{_FILE} of {model.name}: {error}') from None
  open_ = {k: v for k, v in _NEUTRAL.items() if file.get(k) not in v}
  given = {k for k in (_SAFE | _SAMPLING) if file.get(k) is not None}
  if config.num_beams == 1:
    # What the user has set, or what changes nothing, is no loss.
    given -= set(_SAFE | _SAMPLING if mode == 'model' else _SAFE)
  else:
    open_.pop('num_beams', None)
  order = [*_SAFE, *_SAMPLING, *_NEUTRAL]
  ignored = sorted(given | set(open_), key=order.index)
  return Taken(values, tuple(ignored))


def _chosen(
  config: DecodeConfig, file: Mapping[str, Any], mode: str
) -> dict[str, Any]:
  """The checked values that are taken."""
  if config.num_beams > 1:
    return {}
  entries = dict(_SAFE)
  if file.get('min_new_tokens') is not None:
    del entries['min_length']  # As in transformers.
  if mode == 'model':
    entries |= _SAMPLING
  found = {
    name: entry.read(name, file[name])
    for name, entry in entries.items()
    if file.get(name) is not None and getattr(config, entry.setting) is None
  }
  if mode != 'model':
    sampled = False
  elif config.temperature is None:
    # transformers is greedy unless do_sample is true, and samples at 1.
    sampled = found.pop('do_sample', False)
    found['temperature'] = found.get('temperature', 1.0) if sampled else 0.0
  else:
    sampled = bool(np.any(np.asarray(config.temperature) > 0))
  if not sampled:
    for name in ('top_k', 'top_p', 'min_p'):
      found.pop(name, None)
  usual = {
    name: validation.default_of(config, entries[name].setting) for name in found
  }
  return {
    name: value
    for name, value in found.items()
    if value not in (usual[name], ())
  }


def apply(
  config: DecodeConfig,
  model: model_lib.Model,
  encoded: Sequence[tuple[str, Sequence[int]]],
) -> tuple[DecodeConfig, Taken]:
  """Fills in what the user leaves open: by the model's file, else by default.

  Args:
    config: `DecodeConfig`.
    model: the target.
    encoded: (text to show, ids) of every prompt; min_length counts these too.

  Returns:
    (the config with every value given, what was taken for it).

  Raises:
    ValueError: one sentence that names the file and the value.
  """
  taken = decide(config, model)
  vocab_size = model.lm.vocab_size
  changes: dict[str, Any] = {}
  for name, value in taken.values.items():
    if name == 'min_length':
      # A decoder starts behind its prompt, or behind one start token.
      own = [len(tokens) for _, tokens in encoded]
      own = [1] * len(own) if model.lm.is_encoder_decoder else own
      least = [max(value - length, 0) for length in own]
      value = least[0] if len(set(least)) == 1 else np.asarray(least or [0])
      changes['min_new_tokens'] = value
      continue
    # Ids beyond the vocabulary are never generated anyway.
    if name == 'suppress_tokens':
      value = tuple(token for token in value if token < vocab_size)
    elif name == 'bad_words_ids':
      value = tuple(word for word in value if max(word) < vocab_size)
    changes[(_SAFE | _SAMPLING)[name].setting] = value
  filled = dataclasses.replace(config, **changes).filled()
  # What the file leaves as it is has been checked; only with `model` are
  # several answers at temperature 0 refused no earlier.
  if changes or config.generation_config == 'model':
    try:
      filled.validate()
    except ValueError as error:
      raise ValueError(f'{_FILE} of {model.name}: {error}') from None
  line = describe(taken, model.name)
  if line:
    warnings.warn(line, stacklevel=2)
  return filled, taken


def describe(taken: Taken, name: str) -> str:
  """One line on what is taken; '' where the file has nothing of the kind.

  Args:
    taken: result of `decide`.
    name: name of the model.
  """
  parts = []
  if taken.values:
    shown = _listed([_shown(*item) for item in taken.values.items()])
    verb = 'are' if len(taken.values) > 1 else 'is'
    parts.append(f'{shown} {verb} applied')
  if taken.ignored:
    verb = 'are' if len(taken.ignored) > 1 else 'is'
    parts.append(f'{_listed(taken.ignored)} {verb} ignored')
  if not parts:
    return ''
  return (
    f'{_FILE} of {name}: {"; ".join(parts)} (generation_config=model takes the '
    'sampling settings too, none takes nothing).'
  )


def _shown(name: str, value: Any) -> str:
  if isinstance(value, tuple):
    return f'{name} ({len(value)})'
  return f'{name}={value}'


def _listed(names: Sequence[str]) -> str:
  """'a', 'a and b', or 'a, b and c'."""
  *first, last = names
  return f'{", ".join(first)} and {last}' if first else last
