"""Keyed noise, and the samplers that consume it.

Every random number of a generation is a function of a row's key and of a few
integers, so a row's tokens depend on neither its batch mates nor padding. Two
disciplines exist, and mixing them up biases the output:

* `position_keys`: noise belongs to an absolute position. Plain sampling and the
  rules that keep the target's own sample (`match`, `coupled`) use it.
* `node_keys`: noise belongs to a round (named by the committed length it starts
  from), a node of its draft and a role. The ratio rules (`sampling`, `block`,
  `lenient`) must use it: block verification stops on the noise of later slots,
  so noise that were met again in the next round would no longer be uniform.
"""

import jax
import jax.numpy as jnp

from specjax.base import Array

# Roles. Large, so that folding one in never equals folding in a length, a
# position or a node.
TARGET = 2**30 + 11  # the target's own sample at a position
DRAFT = 2**30 + 23  # a draft token, per round and node
ACCEPT = 2**30 + 37  # an acceptance test, per round and node
RESIDUAL = 2**30 + 53  # the correction or bonus token, per round
PRIVATE = 2**30 + 71  # a draft token at a position, not shared with the target

SAMPLERS = ('gumbel', 'inverse_cdf')

# Below this many entries one flat reduction is as fast as two levels.
_SMALL = 512


def _fold(keys: Array, data: Array) -> Array:
  """`fold_in`, elementwise; `data` has the shape of `keys`."""
  flat = jax.vmap(jax.random.fold_in)(
    keys.reshape(-1), data.reshape(-1).astype(jnp.uint32)
  )
  return flat.reshape(keys.shape)


def _fold_constant(keys: Array, data: int) -> Array:
  return _fold(keys, jnp.full(keys.shape, data, jnp.uint32))


def position_keys(row_key: Array, position: Array, role: int) -> Array:
  """Keys of absolute positions.

  Args:
    row_key: typed PRNG keys [B].
    position: int32 [B, n]; the token that will stand at index i of
      `Context.tokens` has position i.
    role: one of this module's roles.

  Returns:
    Typed keys [B, n].
  """
  # The role first, which is one number for all positions, so that the position
  # alone is folded in n times.
  keys = _fold_constant(row_key, role)
  return _fold(jnp.broadcast_to(keys[:, None], position.shape), position)


def node_keys(
  row_key: Array, length: Array, num_nodes: int, role: int
) -> Array:
  """Keys of the nodes 0..num_nodes - 1 of one round's draft.

  Args:
    row_key: typed PRNG keys [B].
    length: int32 [B], committed tokens when the round starts.
    num_nodes: number of keys that a row needs.
    role: one of this module's roles.

  Returns:
    Typed keys [B, num_nodes].
  """
  nodes = jnp.arange(num_nodes)
  return round_keys(row_key, length, nodes, jnp.full_like(nodes, role))


def round_keys(
  row_key: Array, length: Array, nodes: Array, roles: Array
) -> Array:
  """As `node_keys`, for pairs of a node and a role.

  Args:
    row_key: typed keys [B], as there.
    length: int32 [B], as there.
    nodes: int32 [n].
    roles: int32 [n].

  Returns:
    Typed keys [B, n]. Asking for all keys of a round at once compiles faster.
  """
  shape = (row_key.shape[0], nodes.shape[0])
  # length 5, nodes [0 1], roles [DRAFT ACCEPT]:
  #   key -> 5 -> 0 -> DRAFT,  key -> 5 -> 1 -> ACCEPT
  keys = jnp.broadcast_to(_fold(row_key, length)[:, None], shape)
  keys = _fold(keys, jnp.broadcast_to(nodes, shape))
  return _fold(keys, jnp.broadcast_to(roles, shape))


def uniform(keys: Array) -> Array:
  """Float32 uniforms in [0, 1) on the 2^-23 grid, one a key; may be 0."""
  draw = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))
  return draw(keys.reshape(-1)).reshape(keys.shape)


def gumbel(keys: Array, vocab_size: int) -> Array:
  """Standard Gumbel noise, float32 [..., V] for keys [...].

  The value of entry i depends on the key and on i, not on V: cutting the padded
  tail of a vocabulary changes no sample. Equal to -log(E) for an exponential
  E = -log1p(-u), with all 32 bits of u kept where u is small: the tail that
  decides rare tokens is resolved to 2^-32, against 2^-23 for the usual
  -log(-log(u)), at the same price. (JAX's own high-range mode draws a second
  row of bits, at offsets that move with V.)
  """
  bits = jax.vmap(lambda key: jax.random.bits(key, (vocab_size,), jnp.uint32))(
    keys.reshape(-1)
  )
  # The half keeps u above 0, whose logarithm is infinite; large u round to 1 in
  # float32, so they are cut at the largest number below it.
  u = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
  u = jnp.minimum(u, jnp.float32(1 - 2.0**-24))
  return -jnp.log(-jnp.log1p(-u)).reshape(*keys.shape, vocab_size)


def _block_size(size: int) -> int:
  """About sqrt(size): how many entries a block of the first level has.

  A divisor of `size` where there is a near one, so that nothing is padded.
  """
  # 32128 entries: 251 blocks of 128
  root = round(size**0.5)
  # Reshaping costs nothing if no row is padded. Multiples of 16 suit vector
  # registers and are taken where there are any.
  near = [b for b in range(root // 2, 2 * root) if size % b == 0]
  aligned = [b for b in near if b % 16 == 0]
  return min(aligned or near or [root], key=lambda b: abs(b - root))


def _blocks(x: Array, fill: float) -> Array:
  """[..., V] -> [..., blocks, block], padded with `fill`."""
  size = x.shape[-1]
  block = _block_size(size)
  padding = [(0, 0)] * (x.ndim - 1) + [(0, -size % block)]
  return jnp.pad(x, padding, constant_values=fill).reshape(
    *x.shape[:-1], -1, block
  )


def _take_block(blocks: Array, index: Array) -> Array:
  """[..., blocks, block], [...] -> [..., block]."""
  return jnp.take_along_axis(blocks, index[..., None, None], axis=-2)[..., 0, :]


def argmax(x: Array) -> Array:
  """Index of the largest entry, int32 [...] for x [..., V].

  The first index on ties, and 0 when every entry is -inf, as `jnp.argmax`, but
  several times faster on CPU for a large V: the best block is found by a plain
  maximum and only that block is searched.
  """
  size = x.shape[-1]
  if size <= _SMALL:
    return jnp.argmax(x, axis=-1).astype(jnp.int32)
  blocks = _blocks(x, -jnp.inf)
  # x [3 1 | 4 4 | 0 2]: maxima [3 4 2], block 1, entry 0 of it, index 2. First
  # of the blocks and first inside: ties end at the smallest id.
  best = jnp.argmax(blocks.max(axis=-1), axis=-1)
  inside = jnp.argmax(_take_block(blocks, best), axis=-1)
  index = best * blocks.shape[-1] + inside
  return jnp.minimum(index, size - 1).astype(jnp.int32)


def _pick(weights: Array, u: Array) -> Array:
  """The entry of `weights` [..., n] in which the fraction `u` [...] falls.

  A parallel prefix sum need not be monotone to the last bit, so entries of
  weight zero are excluded by name instead of by trusting the sums.
  """
  # weights [.2 0 .5 .3], u .5: total [.2 .2 .7 1], entry 2
  total = jnp.cumsum(weights, axis=-1)
  # Strict: with u = 0 an entry of weight 0 in front would be hit by >=.
  hit = (total > (u * total[..., -1])[..., None]) & (weights > 0)
  return jnp.where(
    hit.any(axis=-1), jnp.argmax(hit, axis=-1), jnp.argmax(weights, axis=-1)
  )


def draw(weights: Array, keys: Array) -> Array:
  """Draws entries in proportion to unnormalised weights, by inverse CDF.

  Two levels and two uniforms: the first chooses a block by the block sums, the
  second an entry inside it, which resolves probabilities far below the 2^-23 of
  a single uniform and needs no prefix sum over the vocabulary.

  Args:
    weights: float32 [..., V], finite and not negative; an entry of weight 0 is
      never drawn. A row without any weight gives some index in range.
    keys: typed keys [...].

  Returns:
    int32 [...].
  """
  size = weights.shape[-1]
  # weights [.1 .1 | .2 .6], uniforms [.5 .1]: blocks [.2 .8] give block 1, and
  # .1 of its .8 falls into entry 0: index 2
  pairs = jax.vmap(lambda key: jax.random.uniform(key, (2,), jnp.float32))(
    keys.reshape(-1)
  ).reshape(*keys.shape, 2)
  if size <= _SMALL:
    return _pick(weights, pairs[..., 0]).astype(jnp.int32)
  blocks = _blocks(weights, 0.0)
  chosen = _pick(blocks.sum(axis=-1), pairs[..., 0])
  inside = _pick(_take_block(blocks, chosen), pairs[..., 1])
  index = chosen * blocks.shape[-1] + inside
  return jnp.minimum(index, size - 1).astype(jnp.int32)


def gumbel_argmax(logits: Array, keys: Array) -> Array:
  """Samples softmax(logits) by Gumbel-max: int32 [...] for logits [..., V].

  Noise is a function of key and token alone, which is what lets a drafter share
  it. A logit of -inf is never drawn unless all are (then index 0).
  """
  noise = gumbel(keys, logits.shape[-1])
  return argmax(logits.astype(jnp.float32) + noise)


def inverse_cdf(logits: Array, keys: Array) -> Array:
  """Samples softmax(logits) by `draw`: int32 [...] for logits [..., V]."""
  logits = logits.astype(jnp.float32)
  top = jnp.max(logits, axis=-1, keepdims=True)
  # -inf minus -inf would be NaN; a row without any chance keeps weights of 0.
  top = jnp.where(jnp.isfinite(top), top, 0.0)
  return draw(jnp.exp(logits - top), keys)


def categorical(logits: Array, keys: Array, sampler: str = 'gumbel') -> Array:
  """Samples softmax(logits), int32 [...].

  Args:
    logits: [..., V], not normalised.
    keys: typed keys [...].
    sampler: 'gumbel' or 'inverse_cdf'.

  Raises:
    ValueError: there is no such sampler.
  """
  if sampler == 'gumbel':
    return gumbel_argmax(logits, keys)
  if sampler == 'inverse_cdf':
    return inverse_cdf(logits, keys)
  raise ValueError(
    f'Unknown sampler {sampler!r}: it must be one of {", ".join(SAMPLERS)}.'
  )
