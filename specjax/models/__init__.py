"""Networks: configuration, Flax module and cached form of each family.

A family is chosen by the type of its frozen config dataclass; `registry` has
them all.
"""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from specjax.base import CachedLM
from specjax.base import PyTree
from specjax.models import registry
from specjax.models.common import cpu_layout
from specjax.models.common.cache import Cache
from specjax.models.decoder.config import DecoderConfig
from specjax.models.decoder.modeling import Decoder
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.speculator.cached import DraftNet
from specjax.models.speculator.cached import make_net
from specjax.models.speculator.config import ParallelConfig
from specjax.models.speculator.modeling import Parallel
from specjax.models.t5.config import T5Config
from specjax.models.t5.modeling import T5

__all__ = [
  'BlockwiseConfig',
  'Cache',
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
  'is_prepared',
  'make_lm',
  'make_module',
  'make_net',
  'prepare',
  'replace',
]


def is_language_model(config: Any) -> bool:
  """Whether a config is a language model's; else it is a drafter network's."""
  return registry.family_of(config).is_target


def make_module(config: Any) -> nn.Module:
  """Returns the Flax module of `config`."""
  config.validate()
  return registry.family_of(config).network(config)


def replace(config: Any, **settings: Any) -> Any:
  """Returns a config with other settings of the running process.

  Args:
    config: config of any family.
    **settings: `dtype`, `dropout_rate`, `remat`.
  """
  return registry.family_of(config).replace(config, **settings)


def make_lm(
  config: Any,
  *,
  vocab_size: int | None = None,
  hidden_layers: tuple = (),
  dtype: str | None = None,
) -> CachedLM:
  """Returns the `CachedLM` of `config`; the same one for equal arguments.

  Args:
    config: config of a language model.
    vocab_size: V of the logits; the embedding table's rows if None.
    hidden_layers: states to return: i in 0..n-1 is the output of layer i, n or
      -1 the state after the final norm.
    dtype: 'float32' or 'bfloat16' for computing and for the cache; the
      config's if None.
  """
  # 'float32' and jnp.float32 become one key, as do a list of layers and a
  # tuple: two bundles for equal settings would compile all programs twice.
  dtype = None if dtype is None else jnp.dtype(dtype).name
  return _make_lm(config, vocab_size, tuple(hidden_layers), dtype)


@functools.cache
def _make_lm(config, vocab_size, hidden_layers, dtype):
  return registry.family_of(config).as_cached_lm(
    config, vocab_size=vocab_size, hidden_layers=hidden_layers, dtype=dtype
  )


@functools.cache
def abstract_params(config: Any) -> PyTree:
  """Returns the parameter tree as shapes, float32, computing nothing."""
  init = registry.family_of(config).init
  return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def maps(config: Any) -> frozenset[tuple[str, ...]]:
  """Paths of the parameters that map one space to another.

  These are the weights of modules whose class names one in `MAP`, as `Linear`
  does. A table that is looked up row by row, or that scores one token a row, is
  none.

  Args:
    config: config of any family.
  """
  found = set()

  def look(call, args, kwargs, context):
    module = context.module
    if (name := getattr(type(module), 'MAP', '')) and module.path:
      found.add((*module.path, name))
    return call(*args, **kwargs)

  init = registry.family_of(config).init
  with nn.intercept_methods(look):
    # A function of its own: JAX would not call one again that it has traced.
    jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
  return frozenset(found)


def init_params(
  config: Any, key: jax.Array, *, dtype: str | None = None
) -> PyTree:
  """Returns randomly initialised parameters, the tree under 'params'.

  Where the family knows the distribution of each tensor, they are drawn on the
  host: compiling a generator for each of a hundred tensors would take far
  longer. Inside a `jax.jit`, where a key has no value yet, the family's `init`
  draws them. For a model that fills the devices see `placement.draw`.

  Args:
    config: config of any family.
    key: a PRNG key.
    dtype: dtype of the parameters; float32 if None.
  """
  config.validate()
  family = registry.family_of(config)
  if isinstance(key, jax.core.Tracer) or family.initial is None:
    params = family.init(config, key)
  else:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.key_data(key)
    # The words of the key seed the host's generator, so that equal keys give
    # equal weights on every backend.
    rng = np.random.default_rng(np.asarray(key).ravel())

    def draw(path, leaf):
      names = tuple(step.key for step in path)
      mean, std = family.initial(config, names, leaf.shape)
      if not std:
        return jnp.broadcast_to(jnp.float32(mean), leaf.shape)
      return jnp.asarray(std * rng.standard_normal(leaf.shape, np.float32))

    # One generator for all tensors: what a tensor gets depends on those before
    # it, so another layer changes the weights of all that follow.
    params = jax.tree_util.tree_map_with_path(draw, abstract_params(config))
  if dtype is None:
    return params
  return jax.tree.map(lambda x: x.astype(dtype), params)


def is_prepared(config: Any) -> bool:
  """Whether a model on one device of this backend is prepared to decode.

  Args:
    config: config of any family; its dtype is the compute dtype.
  """
  return (
    jax.default_backend() == 'cpu'
    and config.dtype == 'float32'
    and registry.family_of(config).has_common_layers
  )


def prepare(config: Any, params: PyTree) -> PyTree:
  """Transposes matrices to the layout in which this backend decodes fastest.

  Args:
    config: config of the model.
    params: its parameter tree on one device, as it is stored.

  Returns:
    The tree that the cached networks take; `cpu_layout.stored` is the inverse.
  """
  if not is_prepared(config):
    return params
  return cpu_layout.tree(params, registry.facts(config).ties_embeddings)
