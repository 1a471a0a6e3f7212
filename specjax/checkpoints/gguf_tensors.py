"""Tensors of GGUF under Hugging Face's names, and back, one at a time."""

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

import gguf
import numpy as np

from specjax import models
from specjax.checkpoints import gguf_file
from specjax.checkpoints import gguf_rope
from specjax.checkpoints import safetensors
from specjax.checkpoints import tensor_names
from specjax.checkpoints.gguf_architectures import Architecture
from specjax.models import registry

# Tensors that no parameter needs: factors are settings, and the other two are
# written by some exporters and read by nobody.
_SPARE = re.compile(
  re.escape(gguf_rope.FACTORS)
  + r'|blk\.\d+\.attn_rot_embd\.weight|dec\.blk\.\d+\.cross_attn_rel_b\.weight'
)


class Change(NamedTuple):
  """A change that GGUF makes to a tensor of a safetensors file.

  Attributes:
    name: name in GGUF.
    offset: number that is added.
    heads: heads whose rows are put in another order; 0 for none.
    turned: whether it is transposed.
  """

  name: str
  offset: float = 0.0
  heads: int = 0
  turned: bool = False


def changes(
  arch: Architecture, config: Any, raw: Mapping[str, Any]
) -> dict[str, Change]:
  """{Hugging Face name: `Change`} of all tensors of a model.

  Args:
    arch: its architecture.
    config: its config.
    raw: its config.json.

  Raises:
    ValueError: a tensor for which GGUF has no name.
  """
  facts = registry.facts(config)
  layers = max(facts.layers, facts.encoder_layers)
  numbers = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
  table = gguf.get_tensor_name_map(numbers[arch.name], layers)
  made = {}
  for name in shapes(config):
    spelled = table.get_name(name, try_suffixes=('.weight', '.bias'))
    if spelled is None:
      raise ValueError(
        f'GGUF has no name for {name} in a model of the architecture '
        f'{arch.name}.'
      )
    heads = 0
    if any(part in spelled for part in arch.permuted):
      kind = 'num_attention_heads', 'num_key_value_heads'
      heads = raw[kind['attn_k.' in spelled]]
    made[name] = Change(
      spelled,
      arch.norm_offset if spelled.endswith('norm.weight') else 0.0,
      heads,
      spelled.endswith(arch.turned) if arch.turned else False,
    )
  return made


def shapes(config: Any) -> dict[str, tuple]:
  """{Hugging Face name: shape} of the tensors that a config has."""
  abstract = models.abstract_params(config)
  wanted = tensor_names.of_parameters(config, abstract)
  return {
    wanted[path].name: tensor_names.stored_shape(wanted[path], leaf.shape)
    for path, leaf in tensor_names.flat(abstract)
  }


def to_safetensors(
  file: gguf_file.Gguf,
  arch: Architecture,
  config: Any,
  raw: Mapping[str, Any],
) -> list[safetensors.Tensor]:
  """The tensors of a GGUF file, to be written one after the other.

  Args:
    file: the file, whose types are checked.
    arch: its architecture.
    config: config of the model.
    raw: its config.json.

  Raises:
    ValueError: a tensor is missing, of another shape, or unknown.
  """
  table, made = changes(arch, config, raw), []
  for name, shape in shapes(config).items():
    change = table[name]
    if change.name not in file.tensors:
      raise ValueError(f'{file.path} lacks the tensor {change.name}.')
    stored = file.tensors[change.name]
    expected = shape[::-1] if change.turned else shape
    if stored.shape != expected:
      raise ValueError(
        f'the tensor {change.name} in {stored.path} has shape '
        f'{list(stored.shape)}, but the metadata makes it {list(expected)}.'
      )
    kept = stored.kind in gguf_file.PLAIN and not change.offset
    kind = gguf_file.PLAIN[stored.kind] if kept else np.dtype(np.float32)
    made.append(
      safetensors.Tensor(
        name,
        safetensors.dtype_name(kind),
        shape,
        # Bound now: a closure would read the last tensor of the loop.
        lambda stored=stored, change=change: safetensors.array_chunks(
          from_gguf(gguf_file.array(stored), change)
        ),
      )
    )
  known = {change.name for change in table.values()}
  for name in file.tensors:
    if name not in known and not _SPARE.fullmatch(name):
      raise ValueError(
        f'{file.path} holds the tensor {name}, which a model of the '
        f'architecture {arch.name} with this metadata does not have.'
      )
  return made


def from_gguf(values: np.ndarray, change: Change) -> np.ndarray:
  """A tensor of GGUF as safetensors have it."""
  if change.heads:
    values = _by_halves(values, change.heads)
  if change.offset:
    values = values.astype(np.float32) - np.float32(change.offset)
  return values.T if change.turned else values


def to_gguf(values: np.ndarray, change: Change) -> np.ndarray:
  """A tensor of safetensors as GGUF has it."""
  if change.heads:
    values = _by_pairs(values, change.heads)
  if change.offset:
    values = values.astype(np.float32) + np.float32(change.offset)
  return values.T if change.turned else values


def _by_halves(values, heads) -> np.ndarray:
  """Rows of each head from pairs of neighbours to halves."""
  # One head of width 4, whose rows 0 and 2, and 1 and 3, are turned together:
  # In:  rows [0 2 1 3]
  # Out: rows [0 1 2 3]
  rows = values.reshape(heads, -1, 2, *values.shape[1:])
  return rows.swapaxes(1, 2).reshape(values.shape)


def _by_pairs(values, heads) -> np.ndarray:
  """The inverse of `_by_halves`."""
  rows = values.reshape(heads, 2, -1, *values.shape[1:])
  return rows.swapaxes(1, 2).reshape(values.shape)
