"""Checkpoints from one format into another, tensor by tensor.

Reads three kinds of folder: Hugging Face (config.json and safetensors), Orbax
(`params/` beside config.json) and T5X (tensorstore); and GGUF files. Writes the
first two and GGUF. No value and no dtype is changed but for GGUF, so a round
trip is identical to the bit. What is new is built beside its place and renamed
when it is complete.
"""

from collections.abc import Callable, Iterator
import contextlib
import itertools
import json
import os
import shutil
from typing import Any, NamedTuple

import numpy as np
from orbax import checkpoint as ocp

from specjax import files
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import gguf
from specjax.checkpoints import hf
from specjax.checkpoints import orbax
from specjax.checkpoints import safetensors
from specjax.checkpoints import t5x
from specjax.checkpoints import tensor_names
from specjax.checkpoints.safetensors import Tensor
from specjax.models import registry

FORMATS = ('safetensors', 'orbax', 'gguf')
# Types of matrices that are written; `gguf_write` knows them.
GGUF_TYPES = ('F32', 'F16', 'BF16', 'Q8_0')
_PARAMS = 'params'
# Files of a model folder beside weights; copied as they are.
_SIDE_FILES = ('.json', '.model', '.txt', '.jinja')
_NO_COPY = ('config.json', 'model.safetensors.index.json')


class Conversion(NamedTuple):
  """A conversion that is asked for.

  Attributes:
    source: folder or GGUF file to read.
    target: folder, or file that ends in .gguf, to make; must not exist.
    to: 'safetensors', 'orbax' or 'gguf'.
    model: folder with config.json (and tokenizer), if the source has none.
    shard_bytes: the most in a safetensors file.
    gguf_type: type of the matrices of a GGUF file: 'F32', 'F16', 'BF16' or
      'Q8_0'.
  """

  source: str
  target: str
  to: str = 'safetensors'
  model: str = ''
  shard_bytes: int = 5_000_000_000
  gguf_type: str = 'F16'


class ConversionPlan(NamedTuple):
  """A conversion that has been checked and not begun.

  Attributes:
    raw: config.json to write.
    lines: lines of the mapping, to be read by people.
    size: bytes to write.
    tensors, leaves: arrays to write as safetensors, or as Orbax by path.
    side_files: paths of files to copy.
    gguf: `gguf_write.GgufPlan`, or None.
    notes: sentences for people.
  """

  request: Conversion
  raw: dict
  lines: tuple
  size: int
  tensors: tuple
  leaves: dict
  side_files: tuple
  gguf: Any = None
  notes: tuple = ()


def plan(request: Conversion) -> ConversionPlan:
  """Checks a conversion from headers and metadata, reading no weights.

  Raises:
    OSError, ValueError: one sentence.
  """
  if request.to not in FORMATS:
    raise ValueError(f'{request.to!r} is not one of {", ".join(FORMATS)}.')
  if request.shard_bytes < 1:
    raise ValueError('shards must hold at least one byte.')
  if not os.path.isdir(request.source) and not gguf.is_file(request.source):
    raise FileNotFoundError(f'there is no folder {request.source}.')
  source = folder_lib.of_model(request.source)
  if os.path.lexists(request.target):
    raise FileExistsError(
      f'{request.target} exists already; it is not touched.'
    )
  side = folder_lib.of_model(request.model) if request.model else source
  if t5x.is_checkpoint(source) and not request.model:
    raise ValueError(
      f'{source} is a T5X checkpoint, which does not describe its model: name '
      'a folder with its config.json and tokenizer as the model.'
    )
  raw = dict(hf.read_config(side))
  config = hf.parse_config(raw)
  config, leaves, found = folder_lib.open_folder(source, config)
  # From safetensors to safetensors bytes are copied; nothing is decoded, so
  # types that numpy lacks survive.
  direct = None if found is None else _copies(found)
  raw |= _found_out(raw, config)
  dtypes = {leaf.dtype for leaf in leaves.values()}
  if len(dtypes) == 1:  # Else transformers would convert to another.
    raw.pop('torch_dtype', None)
    raw['dtype'] = safetensors.DTYPES[dtypes.pop()].name
  if request.to == 'gguf':
    named = list(direct or _tensors(config, leaves))
    return _plan_gguf(request, raw, config, side, named)
  tensors = ()
  if request.to == 'safetensors':
    leaves, tensors = {}, tuple(direct or _tensors(config, leaves))
    lines = tuple(_line(origin, tensor) for origin, tensor in tensors)
    tensors = tuple(tensor for _, tensor in tensors)
    size = sum(tensor.size for tensor in tensors)
  else:
    lines = tuple(
      f'{leaf.origin} -> {"/".join(path)} {leaf.dtype} {list(leaf.shape)}'
      for path, leaf in leaves.items()
    )
    size = sum(safetensors.size_of(v.dtype, v.shape) for v in leaves.values())
  return ConversionPlan(
    request, raw, lines, size, tensors, leaves, tuple(_side_files(side))
  )


def _plan_gguf(request, raw, config, side, named) -> ConversionPlan:
  """The plan of a GGUF file, from [(origin, Tensor)]."""
  from specjax.checkpoints import gguf_write  # Slow to import.

  if not request.target.endswith('.gguf'):
    raise ValueError(
      f'the name of a GGUF file must end in .gguf, not {request.target}.'
    )
  made = gguf_write.plan(
    config, side, [tensor for _, tensor in named], request.gguf_type
  )
  origins = [origin for origin, _ in named]
  lines = tuple(
    f'{origin} -> {row.name} {row.kind.name} {list(row.shape)}'
    for origin, row in itertools.zip_longest(
      origins, made.rows, fillvalue='config.json'
    )
  )
  size = sum(row.size for row in made.rows)
  return ConversionPlan(request, raw, lines, size, (), {}, (), made, made.notes)


def _found_out(raw, config) -> dict:
  """Settings that the weights decide, where config.json has them otherwise.

  One setting may be the default of another, so that stating the first changes
  how the second is read.
  """
  to_json = registry.family_of(config).files.to_json
  wanted, found = to_json(config), {}
  while True:
    # Until nothing new is wrong: each pass states settings, which may change
    # the defaults of others.
    stated = to_json(hf.parse_config(raw | found))
    wrong = {k: v for k, v in wanted.items() if stated.get(k) != v}
    if not wrong.keys() - found.keys():
      return found
    found |= wrong


def _line(origin, tensor):
  return f'{origin} -> {tensor.name} {tensor.dtype} {list(tensor.shape)}'


def _side_files(folder):
  for name in sorted(os.listdir(folder)):
    path = os.path.join(folder, name)
    wanted = name.endswith(_SIDE_FILES) and name not in _NO_COPY
    if wanted and os.path.isfile(path):
      yield path


def _copies(found):
  """[(origin, Tensor)] for a copy byte by byte, of {name: (origin, Stored)}."""
  return [
    (
      origin,
      Tensor(
        name,
        one.dtype,
        one.shape,
        # Bound now: a closure would read the last tensor of the loop.
        lambda one=one: safetensors.read_chunks(one),
      ),
    )
    for name, (origin, one) in found.items()
  ]


def _tensors(config, leaves):
  """Returns [(origin, Tensor)] in Hugging Face's names."""
  grouped = {}
  tree = tensor_names.unflat(dict.fromkeys(leaves, 0))
  for path, source in tensor_names.of_parameters(config, tree).items():
    grouped.setdefault(source.name, []).append((source, leaves[path]))
  made = []
  for name, parts in grouped.items():
    source, first = parts[0]
    shape = tensor_names.stored_shape(source, first.shape)
    if len({leaf.dtype for _, leaf in parts}) > 1:
      raise ValueError(f'the parts of {name} are stored in several types.')

    # Called when the tensor is written, so one tensor is in memory at a time.
    def chunks(parts=parts):
      arrays = [(source, leaf.read()) for source, leaf in parts]
      return safetensors.array_chunks(tensor_names.give(arrays))

    origin = ' + '.join(leaf.origin for _, leaf in parts)
    made.append((origin, Tensor(name, first.dtype, shape, chunks)))
  return made


def execute(
  made: ConversionPlan, progress: Callable[[int], None] | None = None
) -> None:
  """Carries out a plan; the target appears complete or not at all.

  `progress` is called with the number of bytes just written.
  """
  request = made.request
  if made.gguf is not None:
    from specjax.checkpoints import gguf_write  # Slow to import.

    files.write_whole(
      request.target,
      lambda path: gguf_write.write(path, made.gguf, progress),
    )
    return
  with _appearing(request.target) as folder:
    if request.to == 'safetensors':
      safetensors.write(
        folder,
        list(made.tensors),
        shard_bytes=request.shard_bytes,
        progress=progress,
      )
    else:
      _write_orbax(folder, request.target, made.leaves, progress)
    for path in made.side_files:
      shutil.copyfile(path, os.path.join(folder, os.path.basename(path)))
    # Last: a folder without config.json does not count as a model.
    with open(os.path.join(folder, 'config.json'), 'w', encoding='utf-8') as f:
      json.dump(made.raw, f, indent=2, sort_keys=True)
      f.write('\n')


class _Unread:
  """A parameter that is read only when it is written."""

  def __init__(self, leaf):
    self.leaf = leaf
    self.shape = leaf.shape


class _Streaming(ocp.type_handlers.NumpyHandler):
  """Writes `_Unread` values one after the other, as numpy arrays."""

  def __init__(self, folder, progress):
    super().__init__()
    self._folder, self._progress = folder, progress

  async def serialize(self, values, infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    for value, info, arg in zip(values, infos, args, strict=True):
      array = np.ascontiguousarray(value.leaf.read())
      with orbax.writing(f'Cannot write {self._folder}'):
        for future in await super().serialize([array], [info], [arg]):
          future.result()
      if self._progress is not None:
        self._progress(array.nbytes)
    return []


def _write_orbax(folder, target, leaves, progress):
  registry = ocp.type_handlers.create_type_handler_registry(
    (_Unread, _Streaming(target, progress))
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  tree = tensor_names.unflat(
    {path: _Unread(leaf) for path, leaf in leaves.items()}
  )
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      os.path.abspath(os.path.join(folder, _PARAMS)),
      args=ocp.args.PyTreeSave(tree),
    )


@contextlib.contextmanager
def _appearing(target) -> Iterator[str]:
  """Gives a folder beside `target` that is renamed to it at the end."""
  target = os.path.abspath(target)
  # Beside the target, since a rename works inside one file system only.
  part = f'{target}.part{os.getpid()}'
  try:
    # Inside the block, since a signal may come as soon as the folder is there.
    os.makedirs(part)
    yield part
    if os.path.lexists(target):
      raise FileExistsError(f'{target} appeared meanwhile; it is not touched.')
    os.rename(part, target)
  except OSError as error:
    if error.errno is None or isinstance(error, FileExistsError):
      raise
    raise OSError(f'Cannot write {target}: {error.strerror}.') from None
  finally:
    shutil.rmtree(part, ignore_errors=True)
