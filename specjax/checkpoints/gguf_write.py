"""A model as a GGUF file: metadata from its settings, tensors one by one."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import gguf
from gguf import quants
import numpy as np

from specjax.checkpoints import gguf_architectures
from specjax.checkpoints import gguf_folder
from specjax.checkpoints import gguf_rope
from specjax.checkpoints import gguf_tensors
from specjax.checkpoints import gguf_vocab
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.checkpoints import safetensors
from specjax.checkpoints.gguf_metadata import Metadata
from specjax.models import registry
from specjax.models.common import rope as rope_lib

_Type, _File = gguf.GGMLQuantizationType, gguf.LlamaFileType
# Names of `--gguf_type` -> the type of matrices, and of the file.
TYPES = {
  'F32': (_Type.F32, _File.ALL_F32),
  'F16': (_Type.F16, _File.MOSTLY_F16),
  'BF16': (_Type.BF16, _File.MOSTLY_BF16),
  'Q8_0': (_Type.Q8_0, _File.MOSTLY_Q8_0),
}
# llama.cpp wants these in float32, whatever the type of the file.
_SMALL = ('norm.weight', '.bias', 'position_embd.weight', 'attn_rel_b.weight')
# Settings that the running process decides, or that name tokens.
_NOT_COMPARED = ('dtype', 'remat', 'dropout_rate', 'shards', 'model_type')


class GgufRow(NamedTuple):
  """A tensor to write.

  Attributes:
    name: name in GGUF.
    kind: `gguf.GGMLQuantizationType`.
    shape: its shape, the slowest axis first.
    make: called when its turn comes; its values, as stored.
  """

  name: str
  kind: Any
  shape: tuple
  make: Callable[[], np.ndarray]

  @property
  def size(self) -> int:
    """Bytes."""
    block, width = gguf.GGML_QUANT_SIZES[self.kind]
    return int(np.prod(self.shape, dtype=np.int64)) // block * width


class GgufPlan(NamedTuple):
  """A GGUF file that has been checked and not begun.

  Attributes:
    arch: architecture.
    fields: {whole name: value} of the metadata.
    rows: tensors.
    notes: sentences for people.
  """

  arch: str
  fields: Mapping[str, Any]
  rows: tuple
  notes: tuple


def plan(
  config: Any,
  folder: str,
  tensors: Sequence[safetensors.Tensor],
  gguf_type: str,
) -> GgufPlan:
  """Plans a GGUF file.

  Args:
    config: config of the model.
    folder: folder with its tokenizer.
    tensors: its tensors under Hugging Face's names.
    gguf_type: type of its matrices; see `TYPES`.

  Raises:
    ValueError: one sentence about what GGUF cannot hold.
  """
  if gguf_type not in TYPES:
    raise ValueError(f'{gguf_type!r} is not one of {", ".join(TYPES)}.')
  raw = hf.config_to_hf(config)
  arch = gguf_architectures.of_model_type(raw['model_type'])
  table = gguf_tensors.changes(arch, config, raw)
  rows = [_row(tensor, table[tensor.name], gguf_type) for tensor in tensors]
  notes = [
    f'{row.name} is written as F16: its rows are no whole blocks of Q8_0.'
    for row in rows
    if gguf_type == 'Q8_0' and row.kind == _Type.F16
  ]
  factors = _factors(raw)
  if factors is not None:
    rows.append(
      GgufRow(gguf_rope.FACTORS, _Type.F32, factors.shape, lambda: factors)
    )
  tokens, note = _tokens(config, folder)
  fields = {
    'general.type': 'model',
    'general.name': os.path.basename(os.path.abspath(folder)),
    'general.file_type': int(TYPES[gguf_type][1]),
    'general.quantization_version': gguf.GGML_QUANT_VERSION,
    **{f'{arch.name}.{key}': x for key, x in arch.metadata(raw).items()},
    **tokens,
  }
  _check(arch, config, fields, rows, factors)
  return GgufPlan(
    arch.name, fields, tuple(rows), (*notes, *filter(None, [note]))
  )


def _tokens(config, folder) -> tuple[dict, str]:
  """Metadata of the tokenizer, with the ids that end an answer."""
  tokenizer, facts = loading.load_tokenizer(folder), registry.facts(config)
  generation = hf.read_json(folder, 'generation_config.json') or {}
  made, note = gguf_vocab.fields(tokenizer, facts.vocab_size)
  ends, pad = loading.special_ids(generation, facts, tokenizer)
  if len(ends) > 3:
    raise ValueError(
      f'GGUF has room for 3 tokens that end an answer, not for {list(ends)}.'
    )
  for name, number in zip(('eos', 'eot', 'eom'), ends, strict=False):
    made[f'tokenizer.ggml.{name}_token_id'] = number
  bos = loading.bos_id(generation, facts, tokenizer)
  if bos is not None:
    made['tokenizer.ggml.bos_token_id'] = bos
  if facts.pad_id is not None:
    made['tokenizer.ggml.padding_token_id'] = pad
  return made, note


def _factors(raw) -> np.ndarray | None:
  rope = raw.get('rope_parameters')
  if rope is None:
    return None
  return gguf_rope.factors_of(rope.get('full_attention', rope), raw['head_dim'])


def _row(tensor, change, gguf_type) -> GgufRow:
  kind = TYPES[gguf_type][0]
  shape = tensor.shape[::-1] if change.turned else tensor.shape
  if len(shape) < 2 or change.name.endswith(_SMALL):
    kind = _Type.F32
  elif shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
    kind = _Type.F16

  def make():
    data = np.concatenate(
      [np.frombuffer(piece, np.uint8) for piece in tensor.chunks()]
    )
    values = data.view(safetensors.DTYPES[tensor.dtype]).reshape(tensor.shape)
    values = gguf_tensors.to_gguf(values, change)
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind == _Type.F16 and np.abs(values).max(initial=0.0) > 65504:
      raise ValueError(
        f'{tensor.name} has values above 65504, which F16 does not hold; '
        'choose F32 or BF16.'
      )
    return quants.quantize(values, kind)

  return GgufRow(change.name, kind, shape, make)


def _check(arch, config, fields, rows, factors) -> None:
  """Raises ValueError for a setting that a reader would not find again."""
  meta = Metadata(
    'the GGUF file',
    arch.name,
    gguf_vocab.plain(fields | {'general.architecture': arch.name}),
    {row.name: row.shape for row in rows},
    factors,
  )
  read = hf.parse_config(gguf_folder.config_json(arch, meta))
  for field in dataclasses.fields(config):
    name = field.name
    if name in _NOT_COMPARED or name.endswith('token_id'):
      continue
    one, other = getattr(config, name), getattr(read, name)
    if not _same(one, other, config):
      raise ValueError(
        f'{name}={one!r} cannot be written as GGUF: a reader of the '
        f'architecture {arch.name} takes {other!r}.'
      )


def _same(one, other, config) -> bool:
  """Whether two values of a setting mean the same network."""
  if isinstance(one, rope_lib.Rope) and isinstance(other, rope_lib.Rope):
    # One scaling has several spellings.
    a, b = (rope_lib.rope_frequencies(x, config.head_dim) for x in (one, other))
    factor = one.attention_factor, other.attention_factor
    return bool(np.allclose(a, b, 2e-5)) and bool(np.isclose(*factor, 1e-6))
  if isinstance(one, float) and isinstance(other, (int, float)):
    return bool(np.isclose(one, other, 1e-6, 0.0))
  return one == other


def write(
  path: str, made: GgufPlan, progress: Callable[[int], None] | None = None
) -> None:
  """Writes a GGUF file.

  Args:
    path: the file, which is replaced.
    made: its plan.
    progress: called with the number of bytes just written.
  """
  writer = gguf.GGUFWriter(None, made.arch)
  for key, value in made.fields.items():
    _add(writer, key, value)
  for row in made.rows:
    writer.add_tensor_info(
      row.name, row.shape, np.dtype(np.float32), row.size, row.kind
    )
  writer.write_header_to_file(pathlib.Path(path))
  try:
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for row in made.rows:
      writer.write_tensor_data(row.make())
      if progress is not None:
        progress(row.size)
  finally:
    writer.close()


def _add(writer, key, value) -> None:
  """Adds a value in the type of GGUF that readers expect."""
  if isinstance(value, bool):
    writer.add_bool(key, value)
  elif isinstance(value, int):
    writer.add_uint32(key, value)
  elif isinstance(value, float):
    writer.add_float32(key, value)
  elif isinstance(value, str):
    writer.add_string(key, value)
  else:
    writer.add_array(key, value)
