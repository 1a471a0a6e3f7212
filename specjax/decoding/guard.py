"""Calls of user functions, whose errors name their place.

An error inside a drafter, a rule or a model of the user's own names the
function and the line that raised it.
"""

from collections.abc import Callable
import functools
import pathlib
import traceback
from typing import Any

from specjax import base
from specjax.decoding import contract
from specjax.decoding.drafters import drawing

# Files below the project's folder: a sentence raised there is meant for users.
_OURS = pathlib.Path(base.__file__).resolve().parents[1]


def call(
  which: str, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
  """Calls a function of the user's own.

  Args:
    which: the function, for messages, as 'Drafter.propose'.
    function: it.
    *args: its arguments.
    **kwargs: its keywords.

  Raises:
    ValueError: it raised something. Our own sentences pass through.
  """
  try:
    return function(*args, **kwargs)
  except Exception as error:
    # In a trace user code calls JAX, which may raise deep inside: the deepest
    # line outside of both is where the user has to look.
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, (ValueError, FileNotFoundError)) and _is_ours(
      frames[-1].filename
    ):
      raise
    words = ' '.join(str(error).split())
    kind = type(error).__name__
    raise ValueError(
      f'{which} raised {kind}{_place(frames)}: {words[:300] or "no message"}'
    ) from error


def _is_ours(file: str) -> bool:
  return _OURS in pathlib.Path(file).resolve().parents


def _place(frames) -> str:
  """The deepest line outside this library and installed packages."""
  for frame in reversed(frames):
    packages = '/site-packages/' in frame.filename
    if not packages and not _is_ours(frame.filename):
      return f' ({pathlib.Path(frame.filename).name}, line {frame.lineno})'
  return ''


def _check_functions(made: Any, which: str, needed: str, optional: str) -> None:
  """Raises ValueError where a field should be a function and is none."""
  for name in (*needed.split(), *optional.split()):
    value = getattr(made, name)
    if not callable(value) and (value is not None or name in needed.split()):
      raise ValueError(
        f'{which}.{name} must be a function, not {type(value).__name__}.'
      )


def _wrapped(made: Any, which: str, names: str) -> Any:
  return made._replace(
    **{
      name: functools.partial(call, f'{which}.{name}', getattr(made, name))
      for name in names.split()
      if getattr(made, name) is not None
    }
  )


@functools.cache
def drafter(made: base.Drafter) -> base.Drafter:
  """A drafter of the user's own with named errors; equal for equal ones.

  Raises:
    ValueError: a field is not what `base.Drafter` asks for.
  """
  needed, optional = 'init propose observe', 'is_idle insert network_cache'
  _check_functions(made, 'Drafter', needed, optional)
  for name in ('num_draft', 'max_path'):
    value = getattr(made, name)
    if type(value) is not int or value < 1:
      raise ValueError(
        f'Drafter.{name} must be a whole number, 1 or more, not {value!r}.'
      )
  return _wrapped(made, 'Drafter', f'{needed} {optional}')


@functools.cache
def verifier(made: base.Verifier) -> base.Verifier:
  """A rule of the user's own with named errors; equal for equal ones.

  Raises:
    ValueError: a field is not what `base.Verifier` asks for.
  """
  _check_functions(made, 'Verifier', 'verify', '')
  if made.noise not in drawing.NOISES:
    raise ValueError(
      f'Verifier.noise must be one of {", ".join(drawing.NOISES)}, not '
      f'{made.noise!r}.'
    )
  return _wrapped(made, 'Verifier', 'verify')


@functools.cache
def target(made: base.CachedLM) -> base.CachedLM:
  """A model of the user's own with named errors; equal for equal ones.

  What its functions return is checked while tracing, at no cost.
  """
  # Cached on the bundle: closures are keys of the compilation cache, so a new
  # wrapper around the same functions would compile everything again.
  named = _wrapped(
    made, 'CachedLM', 'prefill extend commit select keys_values insert'
  )

  def prefill(params, prompt, *, capacity):
    found = named.prefill(params, prompt, capacity=capacity)
    contract.check_prefilled(prompt.tokens.shape[0], found)
    return found

  def extend(params, cache, tokens, tree=None, slots=None):
    found = named.extend(params, cache, tokens, tree, slots)
    width = tokens.shape[1] if slots is None else slots.shape[1]
    shape = tokens.shape[0], width, made.vocab_size
    contract.check_scored(shape, cache, found)
    return found

  def commit(cache, num_tokens, path=None):
    found = named.commit(cache, num_tokens, path)
    contract.check_cache('CachedLM.commit', cache, found)
    return found

  def insert(cache, fresh, rows):
    found = named.insert(cache, fresh, rows)
    contract.check_cache('CachedLM.insert', cache, found)
    return found

  checked = named._replace(prefill=prefill, extend=extend, commit=commit)
  return checked if made.insert is None else checked._replace(insert=insert)
