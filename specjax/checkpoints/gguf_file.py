"""GGUF files: metadata, tensors, and the values of quantised blocks.

A file is a magic, a version, two counts, the metadata, a row for each tensor
and the tensors, each at a multiple of the alignment. Metadata is read here and
not by `gguf.GGUFReader`, which takes seconds for a vocabulary and does not look
where the file ends. The types, their sizes and their values are gguf's.

References:
  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Mapping, Sequence
import functools
import math
import os
import struct
from typing import Any, NamedTuple

import gguf
from gguf import quants
import ml_dtypes
import numpy as np

from specjax.checkpoints.gguf_metadata import Metadata

_MAGIC = b'GGUF'
_VERSIONS = (2, 3)
# Bytes of a row of the smallest tensor or value: no file has more of them.
_SMALLEST = 12

_Value, _Type = gguf.GGUFValueType, gguf.GGMLQuantizationType
_SCALARS = {
  _Value.UINT8: '<u1',
  _Value.INT8: '<i1',
  _Value.UINT16: '<u2',
  _Value.INT16: '<i2',
  _Value.UINT32: '<u4',
  _Value.INT32: '<i4',
  _Value.FLOAT32: '<f4',
  _Value.BOOL: '?',
  _Value.UINT64: '<u8',
  _Value.INT64: '<i8',
  _Value.FLOAT64: '<f8',
}
# Types that are stored as they are, in numpy's words.
PLAIN = {
  _Type.F32: np.dtype('<f4'),
  _Type.F16: np.dtype('<f2'),
  _Type.BF16: np.dtype(ml_dtypes.bfloat16),
}


class Blocks(NamedTuple):
  """A tensor in a GGUF file.

  Attributes:
    path: file.
    kind: `gguf.GGMLQuantizationType`.
    shape: tuple of int, the slowest axis first, as in numpy.
    start: place of its first byte.
  """

  path: str
  kind: Any
  shape: tuple
  start: int

  @property
  def size(self) -> int:
    """Bytes."""
    block, width = gguf.GGML_QUANT_SIZES[self.kind]
    return math.prod(self.shape) // block * width


class Gguf(NamedTuple):
  """A GGUF file, or several that hold the parts of one model.

  Attributes:
    path: the file, or the first of them.
    paths: all files.
    values: {key: value} of the metadata; strings, numbers, bools, lists of
      strings, and arrays.
    tensors: {name: `Blocks`}.
  """

  path: str
  paths: tuple
  values: Mapping[str, Any]
  tensors: Mapping[str, Blocks]


class _Cut(ValueError):
  """The file ends early."""


def read(paths: Sequence[str]) -> Gguf:
  """Reads metadata and places of tensors; no tensor is read.

  Args:
    paths: the file of a model, or those of all its parts, in order.

  Raises:
    OSError, ValueError: one sentence naming what is wrong.
  """
  values, tensors = {}, {}
  for number, part in enumerate(paths):
    found, held = _read_one(part)
    meta = Metadata(part, '', found, {})
    count, own = meta.whole('split.count', 1) or 1, meta.whole('split.no', 0)
    if count != len(paths) or own != number:
      raise ValueError(
        f'{part} is part {own + 1} of {count} by its metadata, but part '
        f'{number + 1} of {len(paths)} by its name: give the parts the names '
        'that gguf-split gave them.'
      )
    twice = tensors.keys() & held.keys()
    if twice:
      raise ValueError(f'{part} holds {min(twice)}, as another part does.')
    tensors |= held
    # The first part describes the model, the others only themselves.
    values = found | values
  wanted = values.get('split.tensors.count', len(tensors))
  if wanted != len(tensors):
    raise ValueError(
      f'the parts of {paths[0]} hold {len(tensors)} tensors, not the {wanted} '
      'of their metadata.'
    )
  return Gguf(paths[0], tuple(paths), values, tensors)


def _read_one(path: str) -> tuple[dict, dict]:
  """Metadata and tensors of one file."""
  _check_head(path)
  if os.path.getsize(path) < 24:
    raise ValueError(f'{path} is cut off: a GGUF file has at least 24 bytes.')
  data = np.memmap(path, np.uint8, 'r')
  try:
    return _Reader(path, data).whole()
  except (_Cut, UnicodeDecodeError, struct.error, OverflowError) as error:
    raise ValueError(
      f'{path} is not a whole GGUF file ({error}): copy it again.'
    ) from None


def _check_head(path: str) -> None:
  """Raises ValueError unless the first bytes are those of a readable file."""
  with open(path, 'rb') as file:
    head = file.read(8)
  if head[:4] != _MAGIC:
    raise ValueError(
      f'{path} is no GGUF file: it begins with {head[:4]!r}, not {_MAGIC!r}.'
    )
  if len(head) < 8:
    return
  version = int.from_bytes(head[4:], 'little')
  if version & 0xFFFF == 0 and version:
    raise ValueError(
      f'{path} is a big-endian GGUF file; only little-endian ones are read, '
      'which gguf-convert-endian makes.'
    )
  if version not in _VERSIONS:
    raise ValueError(
      f'{path} is of version {version} of GGUF, but only 2 and 3 are read; '
      'convert the model again.'
    )


class _Reader:
  """A place in the bytes of a file, which moves on as values are taken."""

  def __init__(self, path, data):
    self.path, self.data, self.at = path, data, 8

  def whole(self) -> tuple[dict, dict]:
    count, pairs = self.number('<u8'), self.number('<u8')
    for what, given in (('tensors', count), ('metadata values', pairs)):
      if given > self.data.size // _SMALLEST:
        raise _Cut(f'it names {given} {what}, which it cannot hold')
    values = {}
    for _ in range(pairs):
      key = self.text()
      if key in values:
        raise ValueError(f'{self.path} has {key} twice in its metadata.')
      values[key] = self.value(self.value_type(key), key)
    rows = [self.row() for _ in range(count)]
    meta = Metadata(self.path, '', values, {})
    step = meta.whole('general.alignment', gguf.GGUF_DEFAULT_ALIGNMENT)
    if step < 1 or step & (step - 1):
      raise ValueError(
        f'general.alignment in {self.path} must be a power of two, not {step}.'
      )
    first = -(-self.at // step) * step
    return values, self.tensors(rows, first)

  def bytes(self, count) -> np.ndarray:
    if count > self.data.size - self.at:
      raise _Cut(f'it ends at byte {self.data.size}, inside a value')
    self.at += count
    return self.data[self.at - count : self.at]

  def number(self, kind):
    return self.bytes(np.dtype(kind).itemsize).view(kind)[0].item()

  def text(self) -> str:
    return bytes(self.bytes(self.number('<u8'))).decode()

  def value_type(self, key):
    number = self.number('<u4')
    if number not in list(_Value):
      raise ValueError(
        f'{key} in {self.path} has the value type {number}, which GGUF does '
        'not have.'
      )
    return _Value(number)

  def value(self, kind, key):
    if kind == _Value.STRING:
      return self.text()
    if kind != _Value.ARRAY:
      return self.number(_SCALARS[kind])
    inner, count = self.value_type(key), self.number('<u8')
    if inner == _Value.ARRAY:
      raise ValueError(f'{key} in {self.path} is a list of lists.')
    if inner == _Value.STRING:
      return self.texts(count)
    kind = np.dtype(_SCALARS[inner])
    return self.bytes(count * kind.itemsize).view(kind)

  def texts(self, count) -> list[str]:
    if count > (self.data.size - self.at) // 8:
      raise _Cut(f'it names {count} strings, which it cannot hold')
    return [self.text() for _ in range(count)]

  def row(self) -> tuple:
    name, axes = self.text(), self.number('<u4')
    shape = tuple(self.number('<u8') for _ in range(min(axes, 8)))
    kind, start = self.number('<u4'), self.number('<u8')
    if not 1 <= axes <= 4:
      raise ValueError(f'the tensor {name} in {self.path} has {axes} axes.')
    if kind not in list(_Type):
      raise ValueError(
        f'the tensor {name} in {self.path} has the quantisation type number '
        f'{kind}, which the package gguf does not know; supported are '
        f'{", ".join(sorted(k.name for k in readable()))}.'
      )
    return name, _Type(kind), shape[::-1], start

  def tensors(self, rows, first) -> dict:
    found = {}
    for name, kind, shape, start in rows:
      one = Blocks(self.path, kind, shape, first + start)
      block, _ = gguf.GGML_QUANT_SIZES[kind]
      if name in found:
        raise ValueError(f'{self.path} holds the tensor {name} twice.')
      if shape[-1] % block:
        raise ValueError(
          f'the tensor {name} in {self.path} has rows of {shape[-1]} values, '
          f'which are no whole blocks of {kind.name}.'
        )
      if one.start + one.size > self.data.size:
        raise _Cut(f'it ends at byte {self.data.size}, before {name} does')
      found[name] = one
    return found


@functools.cache
def readable() -> frozenset:
  """Types whose values are known: those of gguf and the plain ones."""
  known = set(PLAIN)
  for kind in _Type:
    block, width = gguf.GGML_QUANT_SIZES[kind]
    try:
      quants.dequantize(np.zeros((1, width), np.uint8), kind)
    except (NotImplementedError, ValueError):
      continue
    known.add(kind)
  return frozenset(known)


def check_types(file: Gguf) -> None:
  """Raises ValueError for a tensor whose quantisation type is not read."""
  for name, one in file.tensors.items():
    if one.kind not in readable():
      raise ValueError(
        f'the tensor {name} in {one.path} has the quantisation type '
        f'{one.kind.name}, which is not supported; supported are '
        f'{", ".join(sorted(kind.name for kind in readable()))}.'
      )


def array(stored: Blocks) -> np.ndarray:
  """The values of a tensor: as stored if that is a plain type, else float32."""
  data = np.memmap(stored.path, np.uint8, 'r', stored.start, (stored.size,))
  if stored.kind in PLAIN:
    return data.view(PLAIN[stored.kind]).reshape(stored.shape)
  block, width = gguf.GGML_QUANT_SIZES[stored.kind]
  rows = data.reshape(-1, stored.shape[-1] // block * width)
  # Scales of damaged blocks are no numbers; the values are as ggml gives them.
  with np.errstate(all='ignore'):
    values = quants.dequantize(rows, stored.kind)
  return values.reshape(stored.shape)
