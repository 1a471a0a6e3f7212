"""Networks: configuration, Flax module and cached form of each family.

A family is chosen by the type of its frozen config dataclass, `T5Config` or
`DecoderConfig`; `make_module`, `make_lm` and `init_params` dispatch on it.
"""

import functools
from typing import Optional, Union

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from specjax.base import CachedLM
from specjax.models import own_format
from specjax.models.common.cache import Cache
from specjax.models.decoder import modeling as decoder
from specjax.models.decoder.config import DecoderConfig
from specjax.models.decoder.modeling import Decoder
from specjax.models.spec_drafter.blockwise import Blockwise
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.spec_drafter.layers import sinusoids
from specjax.models.spec_drafter.modeling import SpecDrafter
from specjax.models.speculator import modeling as speculator
from specjax.models.speculator.cached import DraftNet
from specjax.models.speculator.cached import make_net
from specjax.models.speculator.config import ParallelConfig
from specjax.models.speculator.modeling import Parallel
from specjax.models.t5 import modeling as t5
from specjax.models.t5.config import T5Config
from specjax.models.t5.modeling import T5

Config = Union[
  T5Config, DecoderConfig, SpecDrafterConfig, BlockwiseConfig, ParallelConfig
]

__all__ = [
  'BlockwiseConfig',
  'Cache',
  'Config',
  'Decoder',
  'DecoderConfig',
  'DraftNet',
  'Parallel',
  'ParallelConfig',
  'SpecDrafterConfig',
  'T5',
  'T5Config',
  'abstract_params',
  'init_params',
  'is_language_model',
  'make_lm',
  'make_module',
  'make_net',
]


def is_language_model(config: Config) -> bool:
  """Whether a config is a language model's; else it is a drafter network's."""
  return not own_format.is_own(config)


def make_module(config: Config) -> nn.Module:
  """Returns the Flax module of `config`."""
  config.validate()
  if isinstance(config, ParallelConfig):
    return Parallel(config)
  if isinstance(config, SpecDrafterConfig):
    return SpecDrafter(config)
  if isinstance(config, BlockwiseConfig):
    return Blockwise(config)
  return T5(config) if isinstance(config, T5Config) else Decoder(config)


def make_lm(
  config: Config,
  *,
  vocab_size: Optional[int] = None,
  hidden_layers: tuple = (),
  dtype: Optional[str] = None,
) -> CachedLM:
  """Returns the `CachedLM` of `config`; the same one for equal arguments.

  Args:
    config: `T5Config` or `DecoderConfig`.
    vocab_size: V of the logits; the embedding table's rows if None.
    hidden_layers: states to return: i in 0..n-1 is the output of layer i, n or
      -1 the state after the final norm.
    dtype: 'float32' or 'bfloat16' for computing and for the cache; the
      config's if None.
  """
  family = t5 if isinstance(config, T5Config) else decoder
  return family.make_lm(
    config,
    vocab_size=vocab_size,
    hidden_layers=tuple(hidden_layers),
    dtype=None if dtype is None else jnp.dtype(dtype).name,
  )


def _init(config, key):
  if isinstance(config, ParallelConfig):
    return speculator.init(config, key)
  module = make_module(config)
  ids = jnp.zeros((1, 2), jnp.int32)
  if isinstance(config, SpecDrafterConfig):
    mask = jnp.ones((1, 2), bool)
    return module.init(key, ids, mask, ids, ids, mask, 1)['params']
  if isinstance(config, BlockwiseConfig):
    return module.init(key, jnp.zeros((1, config.d_model)), 1)['params']
  if isinstance(config, T5Config):
    return module.init(key, ids, jnp.ones((1, 2), bool), ids)['params']
  return module.init(key, ids)['params']


@functools.lru_cache(maxsize=None)
def abstract_params(config: Config):
  """Returns the parameter tree as shapes, float32, computing nothing."""
  return jax.eval_shape(functools.partial(_init, config), jax.random.key(0))


def init_params(config: Config, key, *, dtype: Optional[str] = None):
  """Returns randomly initialised parameters, the tree under 'params'.

  Drawn on the host, from the distributions that `module.init` draws from:
  compiling a generator for each of a hundred tensors would take far longer.
  Inside a `jax.jit`, where a key has no value yet, it is `module.init`. For a
  model that fills the devices see `placement.draw`.

  Args:
    config: `T5Config` or `DecoderConfig`.
    key: a PRNG key.
    dtype: dtype of the parameters; float32 if None.
  """
  if isinstance(key, jax.core.Tracer):
    params = _init(config, key)
  else:
    config.validate()
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.key_data(key)
    rng = np.random.default_rng(np.asarray(key).ravel())

    def draw(path, leaf):
      names = tuple(step.key for step in path)
      mean, std = initial(config, names, leaf.shape)
      if not std:
        return jnp.broadcast_to(jnp.float32(mean), leaf.shape)
      return jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32))

    params = jax.tree_util.tree_map_with_path(draw, abstract_params(config))
  if dtype is None:
    return params
  return jax.tree.map(lambda x: x.astype(dtype), params)


def initial(config: Config, path: tuple, shape: tuple) -> tuple:
  """How a parameter's own module would initialise it.

  Args:
    config: of the model.
    path: keys of the parameter in its tree.
    shape: of the parameter.

  Returns:
    (mean, standard deviation) of a normal distribution; where the deviation is
    0, the mean is the parameter: a number, or float32 of its shape.
  """
  module, leaf = path[-2:]
  if leaf == 'bias':
    return 0.0, 0.0
  if isinstance(config, ParallelConfig):
    if module.startswith('heads_'):
      return 0.0, 1e-3
    if module in ('mask_embed', 'mask_feature'):
      module = 'embed'
    config = config.trunk
  is_t5 = not isinstance(config, DecoderConfig)
  if isinstance(config, SpecDrafterConfig):
    if 'positions' in module:
      return sinusoids(*shape), 0.0
    if module == 'copy':
      return 0.0, 1 / shape[-1]
  if 'norm' in module:
    return 1.0 if is_t5 else 1.0 - config.norm_offset, 0.0
  std = shape[-1] ** -0.5
  if module in ('embed', 'positions', 'mask'):
    std = 1.0 if is_t5 else 0.02
  elif module == 'relative_bias':
    std = 0.1
  elif is_t5 and module == 'q':
    std = (config.d_model * config.d_kv) ** -0.5
  return 0.0, std
