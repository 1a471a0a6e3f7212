"""Memory needs of a decoding job on each device, before any allocation.

Parameters and the state of the loop (caches, tokens) are counted exactly, from
shapes. What a pass needs meanwhile is a model of two moments: the prefill of
the prompts, when attention scores of a layer exist twice, and a step, when
logits do.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import tensor_names
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import costs as costs_lib
from specjax.inference import random_models
from specjax.inference import sources
from specjax.inference.config import DecodeConfig
from specjax.models import registry as families
from specjax.models import sharded
from specjax.models.common import cpu_layout
from specjax.models.common import quantize
from specjax.models.facts import ModelFacts
from specjax.models.t5.layers import PIECE

Subject = Any


class MemoryEstimate(NamedTuple):
  """Bytes a device.

  Attributes:
    parameters: bytes of the parameters of target and drafter.
    state: caches and tokens of a batch.
    working: largest need of a pass beside these.
  """

  parameters: int
  state: int
  working: int

  @property
  def total(self) -> int:
    """All of it."""
    return sum(self)

  def text(self) -> str:
    """One sentence."""
    shown = [f'{part / 1e9:.2f}' for part in (self.total, *self)]
    return (
      f'Memory a device, estimated: {shown[0]} GB ({shown[1]} parameters, '
      f'{shown[2]} caches, {shown[3]} working).'
    )


def estimate_memory(
  config: Subject,
  *,
  drafter: Any = None,
  decode: DecodeConfig | None = None,
  prompt_tokens: int = 128,
  layout: mesh_lib.Layout | None = None,
) -> MemoryEstimate:
  """Estimates the memory that decoding takes of each device.

  Args:
    config: config of the target, or its folder or name.
    drafter: config of a draft model, or a drafter as `specjax.generate` takes
      it; of a folder nothing but the metadata is read.
    decode: settings of the job; by default the defaults.
    prompt_tokens: length of the longest prompt.
    layout: the mesh; by default that of `decode.mesh`.

  Returns:
    `MemoryEstimate`.

  Raises:
    ValueError, OSError: as for loading.
  """
  decode = decode or DecodeConfig()
  layout = layout or sources.layout_for(config, decode.mesh, decode.rows_known)
  target = _part(sources.config_of(config), decode, layout, 'target')
  if not families.family_of(target.local).is_target:
    raise model_lib.no_target(
      config if isinstance(config, str) else 'The config'
    )
  source, draft = None, None
  if decode.num_draft:
    with mesh_lib.about_drafter(decode.mesh):
      source, draft = _drafter(drafter, target, decode, layout)
  batch = decode.rows_known
  # Rows are cut over the batch axis, so a device has its share, rounded up.
  if layout is not None:
    batch = -(-batch // layout.size('batch'))
  width = text_lib.widths([max(prompt_tokens, 1)])[0]
  budget = text_lib.budget(int(max(np.ravel(decode.max_new_tokens))))
  parts = [part for part in (target, draft) if part is not None]
  state = _state_bytes(target, source, decode, batch, width, budget)
  sizes = _Sizes(batch, width, budget, (source is not None) * decode.num_draft)
  working = _working(parts, decode, sizes, state)
  return MemoryEstimate(sum(part.bytes for part in parts), state, working)


def _drafter(drafter, target: '_Part', decode, layout):
  """(source of abstract parameters or None, its model's part or None)."""

  def describe(name, model, how):
    if random_models.is_network(name):
      made = random_models.network_config(
        name, model, dtype=how.dtype or 'float32', num_draft=how.num_draft
      )
    else:
      made = sources.config_of(name)
    return _described(made, name)

  if families.is_config(drafter):
    drafter = _described(drafter, 'drafter')
  source = sources.resolve(
    drafter,
    _described(target.local, 'target'),
    sources.Loading(num_draft=decode.num_draft, load=describe),
  )
  if source is None or source.model is None or source.model.config is None:
    return source, None
  whole = sources.drafter_layout(layout, decode.mesh)
  part = _part(source.model.config, decode, whole, 'drafter')
  # A device runs with the part that it holds.
  model = _described(part.local, source.name)
  return source._replace(model=model), part


def _described(config: Any, name: str) -> model_lib.Model:
  """A model of shapes: what a folder holds, without the weights."""
  return model_lib.Model(
    params=models.abstract_params(config),
    config=config,
    module=None,
    tokenizer=None,
    lm=model_lib.lm_of(config, None),
    eos_ids=(),
    pad_id=0,
    name=name,
  )


class _Sizes(NamedTuple):
  """Sizes of a batch: rows, prompt width, budget, and slots of a draft."""

  batch: int
  width: int
  budget: int
  num_draft: int


def _working(parts, decode, sizes: _Sizes, state) -> int:
  """Largest need of a pass beside parameters and state, in bytes."""
  target, batch, width = parts[0], sizes.batch, sizes.width
  is_pairs = target.facts.is_encoder_decoder
  rows = min(width, PIECE if is_pairs else decode.prefill_chunk)
  in_pieces = rows < width
  prefill = max(_prefill_bytes(part, decode, sizes) for part in parts)
  if is_pairs:
    prefill += sum(4 * part.facts.heads * rows * width for part in parts)
  if not in_pieces and not is_pairs:
    # The last layer's columns are not there yet when its scores are. Read in
    # pieces, a prompt finds the columns of all layers made.
    prefill -= state // (target.facts.layers + 1)
  elif not in_pieces and len(parts) == 1:
    # An encoder is done before most of the decoder's state begins.
    prefill -= state
  if jax.default_backend() == 'cpu' and target.local.dtype == 'bfloat16':
    if len(parts) > 1 or (in_pieces and not is_pairs):
      prefill += _beside_bfloat16(parts, batch, rows, width)
  step = 2.1 * batch * (sizes.num_draft + 1) * target.facts.vocab_size * 4
  step += max(part.converted for part in parts)
  return int(max(prefill, step))


def _beside_bfloat16(parts, batch: int, rows: int, width: int) -> int:
  """Bytes a CPU holds while it decodes in bfloat16; found by fitting.

  Two models, or one that reads in pieces, look tokens up in float32 copies of
  the tables, and the scores of two encoders overlap.
  """
  tables = sum(part.table for part in parts)
  scores = sum(
    4 * part.facts.heads * rows * width
    for part in parts
    if part.facts.is_encoder_decoder
  )
  return 4 * tables + int(0.3 * batch * scores)


class _Part(NamedTuple):
  """A model, as one device of the mesh sees it.

  Attributes:
    local: config whose heads and widths are those of a device.
    bytes: size of its parameters.
    table: entries of its table of embeddings; 0 if that is in eight bits.
    converted: bytes of its largest matrix in eight bits, in the compute dtype;
      a CPU makes that of one after the other.
  """

  local: Any
  bytes: int
  table: int = 0
  converted: int = 0

  @property
  def facts(self) -> ModelFacts:
    """Sizes of what one device computes."""
    return families.facts(self.local)


def _part(config: Any, decode, layout, role: str) -> _Part:
  dtype = {'stored': config.dtype, 'w8a8': 'float32'}.get(
    decode.dtype, decode.dtype
  )
  # As in loading, networks that only draft stay as they are.
  int8 = decode.quantize in (role, 'both') or decode.dtype == 'w8a8'
  int8 = int8 and families.family_of(config).is_target
  local = models.replace(config, dtype=dtype)
  abstract = models.abstract_params(config)
  if layout is not None:
    layout = sharded.fit(config, layout)
    whole = sharded.expanded(local, layout)
    abstract = models.abstract_params(whole)
    sharding = families.family_of(whole).sharding
    local = whole
    if sharding is not None:
      local = sharding.per_device(
        whole, layout.size('heads'), layout.size('mlp')
      )
  tied = families.facts(local).ties_embeddings
  in_order = layout is None and models.is_prepared(local)
  itemsize, total, table, converted = jnp.dtype(dtype).itemsize, 0, 0, 0
  converts = jax.default_backend() == 'cpu' and decode.dtype != 'w8a8'
  for path, leaf in tensor_names.flat(abstract):
    shape = leaf.shape
    if layout is not None:
      axes = mesh_lib.parameter_axes('/'.join(path), len(shape))
      spec = mesh_lib.spec(axes, shape, layout)
      shape = layout.sharding(spec).shard_shape(shape)
    if int8 and quantize.applies(path, leaf):
      # [3, 5] in eight bits: 15 bytes, and 3 scales of 4
      total += math.prod(shape) + 4 * shape[0]
      converted = max(converted, converts * itemsize * math.prod(shape))
    else:
      copies = 1 + (in_order and cpu_layout.is_copied(path, tied))
      total += copies * itemsize * math.prod(shape)
      table += path == ('embed', 'weight') and math.prod(shape)
  return _Part(local, total, table, converted)


def _state_bytes(target, source, decode, batch, width, budget) -> int:
  """Of what the loop carries."""
  assembled = assemble.assemble(
    assemble.target_of(_described(target.local, 'target')),
    source,
    decode.recipe_settings(warp=decode.sampling().warp_spec()),
    rows=batch,
    quiet=True,
  )
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((batch, width), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )

  def start(target_params, model_params, prompt):
    made = assembled._replace(
      target=assembled.target._replace(params=target_params)
    )
    if model_params is not None:
      model = made.source.model._replace(params=model_params)
      made = made._replace(source=made.source._replace(model=model))
    data = DraftData(
      rows=[[0]],
      costs=costs_lib.rule(made, batch),
      script=jnp.zeros((batch, budget), jnp.int32),
    )
    controls = Sampling().controls(
      row_keys(0, range(batch)), budget, spec=made.recipe.warp
    )
    return generate_lib.start(
      made.recipe, made.params(data), prompt, controls, max_new_tokens=budget
    )

  model = assembled.source.model
  # The loop's own start, as shapes: whatever it carries is counted, also what a
  # new drafter adds.
  made = jax.eval_shape(
    start, assembled.target.params, model and model.params, prompt
  )
  plain = (
    x
    for x in jax.tree.leaves(made)
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  )
  return sum(x.size * x.dtype.itemsize for x in plain)


def _prefill_bytes(part: _Part, decode, sizes: _Sizes) -> int:
  """Scores of a layer twice, in float32, and its widest activations."""
  itemsize = jnp.dtype(part.local.dtype).itemsize
  facts, (batch, width, budget, num_draft) = part.facts, sizes
  rows, columns = min(width, decode.prefill_chunk), width
  if facts.layers == 1 and not facts.is_encoder_decoder and rows == width:
    # A prompt's last layer makes keys and values and nothing else.
    return batch * width * itemsize * facts.width
  wide = itemsize * (facts.width + facts.mlp)
  if facts.is_encoder_decoder:
    scores = 2 * 4 * facts.heads * min(width, PIECE) * width
    return batch * (scores + wide * width)
  if rows < width:
    # A piece reads the cache, in which there is room for the answer too.
    columns += budget + num_draft + 2
  return batch * rows * (2 * 4 * facts.heads * columns + wide)
