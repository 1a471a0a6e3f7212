"""Models with random weights, of a known size or made for a target.

A `shape:` model has the size of a known one: its speed is real
and its text is noise. A `network:` is a drafter network for the target at
hand: its cost is real and its drafts are noise. Nothing is downloaded.
"""

import dataclasses
from typing import Any

import jax

from specjax import models
from specjax import waiting
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import placement
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry as families
from specjax.models import sharded
from specjax.models.common import quantize
from specjax.models.common.rope import Rope
from specjax.models.spec_drafter import config as spec_drafter_config
from specjax.models.speculator import config as speculator_config

SHAPE = 'shape:'
NETWORK = 'network:'

_T5 = dict(vocab_size=32128, d_kv=64)
_LLAMA = dict(vocab_size=32000, max_position_embeddings=2048)

SHAPES = {
  't5-tiny': models.T5Config(
    512, 64, 16, 128, num_layers=2, num_decoder_layers=2, num_heads=4
  ),
  't5-mini': models.T5Config(
    d_model=384, d_ff=1536, num_layers=4, num_decoder_layers=4, num_heads=8,
    **(_T5 | {'d_kv': 32}),
  ),
  't5-small': models.T5Config(
    d_model=512, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8,
    **_T5,
  ),
  't5-base': models.T5Config(
    d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12,
    **_T5,
  ),
  't5-large': models.T5Config(
    d_model=1024, d_ff=4096, num_layers=24, num_decoder_layers=24,
    num_heads=16, **_T5,
  ),
  't5-3b': models.T5Config(
    d_model=1024, d_ff=16384, num_layers=24, num_decoder_layers=24,
    num_heads=32, **(_T5 | {'d_kv': 128}),
  ),
  't5-xxl': models.T5Config(
    d_model=4096, d_ff=10240, num_layers=24, num_decoder_layers=24,
    num_heads=64, hidden_act='gelu_new', gated=True, tie_word_embeddings=False,
    scale_decoder_outputs=False, **_T5,
  ),
  'llama-tiny': models.DecoderConfig(
    512, 64, 172, 3, 4, 2, 16, max_position_embeddings=512
  ),
  'llama-68m': models.DecoderConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
    num_attention_heads=12, num_key_value_heads=12, head_dim=64, **_LLAMA,
  ),
  'llama-160m': models.DecoderConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, num_key_value_heads=12, head_dim=64, **_LLAMA,
  ),
  'llama-1b': models.DecoderConfig(
    hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
    num_attention_heads=32, num_key_value_heads=4, head_dim=64, **_LLAMA,
  ),
  'smollm2-135m': models.DecoderConfig(
    49152, 576, 1536, 30, 9, 3, 64, tie_word_embeddings=True,
    max_position_embeddings=8192, rope=Rope(theta=100000.0),
  ),
  'llama-8b': models.DecoderConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    head_dim=128, max_position_embeddings=8192,
  ),
}  # fmt: skip

# Parameters from which on a shape's weights are drawn on the devices.
_LARGE = 2**28
# Rows of a random Spec-Drafter's position tables.
_POSITIONS = 2048
_SPEC_DRAFTER = 'spec_drafter'


def is_shape(name: str) -> bool:
  """Whether a name means random weights of a known size."""
  return name.startswith(SHAPE)


def is_network(name: str) -> bool:
  """Whether a name means a random drafter network."""
  return name.startswith(NETWORK)


def shape_config(name: str) -> Any:
  """The config of 'shape:NAME'.

  Raises:
    ValueError: there is no such shape.
  """
  shape = name.removeprefix(SHAPE)
  if shape not in SHAPES:
    raise ValueError(
      f'There is no shape {shape!r}; there are {", ".join(SHAPES)}.'
    )
  return SHAPES[shape]


def load_shape(
  name: str,
  *,
  dtype: str,
  seed: int = 0,
  layout: mesh_lib.Layout | None = None,
  int8: bool = False,
) -> model_lib.Model:
  """Makes a model of a named shape, without tokenizer and end tokens.

  Args:
    name: 'shape:' and a name of `SHAPES`.
    dtype: 'float32', 'bfloat16' or 'w8a8'.
    seed: seed of the weights, which are made on the devices if there are many.
    layout: the mesh, or None for one device.
    int8: keeps matrices in eight bits, as `load.load` does.

  Raises:
    ValueError: there is no such shape, or the mesh does not divide it.
  """
  config = shape_config(name)
  scale = quantize.WEIGHTS if int8 else ''
  if dtype == 'w8a8':
    dtype, scale = 'float32', quantize.W8A8
  config = dataclasses.replace(config, dtype=dtype, eos_token_id=())
  if layout is not None:
    layout = sharded.fit(config, layout)
  with waiting.noted(f'Drawing the weights of {name}.'):
    params = _weights(config, layout, jax.random.key(seed), scale)
    if layout is None:
      params = models.prepare(config, params)
  made = model_lib.Model(
    params=params,
    config=config,
    module=models.make_module(config),
    tokenizer=None,
    lm=models.make_lm(config),
    eos_ids=(),
    pad_id=0,
    name=name,
  )
  return made if layout is None else model_lib.on_mesh(made, layout, params)


def _weights(config, layout, key, scale: str):
  """Random parameters; large models pass through no host."""
  sizes = (
    leaf.size for leaf in jax.tree.leaves(models.abstract_params(config))
  )
  if sum(sizes) >= _LARGE:
    return placement.draw(config, layout, key, dtype=config.dtype, scale=scale)
  # The devices' generators would have to be compiled.
  params = models.init_params(config, key, dtype=config.dtype)
  params = quantize.tree(params, scale) if scale else params
  return params if layout is None else placement.move(config, layout, params)


def load_network(
  name: str, target: model_lib.Model, *, dtype: str, num_draft: int, seed: int
) -> model_lib.Model:
  """Makes a drafter network of the target's own width.

  Args:
    name: 'network:' and 'spec_drafter', a Spec-Drafter of 12 + 2 layers, or a
      name of `speculator.config.NETWORKS`, of one layer.
    target: the model it drafts for.
    dtype: dtype of its weights.
    num_draft: slots it has.
    seed: seed of its weights.

  Raises:
    ValueError: there is no such network, or none for such a target.
  """
  made = network_config(name, target, dtype=dtype, num_draft=num_draft)
  params = models.init_params(made, jax.random.key(seed), dtype=made.dtype)
  if target.layout is None:
    params = models.prepare(made, params)
  return model_lib.Model(
    params=params,
    config=made,
    module=models.make_module(made),
    tokenizer=target.tokenizer,
    lm=None,
    eos_ids=target.eos_ids,
    pad_id=target.pad_id,
    name=name,
  )


def network_config(
  name: str, target: Any, *, dtype: str, num_draft: int
) -> Any:
  """The config of 'network:NAME' for a target; see `load_network`."""
  variant = name.removeprefix(NETWORK)
  known = (*speculator_config.NETWORKS, _SPEC_DRAFTER)
  if variant not in known:
    raise ValueError(
      f'Unknown network {variant!r}; known are {", ".join(known)}.'
    )
  dtype = 'float32' if dtype == 'w8a8' else dtype
  facts = families.facts(target.config)
  if variant != _SPEC_DRAFTER:
    return speculator_config.random_config(
      variant, facts, num_draft=num_draft, dtype=dtype
    )
  if not facts.is_encoder_decoder:
    raise ValueError(
      f'A {variant} drafts for encoder-decoders, but {target.name} is '
      'decoder-only.'
    )
  return spec_drafter_config.random_config(
    facts, block=num_draft, positions=_POSITIONS, dtype=dtype
  )
