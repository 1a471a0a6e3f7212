"""Networks cut over the devices of a mesh, behind the same `CachedLM`.

Inside a `jax.shard_map` each device runs the ordinary network on its part of
the weights and on its rows, and adds the others' partial sums: one sum after
the attention's output projection, one after the feed-forward, one for the
embedding, and one gathering of logits. Outside, a cache is a pytree of global
arrays like any other, and who calls `extend` need not know of devices.

References:
  Shoeybi et al. Megatron-LM. 2019. https://arxiv.org/abs/1909.08053
  Pope et al. Efficiently scaling transformer inference. 2022.
    https://arxiv.org/abs/2211.05102
"""

import dataclasses
import functools
import math
from typing import Callable, Optional

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from specjax import models
from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Scored
from specjax.distributed import mesh as mesh_lib
from specjax.models.common.cache import Cache
from specjax.models.decoder.config import DecoderConfig
from specjax.models.t5.config import T5Config

_SPLIT = ('heads', 'mlp', 'vocab')


def fit(config, layout: mesh_lib.Layout) -> mesh_lib.Layout:
  """The layout with the rules that a model can follow.

  A table whose rows the axis does not divide (and of a tied or a reduced head
  all tables) stays whole.

  Args:
    config: `T5Config` or `DecoderConfig`.
    layout: as asked for.

  Raises:
    ValueError: as `check`; or a rule that decoding cannot follow.
  """
  if not models.is_language_model(config):
    # A network that only drafts is small, and lies whole on every device.
    return mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
  rules = dict(layout.rules) | {'embed': None}
  sizes = _sizes(config)
  for name in _SPLIT:
    axes = layout.axes(name)
    if axes not in ((), ('model',)):
      raise ValueError(
        f'{name} can lie on the axis model or nowhere in decoding, not on '
        f'{", ".join(axes)}.'
      )
    mesh_lib.check_apart(layout, ('batch', name))
    if name == 'vocab' and any(n % layout.size(name) for n in sizes[name]):
      rules[name] = None
  rules['kv_heads'] = rules['heads']
  layout = mesh_lib.with_rules(layout, rules)
  check(config, layout)
  return layout


_NAMES = {
  'heads': 'number of heads',
  'mlp': 'feed-forward width',
  'embed': 'width',
}


def check(config, layout: mesh_lib.Layout) -> None:
  """Refuses a mesh that does not divide a model.

  Args:
    config: `T5Config` or `DecoderConfig`.
    layout: where the model is to go.

  Raises:
    ValueError: names the axis, what it does not divide, and shapes that do.
  """
  if not models.is_language_model(config):
    return
  sizes = _sizes(config)
  for name, words in _NAMES.items():
    parts = layout.size(name)
    if not any(size % parts for size in sizes[name]):
      continue
    count = layout.mesh.size
    both = (*sizes['heads'], *sizes['mlp'])
    good = [
      (count // n, n)
      for n in range(1, count + 1)
      if count % n == 0 and not any(size % n for size in both)
    ]
    raise ValueError(
      f'the {" and ".join(layout.axes(name))} axis of {parts} devices does not '
      f'divide the {words} of {config.model_type}, {sizes[name][0]}; shapes '
      f'(data, model) for {count} devices: {", ".join(map(str, good))}.'
    )


def _sizes(config) -> dict:
  """What each axis must divide."""
  if isinstance(config, T5Config):
    tables = (config.vocab_size, len(config.output_ids) or config.vocab_size)
    return {
      'heads': (config.num_heads,),
      'mlp': (config.d_ff,),
      'embed': (config.d_model,),
      'vocab': tables,
    }
  return {
    'heads': (config.num_attention_heads,),
    'mlp': (config.intermediate_size,),
    'embed': (config.hidden_size,),
    'vocab': (config.vocab_size,),
  }


def expanded(config, layout: mesh_lib.Layout):
  """The config of the parameters as they lie on the mesh.

  Where there are fewer key heads than devices, each device holds a copy of the
  one its query heads read, so that the mesh sees more key heads.

  Args:
    config: `T5Config` or `DecoderConfig`.
    layout: of `fit`.
  """
  if not isinstance(config, DecoderConfig):
    return config
  kv_heads = math.lcm(config.num_key_value_heads, layout.size('heads'))
  return dataclasses.replace(config, num_key_value_heads=kv_heads)


def local_config(config, layout: mesh_lib.Layout):
  """The config of the network that one device runs.

  Args:
    config: of `expanded`.
    layout: of `fit`.
  """
  shards = mesh_lib.Shards(**{n: layout.size(n) for n in _SPLIT})
  return dataclasses.replace(config, shards=shards)


def head_copies(config, layout: mesh_lib.Layout, path) -> int:
  """How often each key head's rows are repeated in a parameter; 1 for most."""
  if len(path) < 2 or path[-2] not in ('k', 'v'):
    return 1
  if not isinstance(config, DecoderConfig):
    return 1
  ours = expanded(config, layout).num_key_value_heads
  return ours // config.num_key_value_heads


def cache_specs(layout: mesh_lib.Layout, batch: int, seq2seq: bool):
  """A `Cache` of specs: merged rows of batch and heads lie by device."""
  rows = layout.rows(batch)
  first = rows[0] if rows else None
  first = first if isinstance(first, tuple) else (first,) if first else ()
  merged = PartitionSpec((*first, *layout.axes('heads')) or None)
  return Cache(
    keys=merged,
    values=merged,
    length=rows,
    cross_keys=merged,
    cross_values=merged,
    source_mask=rows if seq2seq else None,
    bias_table=PartitionSpec(layout.axes('heads') or None) if seq2seq else None,
  )


@functools.lru_cache(maxsize=None)
def make_lm(
  config,
  layout: mesh_lib.Layout,
  *,
  vocab_size: Optional[int] = None,
  hidden_layers: tuple = (),
  dtype: Optional[str] = None,
) -> CachedLM:
  """As `models.make_lm`, for parameters that `place` put on a mesh.

  Args:
    config: `T5Config` or `DecoderConfig`, of the model as it is stored.
    layout: where it runs; a batch that its rows do not divide is computed by
      all of them alike.
    vocab_size, hidden_layers, dtype: as in `models.make_lm`.

  Raises:
    ValueError: an axis does not divide the model.
  """
  layout = fit(config, layout)
  whole = expanded(config, layout)
  lm = models.make_lm(
    local_config(whole, layout),
    vocab_size=vocab_size,
    hidden_layers=hidden_layers,
    dtype=dtype,
  )
  seq2seq = lm.is_encoder_decoder

  def spread(function, params, in_specs, out_specs) -> Callable:
    """Runs `function(params, ...)` on every device's part."""
    specs = mesh_lib.parameter_specs(params, layout)
    # Psums are written where they are needed, so nothing is checked.
    return functools.partial(
      jax.shard_map(
        function,
        mesh=layout.mesh,
        in_specs=(specs, *in_specs),
        out_specs=out_specs,
        check_vma=False,
      ),
      params,
    )

  def prefill(params, prompt, *, capacity):
    batch = prompt.tokens.shape[0]
    rows = layout.rows(batch)
    run = spread(
      functools.partial(lm.prefill, capacity=capacity),
      params,
      (rows,),
      Prefilled(cache_specs(layout, batch, seq2seq), rows, rows),
    )
    return run(prompt)

  def extend(params, cache, tokens, tree=None, slots=None):
    batch = tokens.shape[0]
    rows = layout.rows(batch)
    specs = cache_specs(layout, batch, seq2seq)
    run = spread(
      lm.extend, params, (specs, rows, rows, rows), (Scored(rows, rows), specs)
    )
    return run(cache, tokens, tree, slots)

  return lm._replace(
    prefill=prefill,
    extend=extend,
    commit=functools.partial(_commit, lm, layout),
    select=functools.partial(_select, lm, layout),
    keys_values=functools.partial(_keys_values, layout),
  )


def _commit(lm, layout, cache, num_tokens, path=None):
  """Moving columns is local to a device; moving a length is no layout's."""
  if path is None:
    return lm.commit(cache, num_tokens)
  batch = cache.length.shape[0]
  rows = layout.rows(batch)
  specs = cache_specs(layout, batch, lm.is_encoder_decoder)
  return jax.shard_map(
    lm.commit,
    mesh=layout.mesh,
    in_specs=(specs, rows, rows),
    out_specs=specs,
    check_vma=False,
  )(cache, num_tokens, path)


def _select(lm, layout, cache, rows, *, same_prompt=False):
  """Gathers rows, each of which stays on the devices where it is."""
  old, new = cache.length.shape[0], rows.shape[0]
  seq2seq, parts = lm.is_encoder_decoder, layout.size('batch')
  apart = parts > 1 and old % parts == 0
  if apart and new % parts:
    raise ValueError(
      f'{new} rows cannot be selected on a data axis of {parts} devices; '
      'take a multiple of it.'
    )

  def gather(cache, rows):
    if apart:
      first = lax.axis_index(layout.axes('batch')) * (old // parts)
      rows = rows - first.astype(rows.dtype)
    return lm.select(cache, rows, same_prompt=same_prompt)

  kept = cache_specs(layout, old if same_prompt else new, seq2seq)
  ins = cache_specs(layout, old, seq2seq)
  outs = cache_specs(layout, new, seq2seq).replace(
    cross_keys=kept.cross_keys,
    cross_values=kept.cross_values,
    source_mask=kept.source_mask,
  )
  return jax.shard_map(
    gather,
    mesh=layout.mesh,
    in_specs=(ins, layout.rows(new)),
    out_specs=outs,
    check_vma=False,
  )(cache, rows)


def _keys_values(layout, cache, layer):
  """One layer's keys and values with the rows in a single device's order."""
  batch, heads = cache.length.shape[0], layout.size('heads')
  parts = 1 if batch % layout.size('batch') else layout.size('batch')

  def order(x):
    each = x.reshape(parts, heads, batch // parts, -1, *x.shape[1:])
    return jnp.moveaxis(each, 1, 2).reshape(x.shape)

  return order(cache.keys[layer]), order(cache.values[layer])
