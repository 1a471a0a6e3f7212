"""Where the parameters of decoder-only models stand in safetensors files.

Weights are stored `[out, in]` on both sides, so that the map is renaming; the
one exception is GPT-2, whose matrices are `[in, out]` and whose query, key and
value projections are one tensor.
"""

from collections.abc import Collection
import re

from specjax.models.common import tied_head
from specjax.models.decoder.config import DecoderConfig
from specjax.models.family import StoredTensors
from specjax.models.family import TensorName

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
_SPARE = re.compile(
  r'.*rotary_emb\.inv_freq$'
  r'|.*\battn\.(masked_)?bias$'
  r'|(model\.)?(vision_tower|multi_modal_projector)\..*'
)

# How names begin: as a part of a model with images, or as in the family; files
# of the body alone leave it out.
_PREFIXES = {
  'model.': ('language_model.model.', 'model.language_model.'),
  'transformer.': (),
}


def tensor_name(config: DecoderConfig, path: tuple) -> TensorName:
  """`TensorName` of a parameter."""
  if config.model_type == 'gpt2':
    return _gpt2(path)
  table = _POST_NORM if config.post_norm else _LLAMA
  if path[0].startswith('layers_'):
    prefix = f'model.layers.{path[0][7:]}.'
    return TensorName(f'{prefix}{table[".".join(path[1:-1])]}.{path[-1]}')
  return TensorName(f'{table[path[0]]}.{path[-1]}')


def _gpt2(path) -> TensorName:
  if not path[0].startswith('layers_'):
    return TensorName(f'{_GPT2[path[0]]}.{path[-1]}')
  module = '.'.join(path[1:-1])
  name = f'transformer.h.{path[0][7:]}.{_GPT2[module]}.{path[-1]}'
  matrix = path[-1] == 'weight' and not module.endswith('norm')
  if module in ('attn.q', 'attn.k', 'attn.v'):
    return TensorName(name, matrix, 'qkv'.index(module[-1]), 3)
  return TensorName(name, matrix)


def is_spare(config: DecoderConfig, name: str) -> bool:
  """Whether a file may hold a tensor that no parameter needs."""
  return bool(_SPARE.fullmatch(name)) or tied_head.is_spare(config, name)


def respell(
  wanted: dict, names: Collection[str], config: DecoderConfig
) -> dict:
  """{path: `TensorName`} under the names that a folder's files have.

  Args:
    wanted: the same under the usual names.
    names: names of the tensors in the files.
    config: config of the model.
  """
  for prefix, nested in _PREFIXES.items():
    if not any(one.name.startswith(prefix) for one in wanted.values()):
      continue
    own = [p for p in (*nested, prefix) if any(n.startswith(p) for n in names)]
    spelled = own[0] if own else ''
    wanted = {
      path: one._replace(name=spelled + one.name.removeprefix(prefix))
      if one.name.startswith(prefix)
      else one
      for path, one in wanted.items()
    }
  return tied_head.respell(wanted, names, (), config)


def settle(config: DecoderConfig, stored: StoredTensors) -> DecoderConfig:
  """Returns the config with the head tied or not, as the tensors have it."""
  path = ('embed', 'weight')
  embed = {path: tensor_name(config, path)}
  embed = respell(embed, stored.names, config)[path].name
  return tied_head.settle(config, stored, embed)
