"""Rotary positions in config.json, both ways: transformers 4 and 5.

The older files have `rope_theta` and `rope_scaling`, the newer ones
`rope_parameters`.
"""

from collections.abc import Mapping
import dataclasses
import math

from specjax import validation
from specjax.models.common.rope import Rope

# The numbers that a kind of rotary positions needs.
_ROPE_KINDS = {
  'default': (),
  'linear': ('factor',),
  'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  'yarn': ('factor', 'beta_fast', 'beta_slow', 'attention_factor'),
}

# Types of layers, in the order in which settings of both are returned.
_LAYERS = ('full_attention', 'sliding_attention')


def read(config: Mapping) -> tuple:
  """Returns the rotary settings of (full layers, windowed layers or None).

  A file with both spellings is read as transformers 5 reads it: a
  `rope_scaling` that is not empty replaces `rope_parameters` as a whole; of
  Gemma 3 it is laid over those of the full layers.
  """
  kind = config['model_type']
  _check_partial(config)
  given = config.get('rope_parameters') or {}
  older = config.get('rope_scaling') or {}
  if kind == 'gemma3_text':
    return _by_layer(given, older, config)
  _check_flat(older or given, kind)
  # Phi's spelling, which transformers 5 reads of every model.
  outer = 'original_max_position_embeddings'
  moved = {outer: config[outer]} if outer in config else {}
  theta = config.get('rope_theta', 5e5 if kind == 'bitnet' else 1e4)
  return _rope((older or given) | moved, theta, config), None


def _by_layer(given, older, config) -> tuple:
  """The settings of Gemma 3, which has some for each type of layer."""
  if given and not set(given) & set(_LAYERS):
    raise ValueError(
      f'rope_parameters of gemma3_text must hold {" and ".join(_LAYERS)}, not '
      f'{", ".join(given)}.'
    )
  full, local = (given.get(name) or {} for name in _LAYERS)
  for name, settings in zip(_LAYERS, (full, local), strict=True):
    if not isinstance(settings, dict):
      raise ValueError(
        f'rope_parameters.{name} must be an object with a rope_type, not '
        f'{settings!r}.'
      )
  if not full:
    full = {'rope_type': 'default'}
  # transformers 5 reads it beside the layers, and writes it inside of them.
  if not all(x.get('truncate', True) for x in (given, full, local, older)):
    raise ValueError('truncate=false is not supported in a gemma3_text model.')
  return (
    _rope(full | older, config.get('rope_theta', 1e6), config),
    _rope(local, config.get('rope_local_base_freq', 1e4), config),
  )


def _check_flat(settings, kind) -> None:
  """Raises ValueError for settings by layer, which only Gemma 3 has."""
  for name in _LAYERS:
    if name in settings:
      raise ValueError(
        f'rotary settings of their own for {name} are not supported in a '
        f'{kind} model; give one object with a rope_type.'
      )


def _check_partial(settings) -> None:
  part = settings.get('partial_rotary_factor')
  if part not in (None, 1):
    raise ValueError(
      f'partial_rotary_factor is not supported; only 1.0 is, not {part!r}.'
    )


def _rope(settings, theta, config) -> Rope:
  kind = settings.get('rope_type', settings.get('type', 'default'))
  if not isinstance(kind, str) or kind not in _ROPE_KINDS:
    raise ValueError(
      f'rope type {kind!r} is not supported; supported are '
      f'{", ".join(_ROPE_KINDS)}.'
    )
  _check_partial(settings)
  original = settings.get(
    'original_max_position_embeddings', config['max_position_embeddings']
  )
  if kind in ('llama3', 'yarn'):
    for name, value in (
      ('max_position_embeddings', config['max_position_embeddings']),
      ('original_max_position_embeddings', original),
    ):
      validation.whole(name, value, 1)
  if kind == 'yarn':
    settings = _yarn(settings, config['max_position_embeddings'] / original)
  given = {'rope_theta': settings.get('rope_theta', theta)}
  given |= {name: settings.get(name) for name in _ROPE_KINDS[kind]}
  for name, value in given.items():
    validation.number(name, value)
    validation.positive(name, value)
  rope = Rope(float(given.pop('rope_theta')), kind)
  rope = dataclasses.replace(rope, **{k: float(v) for k, v in given.items()})
  if kind in ('default', 'linear'):
    return rope
  if kind == 'llama3' and rope.high_freq_factor <= rope.low_freq_factor:
    raise ValueError(
      f'high_freq_factor must exceed low_freq_factor ({rope.low_freq_factor}), '
      f'not {rope.high_freq_factor}.'
    )
  return dataclasses.replace(
    rope,
    original_max_position_embeddings=original,
    truncate=settings.get('truncate', True),
  )


def _yarn(settings: dict, stretched: float) -> dict:
  """`settings` with what they leave out."""
  made = {'beta_fast': 32.0, 'beta_slow': 1.0, 'factor': stretched}
  made |= {key: x for key, x in settings.items() if x is not None}
  if 'attention_factor' in made:
    return made
  over, under = (made.get(key) for key in ('mscale', 'mscale_all_dim'))
  if not (over and under):
    over, under = 1.0, 0.0
  for name in ('factor', 'mscale', 'mscale_all_dim'):
    validation.number(name, made.get(name, 0.0))
  stretch = 0.1 * math.log(max(made['factor'], 1.0))
  factor = (over * stretch + 1.0) / (under * stretch + 1.0)
  return made | {'attention_factor': factor}


def write(rope: Rope) -> dict:
  """`rope_parameters` of rotary settings."""
  made = {'rope_type': rope.kind, 'rope_theta': rope.theta}
  made |= {name: getattr(rope, name) for name in _ROPE_KINDS[rope.kind]}
  if rope.kind in ('llama3', 'yarn'):
    made['original_max_position_embeddings'] = (
      rope.original_max_position_embeddings
    )
  if rope.kind == 'yarn':
    made['truncate'] = rope.truncate
  return made
