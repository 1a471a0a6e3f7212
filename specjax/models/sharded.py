"""Networks cut over the devices of a mesh, behind the same `CachedLM`.

Inside a `jax.shard_map` each device runs the ordinary network on its part of
the weights and on its rows, and adds the others' partial sums: one sum after
the attention's output projection, one after the feed-forward, one for the
embedding, and one gathering of logits. Outside, a cache is a pytree of global
arrays, and a caller of `extend` sees no devices.

References:
  Shoeybi et al. Megatron-LM. 2019. https://arxiv.org/abs/1909.08053
  Pope et al. Efficiently scaling transformer inference. 2022.
    https://arxiv.org/abs/2211.05102
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax

from specjax import models
from specjax.base import CachedLM
from specjax.base import Prefilled
from specjax.base import Scored
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry
from specjax.models import sharded_rows

_SPLIT = ('heads', 'mlp', 'vocab')


def fit(
  config: Any, layout: mesh_lib.Layout, batch: int = 0
) -> mesh_lib.Layout:
  """Returns the layout with the rules that a model can follow.

  A network whose family has no `Sharding`, such as one that only drafts, and a
  model of the user's own (config None) lie whole on every device. A table whose
  rows the axis does not divide (and of a tied or a reduced head all tables)
  stays whole.

  Args:
    config: config of any family.
    layout: mesh and rules of the settings.
    batch: rows decoded together, as in `check`.

  Raises:
    MeshError: as `check`; or a rule that decoding cannot follow.
  """
  sharding = None if config is None else registry.family_of(config).sharding
  if sharding is None:
    return mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
  # The width is never cut in decoding: every layer reads all of it, so each
  # would begin by gathering.
  rules = dict(layout.rules) | {'embed': None}
  sizes = sharding.sizes(config)
  for name in _SPLIT:
    axes = layout.axes(name)
    if axes not in ((), ('model',)):
      raise mesh_lib.MeshError(
        f'{name} can lie on the axis model or nowhere in decoding, not on '
        f'{", ".join(axes)}.'
      )
    mesh_lib.check_apart(layout, ('batch', name))
    if name == 'vocab' and any(n % layout.size(name) for n in sizes[name]):
      rules[name] = None
  # Key heads follow the query heads that read them, or attention would exchange
  # keys every step.
  rules['kv_heads'] = rules['heads']
  layout = mesh_lib.with_rules(layout, rules)
  check(config, layout, batch)
  return layout


_NAMES = {
  'heads': 'number of heads',
  'mlp': 'feed-forward width',
  'embed': 'width',
}


def fits(config: Any, batch: int, shape: tuple) -> bool:
  """Whether a mesh divides a model and a batch, under the rules for decoding.

  Args:
    config: config of any family, or None for a model of the user's own.
    batch: rows decoded together.
    shape: (data, model), or (data, fsdp, model).
  """
  *rows, parts = shape
  sharding = None if config is None else registry.family_of(config).sharding
  sizes = {} if sharding is None else sharding.sizes(config)
  cut = (*sizes.get('heads', ()), *sizes.get('mlp', ()))
  return batch % math.prod(rows) == 0 and not any(n % parts for n in cut)


def check(config: Any, layout: mesh_lib.Layout, batch: int = 0) -> None:
  """Raises MeshError if a mesh does not divide a model.

  Args:
    config: config of any family.
    layout: mesh and rules for the model.
    batch: rows decoded together, which the proposed shapes divide; 0 if not
      known.

  Raises:
    MeshError: names the axis, what it does not divide, and shapes that do.
  """
  sharding = registry.family_of(config).sharding
  if sharding is None:
    return
  sizes = sharding.sizes(config)
  for name, words in _NAMES.items():
    parts = layout.size(name)
    if not any(size % parts for size in sizes[name]):
      continue
    count = layout.mesh.size
    every = [(count // n, n) for n in range(1, count + 1) if count % n == 0]
    good = [shape for shape in every if fits(config, batch, shape)]
    shapes = ', '.join(map(str, good)) or 'none'
    raise mesh_lib.MeshError(
      f'the {" and ".join(layout.axes(name))} axis of {parts} devices does not '
      f'divide the {words} of {config.model_type}, {sizes[name][0]}; shapes '
      f'(data, model) for {count} devices: {shapes}.'
    )


def expanded(config: Any, layout: mesh_lib.Layout) -> Any:
  """Returns the config of the parameters as they lie on the mesh.

  Where there are fewer key heads than devices, each device holds a copy of the
  one its query heads read, so that the mesh sees more key heads.

  Args:
    config: config of any family.
    layout: layout of `fit`.
  """
  family = registry.family_of(config)
  ours = family.facts(config).kv_heads
  # 2 key heads on 4 devices: 4, two copies of each; 6 on 4: 12
  kv_heads = math.lcm(ours, layout.size('heads'))
  if family.sharding is None or kv_heads == ours:
    return config
  return family.sharding.with_key_heads(config, kv_heads)


def head_copies(config: Any, layout: mesh_lib.Layout, path: tuple) -> int:
  """Copies of each key head's rows in a parameter; 1 for most."""
  if len(path) < 2 or path[-2] not in ('k', 'v'):
    return 1
  ours = registry.facts(expanded(config, layout)).kv_heads
  return ours // registry.facts(config).kv_heads


@functools.cache
def make_lm(
  config: Any,
  layout: mesh_lib.Layout,
  *,
  vocab_size: int | None = None,
  hidden_layers: tuple = (),
  dtype: str | None = None,
) -> CachedLM:
  """As `models.make_lm`, for parameters that `place` put on a mesh.

  Args:
    config: config of a language model as it is stored.
    layout: devices that it runs on; a batch that its rows do not divide is
      computed by all of them alike.
    vocab_size: V of the logits, as in `models.make_lm`.
    hidden_layers: states to return, as in `models.make_lm`.
    dtype: precision, as in `models.make_lm`.

  Raises:
    ValueError: an axis does not divide the model.
  """
  layout = fit(config, layout)
  sharding = registry.family_of(config).sharding
  if sharding is None:
    return models.make_lm(
      config, vocab_size=vocab_size, hidden_layers=hidden_layers, dtype=dtype
    )
  shards = mesh_lib.Shards(**{n: layout.size(n) for n in _SPLIT})
  lm = models.make_lm(
    sharding.on_device(expanded(config, layout), shards),
    vocab_size=vocab_size,
    hidden_layers=hidden_layers,
    dtype=dtype,
  )
  return lm._replace(
    prefill=functools.partial(_prefill, lm, layout),
    extend=functools.partial(_extend, (lm, layout)),
    commit=functools.partial(_commit, lm, layout),
    select=functools.partial(sharded_rows.select, lm, layout),
    keys_values=functools.partial(sharded_rows.keys_values, layout),
    insert=functools.partial(sharded_rows.insert, lm, layout),
  )


def _spread(layout, function, params, in_specs, out_specs) -> Callable:
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


def _prefill(lm, layout, params, prompt, *, capacity):
  batch = prompt.tokens.shape[0]
  rows = layout.rows(batch)
  specs = sharded_rows.cache_specs(layout, batch, lm.is_encoder_decoder)
  run = _spread(
    layout,
    functools.partial(lm.prefill, capacity=capacity),
    params,
    (rows,),
    Prefilled(specs, rows, rows),
  )
  return run(prompt)


def _extend(whole, params, cache, tokens, tree=None, slots=None):
  lm, layout = whole
  batch = tokens.shape[0]
  rows = layout.rows(batch)
  specs = sharded_rows.cache_specs(layout, batch, lm.is_encoder_decoder)
  given, scored = (specs, rows, rows, rows), (Scored(rows, rows), specs)
  run = _spread(layout, lm.extend, params, given, scored)
  return run(cache, tokens, tree, slots)


def _commit(lm, layout, cache, num_tokens, path=None):
  """Moving columns is local to a device; moving a length is no layout's."""
  if path is None:
    return lm.commit(cache, num_tokens)
  batch = cache.length.shape[0]
  rows = layout.rows(batch)
  specs = sharded_rows.cache_specs(layout, batch, lm.is_encoder_decoder)
  return jax.shard_map(
    lm.commit,
    mesh=layout.mesh,
    in_specs=(specs, rows, rows),
    out_specs=specs,
    check_vma=False,
  )(cache, num_tokens, path)
