"""The `CachedLM` of a network whose cache is a `common.cache.Cache`."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from specjax.base import CachedLM
from specjax.base import Scored
from specjax.models.common import cache as cache_lib
from specjax.models.common.output_ids import spread


class Request(NamedTuple):
  """Options of a network's `CachedLM`; see `models.make_lm`."""

  vocab_size: int | None = None
  hidden_layers: tuple = ()
  dtype: str | None = None


class _Net(NamedTuple):
  module: Any
  vocab_size: int
  hidden_layers: tuple
  output_ids: tuple


def make(
  network: Callable[[Any], Any],
  config: Any,
  request: Request,
  prefill: Callable[..., Any],
  *,
  layers: int,
  output_ids: tuple = (),
  **facts: Any,
) -> CachedLM:
  """Wraps a network.

  Args:
    network: config -> module, with a method `extend(tokens, cache, tree, slots,
      hidden_layers)` that returns logits, states and every layer's (keys,
      values).
    config: config of the network.
    request: options of the `CachedLM`.
    prefill: (module, hidden_layers, params, prompt, capacity=) -> `Prefilled`.
    layers: number of layers of its decoder.
    output_ids: ids of the logits, see `output_ids.spread`.
    **facts: further fields of `CachedLM`.

  Returns:
    A `CachedLM` whose `params` are the tree under 'params'.
  """
  if request.dtype is not None:
    dtype = jnp.dtype(request.dtype).name
    config = dataclasses.replace(config, dtype=dtype)
  config.validate()
  hidden_layers = request.hidden_layers
  cache_lib.check_hidden_layers(hidden_layers, layers)
  # Tables are padded to sizes that hardware likes; ids beyond the tokenizer's
  # would otherwise be drawn now and then.
  vocab = min(request.vocab_size or config.vocab_size, config.vocab_size)
  module = network(config)
  net = _Net(module, vocab, hidden_layers, output_ids)
  return CachedLM(
    prefill=functools.partial(prefill, module, hidden_layers),
    extend=functools.partial(_extend, net),
    commit=cache_lib.commit,
    select=cache_lib.select,
    keys_values=cache_lib.keys_values,
    vocab_size=vocab,
    insert=cache_lib.insert,
    **facts,
  )


def _extend(net: _Net, params, cache, tokens, tree=None, slots=None):
  logits, states, kept = net.module.apply(
    {'params': params},
    tokens,
    cache,
    tree,
    slots,
    net.hidden_layers,
    method='extend',
  )
  cache = cache.replace(
    keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept)
  )
  return Scored(spread(logits, net.output_ids, net.vocab_size), states), cache
