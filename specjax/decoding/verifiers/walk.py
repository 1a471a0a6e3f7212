"""The walk down a tree of drafts along the target's own tokens.

Each slot of the tree has a token of the target: its argmax, or its sample by
noise that belongs to the slot's position, shared by all slots of one depth.
From the root, the walk goes to the child that holds that token, as long as
there is one. So the emitted tokens are those of plain decoding with the same
row key, whatever the tree proposes.

  slot     0    1    2    3        parent  0 0 0 1
  token    -    a    b    c        target after slots 0, 1, 3:  a, c, e
  walk     0 -> 1 -> 3             accepted a c, next token e

References:
  Miao et al. SpecInfer. ASPLOS 2024 (naive sampling). 2305.09781
  Daliri, Musco, Suresh. Coupling without communication and drafter-invariant
    speculative decoding. 2024. https://arxiv.org/abs/2408.07978
"""

import jax.numpy as jnp

from specjax.base import Array
from specjax.base import Draft
from specjax.base import Verdict
from specjax.decoding.verifiers import common


def walk(draft: Draft, logits: Array, target: Array, max_path: int) -> Verdict:
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
  # Slot 0, the root, holds no drafted token and is nobody's child.
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
    # A row whose walk has ended stays at its slot while others go on.
    going &= jnp.any(child, axis=1) & common.take_slot(sound, slot)
    slot = jnp.where(going, jnp.argmax(child, axis=1), slot)
    num_accepted += going
    # The slot repeats once the walk has ended; `num_accepted` cuts it off.
    path.append(slot)
  path = jnp.stack(path, axis=1).astype(jnp.int32)
  return Verdict(num_accepted, common.take_slot(target, slot), path)
