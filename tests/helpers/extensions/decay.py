"""A language model without attention: decaying sums of embeddings.

  s_t = decay * s_(t-1) + table[x_t],   logits_t = readout tanh(mixer s_t) + ...

Parameters have names and a structure of their own, in a tree of two levels.
Trees work too: a slot's sum goes on from its parent's.
"""

import dataclasses
import functools

from flax import linen as nn
from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.models import registry
from specjax.models.common import plain_json
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily


@dataclasses.dataclass(frozen=True)
class DecayConfig:
  """Settings; hashable."""

  symbols: int
  size: int = 16
  decay: float = 0.5
  end: tuple = (2,)
  dtype: str = 'float32'
  model_type: str = 'toy_decay'

  def validate(self):
    if not 0 < self.decay < 1:
      raise ValueError(f'decay must lie between 0 and 1, not {self.decay}.')


class Decay(nn.Module):
  """The network over whole rows."""

  config: DecayConfig

  def setup(self):
    c = self.config
    draw = nn.initializers.normal(1.0)
    self.table = self.param('table', draw, (c.symbols, c.size))
    self.mixer = self.param('mixer', draw, (c.size, c.size))
    self.readout = self.param('readout', draw, (c.symbols, c.size))

  def hidden(self, tokens, positions, segment_ids=None, deterministic=True):
    del segment_ids, deterministic
    rows = self.table[tokens].astype(self.config.dtype)
    first = (positions == 0)[..., None]

    def step(state, given):
      row, begins = given
      state = jnp.where(begins, 0, self.config.decay * state) + row
      return state, state

    zero = jnp.zeros_like(rows[:, 0])
    along = jnp.moveaxis(rows, 1, 0), jnp.moveaxis(first, 1, 0)
    return jnp.moveaxis(lax.scan(step, zero, along)[1], 0, 1)

  def logits_from_hidden(self, hidden):
    inside = jnp.tanh(hidden @ self.mixer.astype(hidden.dtype))
    return (inside @ self.readout.T.astype(hidden.dtype)).astype(jnp.float32)

  def __call__(self, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return self.logits_from_hidden(self.hidden(tokens, positions))


@struct.dataclass
class Sums:
  """The cache: the sum after each committed token."""

  rows: base.Array
  length: base.Array


def _prefill(module, params, prompt, *, capacity):
  batch, size = prompt.tokens.shape
  place = jnp.broadcast_to(jnp.arange(size), (batch, size))
  rows = module.apply({'params': params}, prompt.tokens, place, method='hidden')
  rows = jnp.pad(rows, ((0, 0), (0, max(capacity - size, 0)), (0, 0)))
  last = (prompt.length - 1).astype(jnp.int32)
  token = jnp.take_along_axis(prompt.tokens, last[:, None], axis=1)[:, 0]
  return base.Prefilled(Sums(rows, last), token, ())


def _extend(net, params, cache, tokens, tree=None, slots=None):
  module, vocab_size = net
  batch, count = tokens.shape
  decay = module.config.decay
  table = params['table'].astype(module.config.dtype)
  before = jnp.maximum(cache.length - 1, 0)[:, None, None]
  start = jnp.take_along_axis(cache.rows, before, axis=1)[:, 0]
  start = jnp.where((cache.length > 0)[:, None], start, 0)
  made = []
  for slot in range(count):
    above = start
    if slot:
      parent = jnp.full((batch,), slot - 1)
      if tree is not None:
        parent = tree.parent[:, slot]
      at = jnp.minimum(parent, slot - 1)[:, None, None]
      above = jnp.take_along_axis(jnp.stack(made, 1), at, axis=1)[:, 0]
    made.append(decay * above + table[jnp.maximum(tokens[:, slot], 0)])
  made = jnp.stack(made, axis=1)
  rows = jax.vmap(
    lambda row, new, at: lax.dynamic_update_slice(row, new, (at, 0))
  )(cache.rows, made, cache.length)
  if slots is not None:
    made = jnp.take_along_axis(made, slots[..., None], axis=1)
  logits = module.apply({'params': params}, made, method='logits_from_hidden')
  return base.Scored(logits[..., :vocab_size], ()), cache.replace(rows=rows)


def _commit(cache, num_tokens, path=None):
  rows = cache.rows
  if path is not None:
    first = cache.length[:, None]
    moved = jnp.take_along_axis(rows, (first + path)[..., None], axis=1)
    rows = jax.vmap(
      lambda row, new, at: lax.dynamic_update_slice(row, new, (at, 0))
    )(rows, moved, cache.length + 1)
  return Sums(rows, cache.length + num_tokens)


def _select(cache, rows, *, same_prompt=False):
  del same_prompt
  return jax.tree.map(lambda x: x[rows], cache)


def _cached(config, *, vocab_size=None, hidden_layers=(), dtype=None):
  assert not hidden_layers
  config = dataclasses.replace(config, dtype=dtype or config.dtype)
  module = Decay(config)
  vocab_size = min(vocab_size or config.symbols, config.symbols)
  return base.CachedLM(
    prefill=functools.partial(_prefill, module),
    extend=functools.partial(_extend, (module, vocab_size)),
    commit=_commit,
    select=_select,
    keys_values=None,
    vocab_size=vocab_size,
  )


def _facts(config):
  return ModelFacts(
    width=config.size,
    layers=1,
    heads=1,
    kv_heads=1,
    head_dim=config.size,
    mlp=config.size,
    vocab_size=config.symbols,
    eos_ids=config.end,
  )


def _init(config, key):
  return Decay(config).init(key, jnp.zeros((1, 2), jnp.int32))['params']


FAMILY = ModelFamily(
  name='decay',
  config=DecayConfig,
  role='target',
  facts=_facts,
  network=Decay,
  init=_init,
  files=FileFormat(
    {'toy_decay': ('ToyDecay',)},
    functools.partial(plain_json.from_json, DecayConfig),
    functools.partial(plain_json.to_json, architecture='ToyDecay'),
  ),
  as_cached_lm=_cached,
  new=lambda shape, ids: DecayConfig(ids.size, shape.width, end=(ids.eos,)),
)


def register() -> None:
  """Makes the family known."""
  registry.register(FAMILY)
