"""Values of a GGUF file's metadata, checked and named as they are asked for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_MISSING = object()


class Metadata(NamedTuple):
  """The settings of one model.

  Attributes:
    path: the file, for messages.
    arch: architecture, with which names of settings begin.
    values: {key: value}.
    tensors: {name: shape}.
    factors: values of `rope_freqs.weight`, or None where there is none.
  """

  path: str
  arch: str
  values: Mapping[str, Any]
  tensors: Mapping[str, tuple]
  factors: Any = None

  def has(self, name: str) -> bool:
    """Whether a setting is there."""
    return self.key(name) in self.values

  def key(self, name: str) -> str:
    """A setting's whole name: 'block_count' is 'llama.block_count'."""
    # 'tokenizer.ggml.pre' and 'general.type' belong to no architecture.
    whole = name.startswith(('tokenizer.', 'general.', 'split.'))
    return name if whole else f'{self.arch}.{name}'

  def get(self, name: str, default: Any = _MISSING) -> Any:
    """A value.

    Raises:
      ValueError: it is missing, and no default is given.
    """
    if not self.has(name):
      if default is _MISSING:
        raise ValueError(
          f'{self.path} lacks {self.key(name)} in its metadata, which a model '
          f'of the architecture {self.arch} needs.'
        )
      return default
    return self.values[self.key(name)]

  def whole(self, name: str, default: Any = _MISSING) -> int:
    """A whole number; of a list with one for each layer, the one of all.

    Raises:
      ValueError: it is missing, another kind of value, or differs by layer.
    """
    given = self.get(name, default)
    if isinstance(given, np.ndarray):
      if len(set(given.tolist())) != 1:
        raise ValueError(
          f'{self.key(name)} in {self.path} differs by layer, which is not '
          'supported; only one value for all layers is.'
        )
      given = given[0].item()
    if given is not default and type(given) is not int:
      raise self._wrong(name, 'a whole number', given)
    return given

  def number(self, name: str, default: Any = _MISSING) -> float:
    """A number.

    Raises:
      ValueError: it is missing, or another kind of value.
    """
    given = self.get(name, default)
    if given is default:
      return given
    if type(given) not in (int, float):
      raise self._wrong(name, 'a number', given)
    # Stored in float32: 1e-05 comes back as 9.999999747378752e-06, which a
    # second rounding to the shortest decimal number undoes.
    return float(str(np.float32(given)))

  def text(self, name: str, default: Any = _MISSING) -> str:
    """A string.

    Raises:
      ValueError: it is missing, or another kind of value.
    """
    given = self.get(name, default)
    if given is not default and not isinstance(given, str):
      raise self._wrong(name, 'a string', given)
    return given

  def flag(self, name: str, default: bool) -> bool:
    """A truth value.

    Raises:
      ValueError: it is another kind of value.
    """
    given = self.get(name, default)
    if not isinstance(given, bool):
      raise self._wrong(name, 'true or false', given)
    return given

  def texts(self, name: str) -> list[str]:
    """A list of strings.

    Raises:
      ValueError: it is missing, or another kind of value.
    """
    given = self.get(name)
    if not isinstance(given, list):
      raise self._wrong(name, 'a list of strings', given)
    return given

  def numbers(self, name: str, count: int) -> np.ndarray:
    """A list of `count` numbers, [count].

    Raises:
      ValueError: it is missing, another kind of value, or of another length.
    """
    given = self.get(name)
    if not isinstance(given, np.ndarray) or len(given) != count:
      raise self._wrong(name, f'a list of {count} numbers', given)
    return given

  def refuse(self, name: str, *allowed: Any) -> None:
    """Raises ValueError unless a setting is missing or one of some values."""
    given = self.get(name, None)
    if isinstance(given, np.ndarray):  # One for each layer.
      given = given.tolist()
    if given is not None and given not in allowed:
      raise ValueError(
        f'{self.key(name)}={given} in {self.path} is not supported; only '
        f'{" or ".join(map(str, allowed)) or "files without it"} is.'
      )

  def _wrong(self, name, kind, given) -> ValueError:
    shown = repr(given)
    shown = shown if len(shown) < 60 else f'{shown[:57]}...'
    return ValueError(
      f'{self.key(name)} in {self.path} must be {kind}, not {shown}.'
    )
