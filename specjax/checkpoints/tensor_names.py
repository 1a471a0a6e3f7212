"""Where each parameter of ours stands in a Hugging Face checkpoint.

Weights are stored `[out, in]` on both sides, so that the map is renaming; the
one exception is GPT-2, whose matrices are `[in, out]` and whose query, key and
value projections are one tensor.
"""

import re
from typing import NamedTuple

import jax
import numpy as np

from specjax.models import own_format
from specjax.models.decoder.config import DecoderConfig
from specjax.models.t5.config import T5Config


class Source(NamedTuple):
  """A place in a checkpoint.

  Attributes:
    name: the tensor.
    transpose: whether it is stored `[in, out]`.
    part, parts: which of how many equal parts of its output axis.
  """

  name: str
  transpose: bool = False
  part: int = 0
  parts: int = 1


_LLAMA = {
  'embed': 'model.embed_tokens',
  'norm': 'model.norm',
  'head': 'lm_head',
  'attn.q': 'self_attn.q_proj',
  'attn.k': 'self_attn.k_proj',
  'attn.v': 'self_attn.v_proj',
  'attn.o': 'self_attn.o_proj',
  'attn.q_norm': 'self_attn.q_norm',
  'attn.k_norm': 'self_attn.k_norm',
  'attn.sub_norm': 'self_attn.attn_sub_norm',
  'mlp.gate': 'mlp.gate_proj',
  'mlp.up': 'mlp.up_proj',
  'mlp.down': 'mlp.down_proj',
  'mlp.sub_norm': 'mlp.ffn_sub_norm',
  'attn_norm': 'input_layernorm',
  'mlp_norm': 'post_attention_layernorm',
}

# With norms on both sides of a block, one old name means another norm.
_POST_NORM = _LLAMA | {
  'post_attn_norm': 'post_attention_layernorm',
  'mlp_norm': 'pre_feedforward_layernorm',
  'post_mlp_norm': 'post_feedforward_layernorm',
}

_GPT2 = {
  'embed': 'transformer.wte',
  'positions': 'transformer.wpe',
  'norm': 'transformer.ln_f',
  'head': 'lm_head',
  'attn.q': 'attn.c_attn',
  'attn.k': 'attn.c_attn',
  'attn.v': 'attn.c_attn',
  'attn.o': 'attn.c_proj',
  'mlp.up': 'mlp.c_fc',
  'mlp.down': 'mlp.c_proj',
  'attn_norm': 'ln_1',
  'mlp_norm': 'ln_2',
}

# Tensors that some exporters write and nobody needs, and those of images.
_HARMLESS = re.compile(
  r'.*rotary_emb\.inv_freq$'
  r'|.*\battn\.(masked_)?bias$'
  r'|(encoder|decoder)\.embed_tokens\.weight$'
  r'|(model\.)?(vision_tower|multi_modal_projector)\..*'
  r'|.*EncDecAttention\.relative_attention_bias\.weight$'
)


def is_harmless(name: str) -> bool:
  """Whether a tensor that no parameter needs may be ignored."""
  return bool(_HARMLESS.fullmatch(name))


def sources(config, abstract) -> dict:
  """Maps each parameter's path to its `Source`.

  Args:
    config: `T5Config` or `DecoderConfig`.
    abstract: the parameter tree, arrays or shapes.

  Returns:
    A dict from path (tuple of str) to `Source`.
  """
  if own_format.is_own(config):
    one = _own
  elif isinstance(config, T5Config):
    one = _t5
  elif config.model_type == 'gpt2':
    one = _gpt2
  else:
    one = _llama
  return {path: one(config, path) for path, _ in flat(abstract)}


def flat(tree):
  """Returns [(path as a tuple of str, leaf)] of nested dicts."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(tuple(str(k.key) for k in path), leaf) for path, leaf in leaves]


def unflat(leaves: dict):
  """Builds nested dicts from {path: leaf}."""
  tree = {}
  for path, leaf in leaves.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return tree


def _own(config, path) -> Source:
  del config
  return Source('.'.join(path))


def _llama(config: DecoderConfig, path) -> Source:
  table = _POST_NORM if config.post_norm else _LLAMA
  if path[0].startswith('layers_'):
    prefix = f'model.layers.{path[0][7:]}.'
    return Source(f'{prefix}{table[".".join(path[1:-1])]}.{path[-1]}')
  return Source(f'{table[path[0]]}.{path[-1]}')


def _gpt2(config: DecoderConfig, path) -> Source:
  del config
  if not path[0].startswith('layers_'):
    return Source(f'{_GPT2[path[0]]}.{path[-1]}')
  module = '.'.join(path[1:-1])
  name = f'transformer.h.{path[0][7:]}.{_GPT2[module]}.{path[-1]}'
  matrix = path[-1] == 'weight' and not module.endswith('norm')
  if module in ('attn.q', 'attn.k', 'attn.v'):
    return Source(name, matrix, 'qkv'.index(module[-1]), 3)
  return Source(name, matrix)


def _t5(config: T5Config, path) -> Source:
  if path[0] in ('embed', 'head'):
    return Source('shared.weight' if path[0] == 'embed' else 'lm_head.weight')
  stack, module = path[0], path[1]
  if module == 'norm':
    return Source(f'{stack}.final_layer_norm.weight')
  if module == 'relative_bias':
    return Source(
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    )
  mlp = 2 if stack == 'decoder' else 1
  wide = {'gate': 'wi_0', 'up': 'wi_1' if config.gated else 'wi', 'down': 'wo'}
  name = {
    'attn': lambda: f'0.SelfAttention.{path[3]}',
    'attn_norm': lambda: '0.layer_norm',
    'cross_attn': lambda: f'1.EncDecAttention.{path[3]}',
    'cross_norm': lambda: '1.layer_norm',
    'mlp': lambda: f'{mlp}.DenseReluDense.{wide[path[3]]}',
    'mlp_norm': lambda: f'{mlp}.layer_norm',
  }[path[2]]()
  return Source(f'{stack}.block.{module[7:]}.layer.{name}.weight')


def stored_shape(source: Source, shape) -> tuple:
  """Returns the shape of the tensor in the file for a parameter's shape."""
  shape = (shape[0] * source.parts, *shape[1:])
  return shape[::-1] if source.transpose else shape


def take(source: Source, tensor: np.ndarray) -> np.ndarray:
  """Cuts a parameter out of the file's tensor."""
  if source.transpose:
    tensor = tensor.T
  if source.parts == 1:
    return tensor
  return np.split(tensor, source.parts, axis=0)[source.part]


def stored_slice(source: Source, index, shape) -> tuple:
  """Where a part of a parameter stands in the file's tensor.

  Args:
    source: the tensor.
    index: a slice of step 1 for each axis of the parameter.
    shape: the parameter's.

  Returns:
    A slice for each axis of the tensor; what stands there is turned over if
    `source.transpose`.
  """
  first, end, _ = index[0].indices(shape[0])
  before = source.part * shape[0]
  index = (slice(before + first, before + end), *index[1:])
  return index[::-1] if source.transpose else index


def give(parts: list) -> np.ndarray:
  """Builds the file's tensor from [(source, parameter)] that share it."""
  parts = sorted(parts, key=lambda item: item[0].part)
  tensor = parts[0][1]
  if len(parts) > 1:
    tensor = np.concatenate([array for _, array in parts], axis=0)
  if parts[0][0].transpose:
    tensor = tensor.T
  return np.ascontiguousarray(tensor)
