"""The model family of T5."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from specjax.models.common import initial as initial_lib
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily
from specjax.models.family import Shape
from specjax.models.family import Sharding
from specjax.models.family import T5XFormat
from specjax.models.family import TokenIds
from specjax.models.t5 import config as config_lib
from specjax.models.t5 import modeling
from specjax.models.t5 import tensor_names
from specjax.models.t5.config import T5Config

# Names of facts, and of the fields of `T5Config` that hold them. The drafters
# on its states spell them alike.
_VOCABULARY = {
  'width': 'd_model',
  'mlp': 'd_ff',
  'vocab_size': 'vocab_size',
  'output_ids': 'output_ids',
  'start_id': 'decoder_start_token_id',
  'pad_id': 'pad_token_id',
  'eos_ids': 'eos_token_id',
}
_LAYERS = {
  'layers': 'num_decoder_layers',
  'heads': 'num_heads',
  'head_dim': 'd_kv',
  'activation': 'hidden_act',
  'gated': 'gated',
}


def vocabulary_facts(config: Any) -> dict:
  """Facts that a T5 and the drafters on its states have in common."""
  found = {name: getattr(config, field) for name, field in _VOCABULARY.items()}
  return found | {'is_encoder_decoder': True}


def layer_facts(config: Any) -> dict:
  """Facts about the layers of a T5, and of drafters made of them."""
  found = {name: getattr(config, field) for name, field in _LAYERS.items()}
  ties = config.tie_word_embeddings
  return found | {
    'kv_heads': config.num_heads,
    'ties_embeddings': ties,
    'encoder_layers': config.num_layers,
  }


def facts(config: T5Config) -> ModelFacts:
  """`ModelFacts` of a T5."""
  return ModelFacts(
    **vocabulary_facts(config),
    **layer_facts(config),
    head_scale=config.d_model**-0.5 if config.scale_decoder_outputs else 1.0,
  )


def initial(config: T5Config, path: tuple, shape: tuple) -> tuple:
  """(mean, standard deviation) of a parameter's initial values."""
  query = (config.d_model * config.d_kv) ** -0.5
  return initial_lib.normal(path, shape, table=1.0, query=query)


def _init(config, key):
  ids = jnp.zeros((1, 2), jnp.int32)
  mask = jnp.ones((1, 2), bool)
  return modeling.T5(config).init(key, ids, mask, ids)['params']


def _new(shape: Shape, ids: TokenIds) -> T5Config:
  if shape.gated and shape.activation == 'gelu':
    raise ValueError(
      "activation 'gelu' of a gated layer cannot be exported: a T5's "
      "config.json means 'gelu_new' by gated-gelu; take 'gelu_new'."
    )
  sizes = {field: getattr(shape, name) for name, field in _LAYERS.items()}
  return T5Config(
    **sizes,
    vocab_size=ids.size,
    d_model=shape.width,
    d_ff=shape.mlp,
    num_layers=shape.encoder_layers or shape.layers,
    tie_word_embeddings=shape.tie_embeddings,
    scale_decoder_outputs=shape.tie_embeddings,
    decoder_start_token_id=ids.start,
    pad_token_id=ids.pad,
    eos_token_id=(ids.eos,),
  )


def _sizes(config) -> dict:
  tables = (config.vocab_size, len(config.output_ids) or config.vocab_size)
  return {
    'heads': (config.num_heads,),
    'mlp': (config.d_ff,),
    'embed': (config.d_model,),
    'vocab': tables,
  }


FAMILY = ModelFamily(
  't5',
  T5Config,
  'target',
  facts,
  network=modeling.T5,
  init=_init,
  files=FileFormat(
    config_lib.MODEL_TYPES,
    config_lib.from_hf,
    config_lib.to_hf,
    tensor_name=tensor_names.tensor_name,
    respell=tensor_names.respell,
    is_spare=tensor_names.is_spare,
    settle=tensor_names.settle,
  ),
  as_cached_lm=modeling.make_lm,
  initial=initial,
  t5x=T5XFormat(
    array=tensor_names.t5x_array,
    settle=tensor_names.t5x_settle,
    layers=tensor_names.t5x_layers,
  ),
  sharding=Sharding(
    sizes=_sizes,
    # Every query head has a key head of its own.
    with_key_heads=lambda config, n: config,
    on_device=lambda config, shards: dataclasses.replace(config, shards=shards),
    per_device=lambda config, heads, mlp: dataclasses.replace(
      config, num_heads=config.num_heads // heads, d_ff=config.d_ff // mlp
    ),
  ),
  has_common_layers=True,
  reduce_head=lambda config, ids: dataclasses.replace(config, output_ids=ids),
  new=_new,
)
