"""Rotary positions in GGUF: metadata, and llama3's scaling as a tensor.

Llama 3's scaling is no metadata: the file has `rope_freqs.weight`, by which the
wavelength of each frequency is multiplied.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from specjax.checkpoints.gguf_metadata import Metadata
from specjax.models.common import rope as rope_lib

FACTORS = 'rope_freqs.weight'


def read(meta: Metadata, head_dim: int, theta: float = 10000.0) -> dict:
  """`rope_parameters` of config.json.

  Args:
    meta: metadata of a model.
    head_dim: width of a head.
    theta: base of the frequencies where the file states none.

  Raises:
    ValueError: a kind of scaling that is not supported.
  """
  meta.refuse('rope.dimension_count', head_dim)
  theta = meta.number('rope.freq_base', theta)
  made = {'rope_type': 'default', 'rope_theta': theta}
  if meta.factors is not None:
    return made | llama3(meta, theta, head_dim)
  factor = meta.number('rope.scaling.factor', 0.0)
  factor = factor or meta.number('rope.scale_linear', 0.0) or 1.0
  # As in llama.cpp, a factor without a type is linear.
  kind = meta.text('rope.scaling.type', 'linear')
  readers = {'none': _none, 'linear': _linear, 'yarn': _yarn}
  if kind not in readers:
    raise ValueError(
      f'{meta.key("rope.scaling.type")}={kind!r} in {meta.path} is not '
      f'supported; supported are {", ".join(readers)}.'
    )
  return made | readers[kind](meta, factor)


def _none(meta, factor) -> dict:
  return {}


def _linear(meta, factor) -> dict:
  return {} if factor == 1 else {'rope_type': 'linear', 'factor': factor}


def _yarn(meta, factor) -> dict:
  for name, usual in (('yarn_ext_factor', (1, -1)), ('attn_factor', (1,))):
    meta.refuse(f'rope.scaling.{name}', *usual)
  meta.refuse('rope.scaling.yarn_log_multiplier', 0)
  made = {
    'rope_type': 'yarn',
    'factor': factor,
    'original_max_position_embeddings': meta.whole(
      'rope.scaling.original_context_length'
    ),
  }
  for name, key in (
    ('yarn_attn_factor', 'attention_factor'),
    ('yarn_beta_fast', 'beta_fast'),
    ('yarn_beta_slow', 'beta_slow'),
  ):
    given = meta.number(f'rope.scaling.{name}', -1.0)
    if given >= 0:
      made[key] = given
  return made


def llama3(meta: Metadata, theta: float, head_dim: int) -> dict:
  """The settings of llama3's scaling that give the factors of a file.

  Args:
    meta: metadata with `factors`.
    theta: base of the frequencies.
    head_dim: width of a head.

  Raises:
    ValueError: no such settings do.
  """
  # Wavelengths up to one bound are kept, those from another one on stretched by
  # the largest factor, those between mixed: kept is straight in 1/wavelength.
  # In:  factors [1 1 1.6 8]
  # Out: kept    [1 1 0.57 0]
  factors = np.asarray(meta.factors, np.float64)
  if factors.shape != (head_dim // 2,) or not np.all(factors > 0):
    raise ValueError(
      f'{FACTORS} in {meta.path} must hold {head_dim // 2} positive factors, '
      f'one for each frequency of a head, not {list(factors.shape)}.'
    )
  factor = factors.max()
  if np.ptp(factors) == 0:
    return _linear(meta, float(factor))
  turns = theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
  kept = (1 / factors - 1 / factor) / (1 - 1 / factor)
  context, high = _band(turns, kept)
  # Only ratios count; a file has a whole number of positions.
  for scale in (1, 2, 3, 4, 1024):
    made = {
      'rope_type': 'llama3',
      'factor': float(factor),
      'low_freq_factor': float(scale),
      'high_freq_factor': float(np.float32(high * scale)),
      'original_max_position_embeddings': round(context * scale),
    }
    if _gives(made, theta, head_dim, factors):
      return made
  raise ValueError(
    f'{FACTORS} in {meta.path} holds factors that llama3 scaling of rotary '
    'positions does not give; only that is supported.'
  )


def _band(turns, kept) -> tuple[float, float]:
  """(context, high_freq_factor) for a low_freq_factor of 1."""
  # kept = (context * turns - 1) / (high - 1), cut off at 0 and 1
  inner = (kept > 1e-5) & (kept < 1 - 1e-5)
  if inner.sum() >= 2:
    slope, offset = np.polyfit(turns[inner], kept[inner], 1)
    high = 1 - 1 / offset if offset < 0 else math.inf
    return slope * (high - 1), high
  if inner.sum() == 1:
    # One value leaves a choice: Llama's own ratio of both bounds.
    return float((3 * kept[inner][0] + 1) / turns[inner][0]), 4.0
  fast, slow = turns[kept >= 1 - 1e-5].min(), turns[kept <= 1e-5].max()
  context = math.ceil(1 / math.sqrt(fast * slow))
  return context, (1 + context * fast) / 2


def _gives(made, theta, head_dim, factors) -> bool:
  """Whether settings give the factors."""
  if not math.isfinite(made['high_freq_factor']):
    return False
  given = {key: value for key, value in made.items() if key != 'rope_type'}
  rope = rope_lib.Rope(theta, made['rope_type'], **given)
  plain = rope_lib.rope_frequencies(rope_lib.Rope(theta), head_dim)
  ours = rope_lib.rope_frequencies(rope, head_dim)
  return bool(np.allclose(plain / ours, factors, rtol=2e-5))


def write(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Metadata of `rope_parameters`, without the names' beginning.

  llama3's scaling is a tensor, of `factors`.
  """
  made: dict[str, Any] = {'rope.freq_base': float(settings['rope_theta'])}
  kind = settings.get('rope_type')
  if kind in ('linear', 'yarn'):
    made['rope.scaling.type'] = kind
    made['rope.scaling.factor'] = float(settings['factor'])
  if kind == 'yarn':
    made['rope.scaling.original_context_length'] = settings[
      'original_max_position_embeddings'
    ]
    made['rope.scaling.yarn_attn_factor'] = float(settings['attention_factor'])
    made['rope.scaling.yarn_beta_fast'] = float(settings['beta_fast'])
    made['rope.scaling.yarn_beta_slow'] = float(settings['beta_slow'])
  return made


def factors_of(settings: Mapping[str, Any], head_dim: int) -> np.ndarray | None:
  """float32 [head_dim / 2] for llama3's scaling, else None."""
  if settings.get('rope_type') != 'llama3':
    return None
  given = {key: x for key, x in settings.items() if key != 'rope_type'}
  theta = given.pop('rope_theta')
  rope = rope_lib.Rope(theta, 'llama3', **given)
  plain = rope_lib.rope_frequencies(rope_lib.Rope(theta), head_dim)
  return plain / rope_lib.rope_frequencies(rope, head_dim)
