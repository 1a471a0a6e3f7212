"""Precision of float32 products: float32 on every platform.

Unless a program asks otherwise, XLA multiplies float32 matrices in passes of
bfloat16 on TPUs and in TF32 on GPUs, which changes greedy tokens. Decoding in
float32 therefore asks for the highest precision. It belongs to the traced
program: nothing is set for the process, and a caller's own setting stays.
"""

from collections.abc import Callable
import contextlib
import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from specjax import base
from specjax.models.common import quantize

HIGHEST, DEFAULT = 'highest', 'default'
MODES = (HIGHEST, DEFAULT)
_SCALES = (quantize.WEIGHTS, quantize.W8A8)

_Function = TypeVar('_Function', bound=Callable)


def scope(mode: str, params: base.PyTree) -> contextlib.AbstractContextManager:
  """The context in which a program that uses a target is traced.

  Args:
    mode: one of `MODES`.
    params: the target's parameters; unless they are float32, XLA decides.
  """
  return at(mode if is_float32(params) else DEFAULT)


def at(mode: str) -> contextlib.AbstractContextManager:
  """The context in which any program is traced at a precision.

  Args:
    mode: one of `MODES`.
  """
  if mode == DEFAULT:
    return contextlib.nullcontext()
  return jax.default_matmul_precision(mode)


def scoped(function: _Function) -> _Function:
  """Traces `function(recipe, params, ...)` at the recipe's precision."""

  @functools.wraps(function)
  def traced(recipe, params, *args: Any, **kwargs: Any):
    with scope(recipe.matmul_precision, params.target):
      return function(recipe, params, *args, **kwargs)

  return traced


@functools.cache
def of_lm(lm: base.CachedLM, mode: str) -> base.CachedLM:
  """A target for callers without a recipe, at a precision.

  Args:
    lm: the target.
    mode: one of `MODES`.
  """

  def prefill(params, *args, **kwargs):
    with scope(mode, params):
      return lm.prefill(params, *args, **kwargs)

  def extend(params, *args, **kwargs):
    with scope(mode, params):
      return lm.extend(params, *args, **kwargs)

  return lm._replace(prefill=prefill, extend=extend)


def is_float32(params: base.PyTree) -> bool:
  """Whether a model computes in float32.

  Weights alone in eight bits are float32 in a product; with `w8a8`, products
  are of integers.

  Args:
    params: arrays or their shapes; without any of floating point, as where a
      function holds its own weights, the answer is True.
  """
  # {'norm': bfloat16 [8], 'dense': {'weight': int8 [8, 8], 'scale': float32
  # [8]}} is bfloat16: scales are always float32.
  kinds = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = getattr(path[-1], 'key', None) if path else None
    if name == quantize.W8A8:
      return False
    if name not in _SCALES and jnp.issubdtype(leaf.dtype, jnp.floating):
      kinds.append(leaf.dtype)
  return not kinds or jnp.dtype(jnp.float32) in kinds
