"""A GGUF file as a folder of config.json, safetensors and tokenizer.json."""

from collections.abc import Sequence
import json
import os
from typing import Any

import numpy as np

from specjax.checkpoints import gguf_architectures
from specjax.checkpoints import gguf_file
from specjax.checkpoints import gguf_rope
from specjax.checkpoints import gguf_tensors
from specjax.checkpoints import gguf_tokenizer
from specjax.checkpoints import hf
from specjax.checkpoints import safetensors
from specjax.checkpoints.gguf_metadata import Metadata
from specjax.models import registry

_TABLE, _HEAD = 'token_embd.weight', 'output.weight'
# No file of a GGUF model is split: it is read where it was made.
_SHARD = 1 << 62


def write(paths: Sequence[str], folder: str) -> None:
  """Turns a GGUF file into a folder.

  Args:
    paths: the file of a model, or those of all its parts, in order.
    folder: an existing folder; config.json comes last.

  Raises:
    OSError, ValueError: one sentence about the file.
  """
  file = _without_copy(gguf_file.read(paths))
  arch = gguf_architectures.of_metadata(file.path, file.values)
  gguf_file.check_types(file)
  meta = metadata_of(file, arch.name)
  raw = config_json(arch, meta)
  config = _parsed(meta, raw)
  _check_layers(meta, config)
  tensors = gguf_tensors.to_safetensors(file, arch, config, raw)
  kinds = {tensor.dtype for tensor in tensors}
  # Mixed weights are computed with in the type that loses none of them.
  kind = kinds.pop() if len(kinds) == 1 else 'F32'
  raw['dtype'] = safetensors.DTYPES[kind].name
  generation = {key: raw[key] for key in raw if key.endswith('_token_id')}
  gguf_tokenizer.save(folder, meta)
  safetensors.write(folder, tensors, shard_bytes=_SHARD)
  for name, data in (
    ('generation_config.json', generation),
    ('config.json', raw),
  ):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as out:
      json.dump(data, out, indent=2, sort_keys=True)
      out.write('\n')


def _without_copy(file: gguf_file.Gguf) -> gguf_file.Gguf:
  """The file without a head that only repeats the table."""
  table, head = file.tensors.get(_TABLE), file.tensors.get(_HEAD)
  if table is None or head is None or table[1:3] != head[1:3]:
    return file
  one, other = (
    np.memmap(x.path, np.uint8, 'r', x.start, (x.size,)) for x in (table, head)
  )
  if not np.array_equal(one, other):
    return file
  kept = {name: x for name, x in file.tensors.items() if name != _HEAD}
  return file._replace(tensors=kept)


def metadata_of(file: gguf_file.Gguf, arch: str) -> Metadata:
  """`Metadata` of a file."""
  factors = file.tensors.get(gguf_rope.FACTORS)
  return Metadata(
    file.path,
    arch,
    file.values,
    {name: one.shape for name, one in file.tensors.items()},
    None if factors is None else gguf_file.array(factors),
  )


def config_json(
  arch: gguf_architectures.Architecture, meta: Metadata
) -> dict[str, Any]:
  """config.json of a file.

  Args:
    arch: its architecture.
    meta: its metadata.

  Raises:
    ValueError: something is missing or not supported.
  """
  kind = arch.model_types[0]
  names = next(
    family.files.model_types[kind]
    for family in registry.families()
    if kind in family.files.model_types
  )
  raw = {'architectures': [names[0]], 'model_type': kind} | arch.config(meta)
  if _TABLE not in meta.tensors:
    raise ValueError(f'{meta.path} lacks the tensor {_TABLE}.')
  raw['vocab_size'] = meta.tensors[_TABLE][0]
  if gguf_tokenizer.kind_of(meta):
    ids = gguf_tokenizer.special_ids(meta)
    ends = gguf_tokenizer.end_ids(meta)
    count = len(meta.texts('tokenizer.ggml.tokens'))
    if count > raw['vocab_size']:
      raise ValueError(
        f'{meta.path} has {count} tokens, but {_TABLE} has only '
        f'{raw["vocab_size"]} rows.'
      )
    for name in ('bos', 'pad'):
      raw[f'{name}_token_id'] = ids.get(name)
    raw['eos_token_id'] = ends[0] if len(ends) == 1 else ends or None
  return raw


def _parsed(meta, raw) -> Any:
  try:
    return hf.parse_config(raw)
  except ValueError as error:
    raise ValueError(
      f'the metadata of {meta.path} makes no model: {error}'
    ) from None


def _check_layers(meta, config) -> None:
  """Raises ValueError unless the tensors may have as many layers as stated."""
  facts = registry.facts(config)
  layers = max(facts.layers, facts.encoder_layers)
  # Naming the tensors of a million layers would take minutes.
  if layers > len(meta.tensors):
    raise ValueError(
      f'{meta.key("block_count")}={layers} in {meta.path} is more than its '
      f'{len(meta.tensors)} tensors can have.'
    )
