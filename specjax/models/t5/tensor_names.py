"""Where the parameters of T5 stand in safetensors files and T5X checkpoints."""

from collections.abc import Collection
import dataclasses
import re

from specjax.models.common import tied_head
from specjax.models.family import StoredTensors
from specjax.models.family import T5XArray
from specjax.models.family import TensorName
from specjax.models.t5.config import T5Config

# Of the names that share a table of embeddings some exporters keep another one.
_TABLES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
# Tensors that some exporters write and nobody needs.
_SPARE = re.compile(
  r'(encoder|decoder)\.embed_tokens\.weight$'
  r'|.*EncDecAttention\.relative_attention_bias\.weight$'
)
_T5X_HEAD = 'decoder/logits_dense/kernel'
_T5X_ATTENTION = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}


def _wide(config) -> dict:
  """Names of the feed-forward's projections, alike in both formats."""
  return {'gate': 'wi_0', 'up': 'wi_1' if config.gated else 'wi', 'down': 'wo'}


def tensor_name(config: T5Config, path: tuple) -> TensorName:
  """`TensorName` of a parameter."""
  if path[0] in ('embed', 'head'):
    return TensorName('shared.weight' if path[0] == 'embed' else tied_head.HEAD)
  stack, module = path[0], path[1]
  if module == 'norm':
    return TensorName(f'{stack}.final_layer_norm.weight')
  if module == 'relative_bias':
    return TensorName(
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    )
  # Decoder blocks hold self-attention, cross-attention and feed-forward as 0, 1
  # and 2; encoder blocks have no cross-attention.
  mlp = 2 if stack == 'decoder' else 1
  name = {
    'attn': lambda: f'0.SelfAttention.{path[3]}',
    'attn_norm': lambda: '0.layer_norm',
    'cross_attn': lambda: f'1.EncDecAttention.{path[3]}',
    'cross_norm': lambda: '1.layer_norm',
    'mlp': lambda: f'{mlp}.DenseReluDense.{_wide(config)[path[3]]}',
    'mlp_norm': lambda: f'{mlp}.layer_norm',
  }[path[2]]()
  return TensorName(f'{stack}.block.{module[7:]}.layer.{name}.weight')


def is_spare(config: T5Config, name: str) -> bool:
  """Whether a file may hold a tensor that no parameter needs."""
  return bool(_SPARE.fullmatch(name)) or tied_head.is_spare(config, name)


def respell(wanted: dict, names: Collection[str], config: T5Config) -> dict:
  """{path: `TensorName`} under the names that a folder's files have."""
  return tied_head.respell(wanted, names, _TABLES, config)


def settle(config: T5Config, stored: StoredTensors) -> T5Config:
  """Returns the config with the head tied or not, as the tensors have it."""
  path = ('embed', 'weight')
  embed = {path: tensor_name(config, path)}
  embed = respell(embed, stored.names, config)[path].name
  return tied_head.settle(config, stored, embed)


def t5x_array(config: T5Config, path: tuple, names: frozenset) -> T5XArray:
  """`T5XArray` of a parameter.

  With scanned layers one array holds a parameter of all layers, and a stack's
  name stands twice in the path (`encoder/encoder/mlp/wo/kernel`).

  Args:
    config: config of the model.
    path: keys of the parameter.
    names: names of the checkpoint's arrays.
  """
  if path == ('embed', 'weight'):
    return T5XArray('token_embedder/embedding', None, False)
  if path == ('head', 'weight'):
    return T5XArray(_T5X_HEAD, None, True)
  stack, module = path[:2]
  if module == 'norm':
    return T5XArray(f'{stack}/{stack}_norm/scale', None, False)
  if module == 'relative_bias':
    name = 'relpos_bias/rel_embedding'
    if f'{stack}/{stack}/{name}' in names:
      return T5XArray(f'{stack}/{stack}/{name}', 0, True)
    return T5XArray(f'{stack}/{name}', None, True)
  layer = int(module.removeprefix('layers_'))
  kind = path[2]
  # ('encoder', 'layers_3', 'mlp', 'up') -> encoder/layers_3/mlp/wi_1/kernel
  own = 'self_attention' if stack == 'decoder' else 'attention'
  if kind == 'attn':
    name = f'{own}/{_T5X_ATTENTION[path[3]]}/kernel'
  elif kind == 'cross_attn':
    name = f'encoder_decoder_attention/{_T5X_ATTENTION[path[3]]}/kernel'
  elif kind == 'mlp':
    name = f'mlp/{_wide(config)[path[3]]}/kernel'
  else:
    before = {
      'attn_norm': f'pre_{own}_layer_norm',
      'cross_norm': 'pre_cross_attention_layer_norm',
      'mlp_norm': 'pre_mlp_layer_norm',
    }
    name = f'{before[kind]}/scale'
  transpose = name.endswith('kernel')
  if any(name.startswith('encoder/encoder/') for name in names):
    return T5XArray(f'{stack}/{stack}/{name}', layer, transpose)
  return T5XArray(f'{stack}/layers_{layer}/{name}', None, transpose)


def t5x_settle(config: T5Config, names: frozenset) -> T5Config:
  """Returns the config with the head tied or not, as the arrays have it.

  T5X scales the states before a tied head, and before no other.
  """
  if _T5X_HEAD not in names:
    return config
  return dataclasses.replace(
    config, tie_word_embeddings=False, scale_decoder_outputs=False
  )


def t5x_layers(config: T5Config, name: str) -> int:
  """Returns the number of layers that a scanned array holds."""
  decoder = name.startswith('decoder/')
  return config.num_decoder_layers if decoder else config.num_layers
