"""The model family of decoder-only models."""

import dataclasses

import jax.numpy as jnp

from specjax.models.common import initial as initial_lib
from specjax.models.decoder import hf
from specjax.models.decoder import modeling
from specjax.models.decoder import tensor_names
from specjax.models.decoder.config import DecoderConfig
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily
from specjax.models.family import Shape
from specjax.models.family import Sharding
from specjax.models.family import TokenIds

# Names of facts, and of the fields of `DecoderConfig` that hold them.
_SHARED = {
  'width': 'hidden_size',
  'layers': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'head_dim': 'head_dim',
  'mlp': 'intermediate_size',
  'activation': 'hidden_act',
  'gated': 'gated',
  'positions': 'max_position_embeddings',
}
_OTHER = {
  'kv_heads': 'num_key_value_heads',
  'vocab_size': 'vocab_size',
  'ties_embeddings': 'tie_word_embeddings',
  'embed_scale': 'embed_scale',
  'pad_id': 'pad_token_id',
  'eos_ids': 'eos_token_id',
  'bos_id': 'bos_token_id',
  'logit_softcap': 'final_logit_softcapping',
}


def facts(config: DecoderConfig) -> ModelFacts:
  """`ModelFacts` of a decoder-only model."""
  names = _SHARED | _OTHER
  return ModelFacts(**{name: getattr(config, names[name]) for name in names})


def initial(config: DecoderConfig, path: tuple, shape: tuple) -> tuple:
  """(mean, standard deviation) of a parameter's initial values."""
  return initial_lib.normal(
    path, shape, norm=1.0 - config.norm_offset, table=0.02
  )


def _init(config, key):
  ids = jnp.zeros((1, 2), jnp.int32)
  return modeling.Decoder(config).init(key, ids)['params']


def new(shape: Shape, ids: TokenIds) -> DecoderConfig:
  """The config of a new model."""
  return DecoderConfig(
    **{field: getattr(shape, name) for name, field in _SHARED.items()},
    vocab_size=ids.size,
    num_key_value_heads=shape.kv_heads or shape.heads,
    tie_word_embeddings=shape.tie_embeddings,
    pad_token_id=ids.pad,
    eos_token_id=(ids.eos,),
  )


def _sizes(config) -> dict:
  return {
    'heads': (config.num_attention_heads,),
    'mlp': (config.intermediate_size,),
    'embed': (config.hidden_size,),
    'vocab': (config.vocab_size,),
  }


def _per_device(config, heads, mlp):
  return dataclasses.replace(
    config,
    num_attention_heads=config.num_attention_heads // heads,
    num_key_value_heads=config.num_key_value_heads // heads,
    intermediate_size=config.intermediate_size // mlp,
  )


FAMILY = ModelFamily(
  name='decoder',
  config=DecoderConfig,
  role='target',
  facts=facts,
  network=modeling.Decoder,
  init=_init,
  files=FileFormat(
    model_types=hf.MODEL_TYPES,
    from_json=hf.from_hf,
    to_json=hf.to_hf,
    inner=hf.language_part,
    tensor_name=tensor_names.tensor_name,
    respell=tensor_names.respell,
    is_spare=tensor_names.is_spare,
    settle=tensor_names.settle,
  ),
  as_cached_lm=modeling.make_lm,
  initial=initial,
  sharding=Sharding(
    sizes=_sizes,
    with_key_heads=lambda config, n: dataclasses.replace(
      config, num_key_value_heads=n
    ),
    on_device=lambda config, shards: dataclasses.replace(config, shards=shards),
    per_device=_per_device,
  ),
  has_common_layers=True,
  new=new,
)
