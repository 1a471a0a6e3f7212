"""What a decoding job will need of each device, before anything is allocated.

Parameters and the state of the loop (caches, tokens) are counted exactly, from
shapes. What a pass needs meanwhile is a model of two moments: the prefill of
the prompts, when attention scores of a layer exist twice, and a step, when
logits do.
"""

import dataclasses
import math
from typing import NamedTuple, Optional, Union

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax import text as text_lib
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import tensor_names
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import drafting
from specjax.inference.config import DecodeConfig
from specjax.models import own_format
from specjax.models import sharded
from specjax.models.common import cpu_layout
from specjax.models.common import quantize

Subject = Union[models.Config, str]


class MemoryEstimate(NamedTuple):
  """Bytes a device.

  Attributes:
    parameters: of target and drafter.
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
  drafter: Optional[Subject] = None,
  decode: Optional[DecodeConfig] = None,
  prompt_tokens: int = 128,
  layout: Optional[mesh_lib.Layout] = None,
) -> MemoryEstimate:
  """Estimates the memory that decoding takes of each device.

  Args:
    config: of the target, or its folder.
    drafter: of a draft model, or its folder; or a drafter's name, as in
      `--drafter`.
    decode: how to decode; by default the defaults.
    prompt_tokens: of the longest prompt.
    layout: the mesh; by default that of `decode.mesh`.

  Returns:
    `MemoryEstimate`.

  Raises:
    ValueError, OSError: as for loading.
  """
  decode = decode or DecodeConfig()
  layout = layout or mesh_lib.make_layout(decode.mesh)
  whole = None
  if layout is not None:
    whole = mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
    whole = layout if decode.mesh.drafter == 'sharded' else whole
  int8 = decode.quantize
  target = _part(config, decode, layout, int8 in ('target', 'both'))
  if not models.is_language_model(target.local):
    raise loading.no_target(config if isinstance(config, str) else 'The config')
  draft = None
  if decode.num_draft and drafter not in (None, '', 'none'):
    draft = drafter
    if isinstance(drafter, str):
      draft = drafter = drafter.removeprefix(drafting.HYBRID)
    if not isinstance(drafter, str) or drafter not in assemble.FREE_DRAFTERS:
      with mesh_lib.about_drafter(decode.mesh):
        draft = _part(drafter, decode, whole, int8 in ('drafter', 'both'))
  batch = decode.batch_size
  if layout is not None:
    batch = -(-batch // layout.size('batch'))
  width = text_lib.widths([max(prompt_tokens, 1)])[0]
  budget = text_lib.bucket(int(max(np.ravel(decode.max_new_tokens))))
  total = sum(p.bytes for p in (target, draft) if isinstance(p, _Part))
  if isinstance(draft, _Part) and not models.is_language_model(draft.local):
    # A network that only drafts keeps little beside its weights.
    draft = assemble.FREE_DRAFTERS[0]
  state = _state_bytes(target, draft, decode, batch, width, budget)
  parts = [part for part in (target, draft) if isinstance(part, _Part)]
  prefill = max(_prefill_bytes(part, batch, width) for part in parts)
  if not target.is_t5:
    # The last layer's columns are not there yet when its scores are.
    prefill -= state // (target.layers + 1)
  else:
    prefill += sum(4 * part.local.num_heads * width**2 for part in parts)
    if len(parts) == 1:
      # An encoder is done before most of the decoder's state begins.
      prefill -= state
  if jax.default_backend() == 'cpu' and target.local.dtype == 'bfloat16':
    prefill += _beside_bfloat16(parts, batch, width)
  slots = (decode.num_draft if draft is not None else 0) + 1
  step = 2.1 * batch * slots * target.local.vocab_size * 4
  step += max(part.converted for part in parts)
  return MemoryEstimate(total, state, int(max(prefill, step)))


def _beside_bfloat16(parts, batch: int, width: int) -> int:
  """What a CPU keeps while two models decode in bfloat16; found by fitting.

  It looks tokens up in float32 copies of the tables, and the scores of two
  encoders overlap.
  """
  if len(parts) == 1:
    return 0
  tables = sum(part.table for part in parts)
  scores = sum(4 * p.local.num_heads * width**2 for p in parts if p.is_t5)
  return 4 * tables + int(0.3 * batch * scores)


class _Part(NamedTuple):
  """A model, as one device of the mesh sees it.

  Attributes:
    local: config whose heads and widths are those of a device.
    bytes: of its parameters.
    table: entries of its table of embeddings; 0 if that is in eight bits.
    converted: bytes of its largest matrix in eight bits, in the compute dtype;
      a CPU makes that of one after the other.
  """

  local: models.Config
  bytes: int
  table: int = 0
  converted: int = 0

  @property
  def is_t5(self) -> bool:
    return isinstance(self.local, models.T5Config)

  @property
  def layers(self) -> int:
    return self.local.num_layers


def _part(config: Subject, decode, layout, int8: bool) -> _Part:
  if isinstance(config, str):
    config = folder_lib.describe(loading.folder_of(config))
  dtype = {'stored': config.dtype, 'w8a8': 'float32'}.get(
    decode.dtype, decode.dtype
  )
  # As in loading, networks that only draft stay as they are.
  int8 = int8 or decode.dtype == 'w8a8'
  int8 = int8 and not own_format.is_own(config)
  local = own_format.with_dtype(config, dtype)
  abstract = models.abstract_params(config)
  if layout is not None:
    layout = sharded.fit(config, layout)
    whole = sharded.expanded(local, layout)
    abstract = models.abstract_params(whole)
    local = _divided(whole, layout)
  in_order = layout is None and cpu_layout.applies(local)
  itemsize, total, table, converted = jnp.dtype(dtype).itemsize, 0, 0, 0
  converts = jax.default_backend() == 'cpu' and decode.dtype != 'w8a8'
  for path, leaf in tensor_names.flat(abstract):
    shape = leaf.shape
    if layout is not None:
      axes = mesh_lib.parameter_axes('/'.join(path), len(shape))
      spec = mesh_lib.spec(axes, shape, layout)
      shape = layout.sharding(spec).shard_shape(shape)
    if int8 and quantize.applies(path, leaf):
      total += math.prod(shape) + 4 * shape[0]
      converted = max(converted, converts * itemsize * math.prod(shape))
    else:
      copies = 1 + (in_order and cpu_layout.is_copied(local, path))
      total += copies * itemsize * math.prod(shape)
      table += path == ('embed', 'weight') and math.prod(shape)
  return _Part(local, total, table, converted)


def _divided(config, layout):
  """A config of the size that one device computes."""
  heads, mlp = layout.size('heads'), layout.size('mlp')
  if heads == mlp == 1:
    return config
  if isinstance(config, models.T5Config):
    return dataclasses.replace(
      config, num_heads=config.num_heads // heads, d_ff=config.d_ff // mlp
    )
  return dataclasses.replace(
    config,
    num_attention_heads=config.num_attention_heads // heads,
    num_key_value_heads=config.num_key_value_heads // heads,
    intermediate_size=config.intermediate_size // mlp,
  )


def _state_bytes(target, draft, decode, batch, width, budget) -> int:
  """Of what the loop carries."""
  lm = models.make_lm(target.local)
  drafter = models.make_lm(draft.local) if isinstance(draft, _Part) else draft
  recipe = assemble.recipe(
    lm,
    drafter,
    num_draft=decode.num_draft,
    verify=decode.verify,
    warp=decode.sampling().warp_spec(),
    sampler=decode.sampler,
  )
  params = generate_lib.Params(
    models.abstract_params(target.local),
    models.abstract_params(draft.local) if isinstance(draft, _Part) else None,
  )
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((batch, width), jnp.int32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )

  def start(params, prompt):
    controls = Sampling(temperature=0.0).controls(
      row_keys(0, range(batch)), budget
    )
    return generate_lib.start(
      recipe, params, prompt, controls, max_new_tokens=budget
    )

  made = jax.tree.leaves(jax.eval_shape(start, params, prompt))
  plain = (x for x in made if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
  return sum(x.size * x.dtype.itemsize for x in plain)


def _prefill_bytes(part: _Part, batch: int, width: int) -> int:
  """Scores of a layer twice, in float32, and its widest activations."""
  itemsize = jnp.dtype(part.local.dtype).itemsize
  local = part.local
  if part.is_t5:
    heads, sizes = local.num_heads, (local.d_model, local.d_ff)
  else:
    heads = local.num_attention_heads
    sizes = (local.hidden_size, local.intermediate_size)
  scores = 2 * 4 * heads * width
  if part.layers == 1 and not part.is_t5:
    # A prompt's last layer makes keys and values and nothing else.
    return batch * width * itemsize * local.hidden_size
  return batch * width * (scores + itemsize * sum(sizes))
