"""Broken verification rules, one function a mistake.

Each takes (recipe, temperature) and returns a broken recipe, or None where the
mistake cannot be made or changes no token. p is the target's law of a slot and
q the drafter's; an exact rule accepts a draft token x with probability min(1,
p(x) / q(x)) and draws the correction of a refused one from (p - q)+.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import sampling
from specjax.decoding.recipe import Recipe
from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.block import excess
from specjax.decoding.verifiers.block import joint_ratios


def with_verify(recipe: Recipe, verify: Callable) -> Recipe:
  """The recipe under a broken rule, which the loop does not check."""
  verifier = recipe.verifier._replace(verify=verify)
  return recipe._replace(verifier=verifier, checked=False)


def _accept_all(recipe, temperature):
  del temperature

  def verify(context, draft, logits):
    count, path, last = _everything(recipe, draft)
    scores = common.take_slot(logits, last)
    if not recipe.warp.sampled:
      return base.Verdict(count, sampling.argmax(scores), path)
    token = sampling.categorical(scores, _keys(context, 0))
    return base.Verdict(count, token, path)

  return with_verify(recipe, verify)


def _everything(recipe, draft):
  """All that can be accepted: (count [B], path or None, last slot [B])."""
  if not recipe.is_tree:
    count = common.filled(draft).sum(axis=1).astype(jnp.int32)
    return count, None, count
  # In a tree it is the path of first children, from the root in slot 0:
  #
  #   tree.parent [B, T]:  [[0, 0, 0, 1, 1]]
  #   count [2], path [[1, 3]], last slot [3]
  batch, slots = draft.tokens.shape[0], draft.tokens.shape[1] + 1
  tokens = jnp.pad(draft.tokens, ((0, 0), (1, 0)), constant_values=base.EMPTY)
  slot = count = jnp.zeros((batch,), jnp.int32)
  path = []
  for _ in range(recipe.drafter.max_path):
    child = (draft.tree.parent == slot[:, None]) & (tokens >= 0)
    child &= jnp.arange(slots) > 0
    there = jnp.any(child, axis=1)
    slot = jnp.where(there, jnp.argmax(child, axis=1), slot).astype(jnp.int32)
    count = count + there.astype(jnp.int32)
    path.append(slot)
  return count, jnp.stack(path, axis=1), slot


def _last_slot(verdict):
  """int32 [B]: block slot of the last accepted token; 0 for none."""
  if verdict.path is None:
    return verdict.num_accepted
  at = jnp.maximum(verdict.num_accepted - 1, 0)
  return jnp.where(
    verdict.num_accepted > 0, common.take_slot(verdict.path, at), 0
  )


def _refused(draft, verdict):
  """bool [B]: whether something drafted after the accepted ones was refused."""
  if draft.tree is None:
    return verdict.num_accepted < common.filled(draft).sum(axis=1)
  children = draft.tree.parent[:, 1:] == _last_slot(verdict)[:, None]
  return jnp.any(children & (draft.tokens >= 0), axis=1)


def _keys(context, node):
  """Keys [B] of the correction, as the ratio rules key it."""
  keys = sampling.node_keys(
    context.controls.row_key, context.length, node + 1, sampling.RESIDUAL
  )
  return keys[:, node]


def _resample_from_p(recipe, temperature):
  if temperature == 0:
    return None

  def verify(context, draft, logits):
    verdict = recipe.verifier.verify(context, draft, logits)
    scores = common.take_slot(logits, _last_slot(verdict))
    token = sampling.categorical(scores, _keys(context, 1))
    return verdict.replace(next_token=token)

  return with_verify(recipe, verify)


def _residual_bonus(recipe, temperature):
  # Behind the leaf of a tree there is no draft law that could be subtracted.
  if temperature == 0 or recipe.is_tree:
    return None

  def verify(context, draft, logits):
    verdict = recipe.verifier.verify(context, draft, logits)
    count = verdict.num_accepted
    drafted = common.filled(draft).sum(axis=1)
    weights = _residual(draft, logits, count, jnp.maximum(drafted - 1, 0))
    token = sampling.draw(weights, _keys(context, 1))
    is_bonus = (count == drafted) & (drafted > 0)
    return base.Verdict(count, jnp.where(is_bonus, token, verdict.next_token))

  return with_verify(recipe, verify)


def _residual(draft, logits, p_slot, q_slot):
  """(p - q)+ of the given slots, or p where nothing is left: [B, V].

  p [0.5, 0.3, 0.2], q [0.2, 0.6, 0.2] -> [0.3, 0, 0]
  p = q                                -> p
  """
  p = jax.nn.softmax(common.take_slot(logits, p_slot))
  q = common.draft_row(draft, q_slot, logits.shape[-1])
  weights = jnp.maximum(p - q, 0.0)
  left = weights.sum(axis=-1, keepdims=True) > 0
  return jnp.where(left, weights, p)


def _shared_noise(recipe, temperature):
  wrong = recipe.verifier.noise != 'round'
  if temperature == 0 or wrong or recipe.is_tree:
    return None

  def verify(context, draft, logits):
    verdict = recipe.verifier.verify(context, draft, logits)
    count = verdict.num_accepted
    # A round without drafts has tokens [B, 0]; one slot has keys all the same.
    slots = max(draft.tokens.shape[1], 1)
    keys = sampling.node_keys(
      context.controls.row_key, context.length, slots, sampling.DRAFT
    )
    at = jnp.minimum(count, slots - 1)
    mine = jax.vmap(lambda row, i: row[i])(keys, at)
    token = sampling.draw(_residual(draft, logits, count, count), mine)
    corrected = count < common.filled(draft).sum(axis=1)
    return base.Verdict(count, jnp.where(corrected, token, verdict.next_token))

  return with_verify(recipe, verify)


def _argmax_draft(recipe, temperature):
  if temperature == 0 or not recipe.verifier.needs_log_probs:
    return None
  inner = recipe.drafter.propose

  def propose(params, state, view):
    draft, state = inner(params, state, view)
    if draft.log_probs is None:
      return draft, state
    return draft.replace(tokens=likeliest(draft)), state

  drafter = recipe.drafter._replace(propose=propose)
  return recipe._replace(drafter=drafter, checked=False)


def likeliest(draft: base.Draft) -> base.Array:
  """The best token of every filled slot; of siblings the best few in order."""
  if draft.tree is None:
    tokens = sampling.argmax(draft.log_probs)
    return jnp.where(draft.tokens == base.EMPTY, base.EMPTY, tokens)
  # Siblings share a law, so each takes the token of its rank among them:
  #
  #   slots 1, 2 and 3 with parents  0, 0 and 1
  #   rank                           0, 1 and 0
  #   log q of slots 1 and 2         [-2.3, -0.36, -1.6]
  #   tokens of slots 1 and 2        1 and 2
  parent = draft.tree.parent[:, 1:]
  slots = jnp.arange(parent.shape[1])
  older = (parent[:, :, None] == parent[:, None]) & (slots[:, None] > slots)
  rank = jnp.sum(older, axis=2)
  order = jnp.argsort(-draft.log_probs, axis=-1)
  tokens = jnp.take_along_axis(order, rank[..., None], axis=-1)[..., 0]
  empty = draft.tokens == base.EMPTY
  return jnp.where(empty, base.EMPTY, tokens).astype(jnp.int32)


def _stale_noise(recipe, temperature):
  if temperature == 0:
    return None

  def verify(context, draft, logits):
    # Noise of a round is keyed by the committed length: a constant repeats it.
    context = context.replace(length=jnp.zeros_like(context.length))
    return recipe.verifier.verify(context, draft, logits)

  return with_verify(recipe, verify)


def _block_by_position(recipe, temperature):
  wrong = recipe.verifier.noise != 'round'
  if temperature == 0 or wrong or recipe.is_tree:
    return None

  def verify(context, draft, logits):
    num_draft = draft.tokens.shape[1]
    # Block verification looks at the noise of all slots. If 1 of 4 tokens is
    # accepted at length 10, positions 10 to 13 have decided. The next round
    # begins at 12 and meets the noise of 12 and 13 again, which is uniform no
    # more.
    position = context.length[:, None] + jnp.arange(num_draft + 1)
    row_key = context.controls.row_key
    u = sampling.uniform(
      sampling.position_keys(row_key, position, sampling.ACCEPT)
    )[:, :num_draft]
    keys = sampling.position_keys(row_key, position, sampling.RESIDUAL)
    return _block(draft, logits, u, keys)

  return with_verify(recipe, verify)


def _block(draft, logits, u, keys):
  """Block verification of full drafts with the given noise."""
  num_draft = draft.tokens.shape[1]
  p, q, log_normaliser = common.probabilities_at(draft, logits)
  w = joint_ratios(p, q)
  z = excess(w, p, draft, logits, log_normaliser)
  wi = w[:, 1:]
  zi = jnp.pad(z[:, 1:], ((0, 0), (0, 1)))
  below = zi + 1.0 - wi
  h = jnp.where(below > 0, zi / jnp.where(below > 0, below, 1.0), 1.0)
  length = jnp.arange(1, num_draft + 1)
  h = jnp.where(length == num_draft, wi, h)
  count = jnp.max(jnp.where(u < h, length, 0), axis=1, initial=0)
  count = count.astype(jnp.int32)
  token = common.next_from_residual(
    jax.vmap(lambda row, i: row[i])(keys, count),
    draft,
    logits,
    log_normaliser,
    count,
    p_scale=jnp.where(count == num_draft, 1.0, common.take_slot(w, count)),
    q_scale=jnp.ones(logits.shape[0], jnp.float32),
  )
  return base.Verdict(count, token)


def _warp_swapped(recipe, temperature):
  spec = recipe.warp
  filters = spec.top_p or spec.min_p
  if not filters or temperature in (0, 1):
    return None

  def verify(context, draft, logits):
    controls = context.controls
    law = jax.nn.softmax(logits * controls.temperature[:, None, None], axis=-1)
    order = jnp.flip(jnp.sort(law, axis=-1), axis=-1)
    before = jnp.cumsum(order, axis=-1) - order
    kept = before < controls.top_p[:, None, None]
    least = jnp.min(jnp.where(kept, order, 1.0), axis=-1, keepdims=True)
    least = jnp.maximum(least, controls.min_p[:, None, None] * order[..., :1])
    cut = jnp.where(law >= least, logits, -jnp.inf)
    return recipe.verifier.verify(context, draft, cut)

  # The loop's warp leaves the filters out; the drafter has its own.
  recipe = recipe._replace(
    warp=dataclasses.replace(spec, top_p=False, min_p=False)
  )
  return with_verify(recipe, verify)


def _second_best(recipe, temperature):
  def verify(context, draft, logits):
    verdict = recipe.verifier.verify(context, draft, logits)
    scores = common.take_slot(logits, _last_slot(verdict))
    best = sampling.argmax(scores)[:, None] == jnp.arange(scores.shape[-1])
    token = sampling.argmax(jnp.where(best, -jnp.inf, scores))
    # Above temperature 0 every next token is wrong. At 0 the bonus token stays
    # right, because the slip that this control stands for is in the correction.
    wrong = _refused(draft, verdict) | (temperature > 0)
    return verdict.replace(
      next_token=jnp.where(wrong, token, verdict.next_token)
    )

  return with_verify(recipe, verify)


MAKERS = {
  'accept_all': _accept_all,
  'resample_from_p': _resample_from_p,
  'residual_bonus': _residual_bonus,
  'shared_noise': _shared_noise,
  'argmax_draft': _argmax_draft,
  'stale_noise': _stale_noise,
  'block_by_position': _block_by_position,
  'warp_swapped': _warp_swapped,
  'second_best': _second_best,
}
