"""T5X checkpoints and conversions of small models."""

import pathlib

import jax
import numpy as np
import tensorstore

from specjax import models
from specjax.checkpoints import convert
from specjax.checkpoints import safetensors

T5_GATED = models.T5Config(
  24,
  16,
  4,
  12,
  2,
  3,
  2,
  relative_attention_num_buckets=8,
  gated=True,
  hidden_act='gelu_new',
  tie_word_embeddings=False,
)


def run(**options):
  request = convert.Conversion(**{k: str(v) for k, v in options.items()})
  made = convert.plan(request)
  convert.execute(made)
  return made


def write(folder, arrays, shard_bytes=1 << 40):
  for old in pathlib.Path(folder).glob('model*'):
    old.unlink()
  safetensors.write(
    str(folder),
    [
      safetensors.Tensor(
        name,
        safetensors.dtype_name(value.dtype),
        value.shape,
        lambda value=value: safetensors.array_chunks(value),
      )
      for name, value in arrays.items()
    ],
    shard_bytes=shard_bytes,
  )


def save_t5x(folder, config, params, scanned):
  """Writes parameters as T5X does, independently of the reader."""
  arrays = {}
  attention = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
  wide = {'gate': 'wi_0', 'up': 'wi_1' if config.gated else 'wi', 'down': 'wo'}
  for stack in ('encoder', 'decoder'):
    tree, layers = params[stack], []
    arrays[f'{stack}.{stack}_norm.scale'] = tree['norm']['weight']
    bias = tree['relative_bias']['weight'].T
    own = 'attention' if stack == 'encoder' else 'self_attention'
    count = getattr(
      config, 'num_layers' if stack == 'encoder' else 'num_decoder_layers'
    )
    for i in range(count):
      layer, made = tree[f'layers_{i}'], {}
      made[f'pre_{own}_layer_norm.scale'] = layer['attn_norm']['weight']
      made['pre_mlp_layer_norm.scale'] = layer['mlp_norm']['weight']
      for key, value in attention.items():
        made[f'{own}.{value}.kernel'] = layer['attn'][key]['weight'].T
        if stack == 'decoder':
          made[f'encoder_decoder_attention.{value}.kernel'] = layer[
            'cross_attn'
          ][key]['weight'].T
      if stack == 'decoder':
        made['pre_cross_attention_layer_norm.scale'] = layer['cross_norm'][
          'weight'
        ]
      for key, value in layer['mlp'].items():
        made[f'mlp.{wide[key]}.kernel'] = value['weight'].T
      layers.append(made)
    if scanned:
      for key in layers[0]:
        arrays[f'{stack}.{stack}.{key}'] = np.stack(
          [layer[key] for layer in layers], axis=1
        )
      arrays[f'{stack}.{stack}.relpos_bias.rel_embedding'] = np.stack(
        [bias] * count, axis=1
      )
    else:
      arrays[f'{stack}.relpos_bias.rel_embedding'] = bias
      for i, layer in enumerate(layers):
        arrays |= {f'{stack}.layers_{i}.{k}': v for k, v in layer.items()}
  arrays['token_embedder.embedding'] = params['embed']['weight']
  if 'head' in params:
    arrays['decoder.logits_dense.kernel'] = params['head']['weight'].T
  for name, value in arrays.items():
    spec = {
      'driver': 'zarr',
      'kvstore': {'driver': 'file', 'path': f'{folder}/target.{name}'},
      'metadata': {'compressor': {'id': 'gzip', 'level': 1}},
    }
    tensorstore.open(
      spec, create=True, dtype=value.dtype.name, shape=value.shape
    ).result().write(np.ascontiguousarray(value)).result()


def drawn(config, dtype=np.float32):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(dtype),
    models.abstract_params(config),
  )
