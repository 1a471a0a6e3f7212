"""The safetensors format tensor by tensor: headers, byte ranges, streams.

A file is an 8-byte length, a JSON header of that length with each tensor's
type, shape and byte range, and the bytes. Reading ranges and writing streams
keeps the memory of a conversion far below the size of a checkpoint, whatever a
memory-mapping reader would have counted as used.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import json
import math
import os
import struct
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from specjax import files

# Bytes moved at a time.
CHUNK = 1 << 24
# Of the format's own reader: a larger header is the length of another format.
_HEADER_LIMIT = 100_000_000

DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
  """A tensor in a safetensors file: bytes `start` to `end` of `path`."""

  path: str
  dtype: str
  shape: tuple
  start: int
  end: int


class Tensor(NamedTuple):
  """A tensor to write: its header fields and a source of its bytes.

  Attributes:
    name: name in the file.
    dtype: dtype as safetensors spells it, such as 'BF16'.
    shape: tuple of int.
    chunks: called once, when its turn comes; yields bytes-like pieces.
  """

  name: str
  dtype: str
  shape: tuple
  chunks: Callable[[], Iterator]

  @property
  def size(self) -> int:
    """Bytes."""
    return size_of(self.dtype, self.shape)


def size_of(dtype: str, shape: Sequence[int]) -> int:
  """Bytes of a tensor."""
  return DTYPES[dtype].itemsize * int(np.prod(shape, dtype=np.int64))


def dtype_name(dtype: np.dtype) -> str:
  """Returns the name of a numpy dtype in safetensors.

  Raises:
    ValueError: it has no name for it.
  """
  try:
    return _NAMES[np.dtype(dtype)]
  except KeyError:
    raise ValueError(
      f'the type {dtype} cannot be stored in safetensors.'
    ) from None


def read_header(path: str) -> dict[str, Stored]:
  """Returns {name: `Stored`} of one file, reading its header alone.

  Raises:
    ValueError: the file is truncated or has another format.
  """
  try:
    with open(path, 'rb') as file:
      length = struct.unpack('<Q', file.read(8))[0]
      if length > _HEADER_LIMIT:
        raise ValueError('its header has no sensible length')
      header = files.parse_json(file.read(length))
    first, total = 8 + length, os.path.getsize(path)
    found = {}
    for name, entry in header.items():
      if name == '__metadata__':
        continue
      start, end = (first + n for n in entry['data_offsets'])
      one = Stored(path, entry['dtype'], tuple(entry['shape']), start, end)
      # Everything is checked against the file's size before a byte is used,
      # because a copy that broke off looks whole up to its last tensor.
      if one.dtype not in DTYPES:
        raise ValueError(f'{name} has the type {one.dtype}, which is not read')
      if start < first:
        raise ValueError(f'{name} begins before the first tensor')
      if end > total:
        raise ValueError(f'{name} ends after the file')
      if end - start != size_of(one.dtype, one.shape):
        raise ValueError(
          f'{name} has {end - start} bytes, not those of its shape'
        )
      found[name] = one
    _check_apart(found)
    return found
  except (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
  ) as e:
    reason = ' '.join(str(e).split())
    raise ValueError(
      f'{path} is not a whole safetensors file ({reason}): copy or export it '
      'again.'
    ) from None


def _check_apart(found):
  """Raises ValueError if two tensors share bytes."""
  ordered = sorted(found.items(), key=lambda item: item[1].start)
  for (name, one), (other, two) in itertools.pairwise(ordered):
    if two.start < one.end and two.end > two.start:
      raise ValueError(f'{other} begins inside {name}')


def read_chunks(stored: Stored) -> Iterator[bytes]:
  """Yields a tensor's bytes, `CHUNK` at a time."""
  # Unbuffered: pieces are larger than any buffer, which would only copy them.
  with open(stored.path, 'rb', buffering=0) as file:
    file.seek(stored.start)
    left = stored.end - stored.start
    while left:
      piece = file.read(min(left, CHUNK))
      if not piece:
        raise ValueError(f'{stored.path} became shorter while it was read.')
      left -= len(piece)
      yield piece


def read(stored: Stored) -> np.ndarray:
  """Reads one tensor whole."""
  made = np.empty(stored.end - stored.start, np.uint8)
  at = 0
  for piece in read_chunks(stored):
    made[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
    at += len(piece)
  return made.view(DTYPES[stored.dtype]).reshape(stored.shape)


def read_slice(stored: Stored, index: tuple) -> np.ndarray:
  """Reads a part of a tensor, and no byte beside it.

  Args:
    stored: the tensor.
    index: a slice for each axis, of step 1; as many as it has axes.

  Raises:
    ValueError: the file is shorter than its header requires.
  """
  bounds = [s.indices(n)[:2] for s, n in zip(index, stored.shape, strict=True)]
  shape = tuple(end - start for start, end in bounds)
  itemsize = DTYPES[stored.dtype].itemsize
  # One read takes all that is contiguous in the file. Of a tensor [4, 6]:
  #   (1:3, 0:6) is one run of 12 values, cut 0
  #   (1:3, 2:4) is two runs of 2 values, cut 1
  cut = len(shape)
  while cut and shape[cut - 1] == stored.shape[cut - 1]:
    cut -= 1
  cut = max(cut - 1, 0)
  strides = [
    itemsize * math.prod(stored.shape[i + 1 :]) for i in range(len(shape))
  ]
  first = stored.start + sum(
    start * stride for (start, _), stride in zip(bounds, strides, strict=True)
  )
  run = itemsize * math.prod(shape[cut:])
  made = np.empty(itemsize * math.prod(shape), np.uint8)
  with open(stored.path, 'rb', buffering=0) as file:
    for number, place in enumerate(np.ndindex(*shape[:cut])):
      at = first + sum(
        i * stride for i, stride in zip(place, strides, strict=False)
      )
      read_range(file, at, made[number * run : (number + 1) * run])
  return made.view(DTYPES[stored.dtype]).reshape(shape)


def read_range(file: BinaryIO, start: int, into: np.ndarray) -> None:
  """Fills `into` (uint8) with the bytes of an open file from `start`."""
  done = 0
  while done < into.size:
    view = memoryview(into)[done : done + CHUNK]
    # Reads at a place of its own, so that threads may share the open file.
    count = os.preadv(file.fileno(), [view], start + done)
    if not count:
      raise ValueError(f'{file.name} became shorter while it was read.')
    done += count


def equal(one: Stored, other: Stored) -> bool:
  """Whether two tensors hold the same bytes."""
  return one[1:3] == other[1:3] and all(
    # Piece by piece and ending at the first difference: tables have gigabytes.
    a == b
    for a, b in zip(read_chunks(one), read_chunks(other), strict=True)
  )


def array_chunks(array: np.ndarray) -> Iterator[memoryview]:
  """Yields a contiguous array's bytes."""
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  for at in range(0, data.size, CHUNK):
    yield data[at : at + CHUNK].data


def write(
  folder: str,
  tensors: list[Tensor],
  *,
  shard_bytes: int,
  progress: Callable[[int], None] | None = None,
) -> None:
  """Writes tensors, each when its turn comes, as one file or as shards.

  Args:
    folder: an existing folder; gets model.safetensors, or shards and an index.
    tensors: tensors in the order in which they are made and written.
    shard_bytes: the most a file holds, save for a larger single tensor.
    progress: called with the number of bytes just written.
  """
  shards, room = [[]], shard_bytes
  for tensor in tensors:
    # Limit 10, sizes [6 3 4 12]: shards [6 3] [4] [12]
    if shards[-1] and tensor.size > room:
      shards.append([])
      room = shard_bytes
    shards[-1].append(tensor)
    room -= tensor.size
  where = {}
  for number, shard in enumerate(shards):
    name = 'model.safetensors'
    if len(shards) > 1:
      name = f'model-{number + 1:05d}-of-{len(shards):05d}.safetensors'
    _write_file(os.path.join(folder, name), shard, progress)
    where |= dict.fromkeys((t.name for t in shard), name)
  if len(shards) > 1:
    index = {
      'metadata': {'total_size': sum(t.size for t in tensors)},
      'weight_map': where,
    }
    path = os.path.join(folder, 'model.safetensors.index.json')
    with open(path, 'w', encoding='utf-8') as file:
      json.dump(index, file, indent=2, sort_keys=True)


def _write_file(path, tensors, progress):
  header, at = {'__metadata__': {'format': 'pt'}}, 0
  for tensor in tensors:
    # Offsets are known before any tensor is made, so a conversion writes the
    # header first and then each tensor once.
    header[tensor.name] = {
      'dtype': tensor.dtype,
      'shape': list(tensor.shape),
      'data_offsets': [at, at + tensor.size],
    }
    at += tensor.size
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # Tensors begin at a multiple of 8 bytes.
  with open(path, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for tensor in tensors:
      written = 0
      for piece in tensor.chunks():
        file.write(piece)
        written += len(piece)
        if progress is not None:
          progress(len(piece))
      if written != tensor.size:
        raise ValueError(
          f'{tensor.name} gave {written} bytes instead of {tensor.size}.'
        )
    file.flush()
    # Else a machine that loses power may keep the name and not the bytes.
    os.fsync(file.fileno())
