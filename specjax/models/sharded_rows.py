"""Rows of a cache that is cut over the devices of a mesh."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from specjax.base import Array
from specjax.base import CachedLM
from specjax.distributed import mesh as mesh_lib
from specjax.models.common.cache import Cache


def cache_specs(layout: mesh_lib.Layout, batch: int, seq2seq: bool) -> Cache:
  """A `Cache` of specs: merged rows of batch and heads lie by device."""
  rows = layout.rows(batch)
  first = rows[0] if rows else None
  first = first if isinstance(first, tuple) else (first,) if first else ()
  # [B * H, ...] lies by rows first and by heads inside, as it is merged.
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


def select(
  lm: CachedLM,
  layout: mesh_lib.Layout,
  cache: Cache,
  rows: Array,
  *,
  same_prompt: bool = False,
) -> Cache:
  """Gathers rows, each of which stays on the devices where it is."""
  old, new = cache.length.shape[0], rows.shape[0]
  seq2seq, parts = lm.is_encoder_decoder, layout.size('batch')
  apart = parts > 1 and old % parts == 0
  if apart and new % parts:
    raise ValueError(
      f'{new} rows cannot be selected on a data axis of {parts} devices; '
      'take a multiple of it.'
    )

  # Rows 2 and 3 lie on device 1, which numbers them 0 and 1:
  # In:  rows [1 1 | 3 2], two data devices of two rows
  # Out: local rows [1 1 | 1 0]
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


def insert(
  lm: CachedLM, layout: mesh_lib.Layout, cache: Cache, fresh: Cache, rows: Array
) -> Cache:
  """Puts each fresh row onto the devices whose row it replaces."""
  old, new = cache.length.shape[0], rows.shape[0]
  axes, parts = layout.axes('batch'), layout.size('batch')
  apart, spread = (parts > 1 and n % parts == 0 for n in (old, new))

  # Four rows on two data devices, fresh rows x and y for the places 3 and 0:
  # In:  [a b | c d], fresh [x | y], rows [3 0]
  # Out: fresh [x y] on both, local rows [3 0 | 1 -2]: [y b | c x]
  def put(cache, fresh, rows):
    if spread:
      gather = functools.partial(
        lax.all_gather, axis_name=axes, axis=0, tiled=True
      )
      table = fresh.bias_table
      fresh = jax.tree.map(gather, fresh.replace(bias_table=None))
      fresh = fresh.replace(bias_table=table)
    if apart:
      first = lax.axis_index(axes) * (old // parts)
      rows = rows - first.astype(rows.dtype)
    return lm.insert(cache, fresh, rows)

  ours, theirs = (
    cache_specs(layout, n, lm.is_encoder_decoder) for n in (old, new)
  )
  return jax.shard_map(
    put,
    mesh=layout.mesh,
    in_specs=(ours, theirs, PartitionSpec()),
    out_specs=ours,
    check_vma=False,
  )(cache, fresh, rows)


def keys_values(
  layout: mesh_lib.Layout, cache: Cache, layer: int
) -> tuple[Array, Array]:
  """One layer's keys and values with the rows in a single device's order."""
  # Two rows with two heads on a model axis of 2: a device has one head of all.
  # In:  [r0h0 r1h0 | r0h1 r1h1]
  # Out: [r0h0 r0h1 r1h0 r1h1]
  batch, heads = cache.length.shape[0], layout.size('heads')
  parts = 1 if batch % layout.size('batch') else layout.size('batch')

  def order(x):
    each = x.reshape(parts, heads, batch // parts, -1, *x.shape[1:])
    return jnp.moveaxis(each, 1, 2).reshape(x.shape)

  return order(cache.keys[layer]), order(cache.values[layer])
