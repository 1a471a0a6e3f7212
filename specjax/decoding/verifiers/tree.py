"""Rules for drafts that are trees: `greedy`, `match` and `coupled`.

Each slot of the tree has the target's own token: its argmax, or its sample by
noise that belongs to the slot's position, shared by all slots of one depth.
From the root, the walk goes to the child that holds that token, as long as
there is one. So the emitted tokens are those of plain decoding with the same
row key, whatever the tree proposes.

References:
  Miao et al. SpecInfer. ASPLOS 2024 (naive sampling). 2305.09781
  Daliri, Musco, Suresh. Coupling without communication and drafter-invariant
    speculative decoding. 2024. https://arxiv.org/abs/2408.07978
"""

import functools

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.decoding import sampling
from specjax.decoding.verifiers import common


def _walk(draft: Draft, logits: Array, target: Array, max_path: int) -> Verdict:
  """Follows the target's tokens from the root.

  Args:
    draft: K tokens and their tree.
    logits: float32 [B, T, V]; a token chosen by a NaN is not followed.
    target: int32 [B, T], the target's token after each slot.
    max_path: P.

  Returns:
    `Verdict` with a path [B, P].
  """
  batch, num_slots = target.shape
  # The root stands for no drafted token, and no child.
  tokens = jnp.pad(draft.tokens, ((0, 0), (1, 0)), constant_values=-1)
  sound = ~jnp.isnan(common.at_tokens(logits, target))
  slot = jnp.zeros((batch,), jnp.int32)
  going = jnp.ones((batch,), bool)
  num_accepted = jnp.zeros((batch,), jnp.int32)
  path = []
  for _ in range(max_path):
    wanted = common.take_slot(target, slot)
    child = (draft.tree.parent == slot[:, None]) & (tokens == wanted[:, None])
    child &= (jnp.arange(num_slots) > 0) & (tokens >= 0)
    going &= jnp.any(child, axis=1) & common.take_slot(sound, slot)
    slot = jnp.where(going, jnp.argmax(child, axis=1), slot)
    num_accepted += going
    path.append(slot)
  path = jnp.stack(path, axis=1).astype(jnp.int32)
  return Verdict(num_accepted, common.take_slot(target, slot), path)


def _greedy(
  context: Context, draft: Draft, logits: Array, *, max_path: int
) -> Verdict:
  del context
  common.check_tree(draft, 'greedy')
  return _walk(draft, logits, sampling.argmax(logits), max_path)


def _match(
  context: Context,
  draft: Draft,
  logits: Array,
  *,
  name: str,
  sampler: str,
  max_path: int,
) -> Verdict:
  common.check_tree(draft, name)
  target = common.target_samples(context, logits, draft.tree.depth, sampler)
  return _walk(draft, logits, target, max_path)


@functools.lru_cache(maxsize=None)
def greedy(max_path: int) -> Verifier:
  """The rule `greedy` for trees with paths of at most `max_path` tokens."""
  verify = functools.partial(_greedy, max_path=max_path)
  return Verifier(verify, 'argmax', False, True, 'greedy')


@functools.lru_cache(maxsize=None)
def match(max_path: int, sampler: str = 'gumbel') -> Verifier:
  """The rule `match` for trees with paths of at most `max_path` tokens."""
  verify = functools.partial(
    _match, name='match', sampler=sampler, max_path=max_path
  )
  return Verifier(verify, 'private', False, True, 'match')


@functools.lru_cache(maxsize=None)
def coupled(max_path: int, sampler: str = 'gumbel') -> Verifier:
  """The rule `coupled` for trees with paths of at most `max_path` tokens."""
  verify = functools.partial(
    _match, name='coupled', sampler=sampler, max_path=max_path
  )
  return Verifier(verify, 'position', False, True, 'coupled')
