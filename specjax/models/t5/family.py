"""What T5 states about itself."""

import dataclasses

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


def vocabulary_facts(config) -> dict:
  """Facts that a T5 and the drafters on its states spell alike."""
  return dict(
    width=config.d_model, mlp=config.d_ff, vocab_size=config.vocab_size,
    is_encoder_decoder=True, output_ids=config.output_ids,
    start_id=config.decoder_start_token_id,
    pad_id=config.pad_token_id, eos_ids=config.eos_token_id,
  )  # fmt: skip


def layer_facts(config) -> dict:
  """Facts about the layers of a T5, and of drafters made of them."""
  return dict(
    layers=config.num_decoder_layers, heads=config.num_heads,
    kv_heads=config.num_heads, head_dim=config.d_kv,
    activation=config.hidden_act, gated=config.gated,
    ties_embeddings=config.tie_word_embeddings,
  )  # fmt: skip


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
  return T5Config(
    vocab_size=ids.size,
    d_model=shape.width, d_kv=shape.head_dim, d_ff=shape.mlp,
    num_layers=shape.encoder_layers or shape.layers,
    num_decoder_layers=shape.layers, num_heads=shape.heads,
    hidden_act=shape.activation, gated=shape.gated,
    tie_word_embeddings=shape.tie_embeddings,
    scale_decoder_outputs=shape.tie_embeddings,
    decoder_start_token_id=ids.start,
    pad_token_id=ids.pad, eos_token_id=(ids.eos,),
  )  # fmt: skip


def _sizes(config) -> dict:
  tables = (config.vocab_size, len(config.output_ids) or config.vocab_size)
  return {
    'heads': (config.num_heads,),
    'mlp': (config.d_ff,),
    'embed': (config.d_model,),
    'vocab': tables,
  }


FAMILY = ModelFamily(
  't5', T5Config, 'target', facts,
  network=modeling.T5,
  init=_init,
  files=FileFormat(
    config_lib.MODEL_TYPES, config_lib.from_hf, config_lib.to_hf,
    tensor_name=tensor_names.tensor_name, respell=tensor_names.respell,
    is_spare=tensor_names.is_spare, settle=tensor_names.settle,
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
)  # fmt: skip
