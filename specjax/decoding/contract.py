"""Checks of drafters and rules that are not built in.

Shapes and dtypes are checked while tracing, at no cost. Three things only
values show; each is a bit of `DecodeState.faults`, and an error after the
batch. For our own drafters and rules, whose tests hold the contract, nothing is
compiled.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding.recipe import Recipe

# Bits of `DecodeState.faults`.
LOG_PROBS, ACCEPTED, TOKENS = 1, 2, 4
# How far the sum of a law may be from one.
TOLERANCE = 1e-3

_WORDS = {
  LOG_PROBS: (
    'a drafter returned log_probs of a filled slot that do not sum to one (by '
    'more than 0.001); Draft.log_probs must be the normalised distribution '
    'that the token was drawn from'
  ),
  ACCEPTED: (
    'a verification rule accepted more tokens than there were filled slots, or '
    'fewer than none; Verdict.num_accepted must count drafted tokens alone'
  ),
  TOKENS: (
    'a verification rule emitted a token outside of the vocabulary; '
    'Verdict.next_token and what it accepts must be ids of the target'
  ),
}


def explain(faults: int) -> str:
  """The sentence of the first bit that is set."""
  return next(words for bit, words in _WORDS.items() if faults & bit)


def refuse(faults: np.ndarray | None) -> None:
  """Raises ValueError for a finished generation that broke the contract.

  Args:
    faults: `Generation.faults` on the host.
  """
  if faults is not None and np.any(faults):
    row = int(np.flatnonzero(faults)[0])
    raise ValueError(f'Row {row + 1}: {explain(int(faults[row]))}.')


def _refuse(which: str, wanted: str, found: str) -> None:
  raise ValueError(f'{which} must be {wanted}, not {found}.')


def _describe(leaf) -> str:
  if isinstance(leaf, numbers.Number):
    return f'{jnp.result_type(leaf)}[]'
  if not hasattr(leaf, 'shape'):
    return f'{type(leaf).__name__} {leaf!r}'
  return f'{leaf.dtype}{list(leaf.shape)}'


def _is(array, shape, dtype) -> bool:
  return (
    hasattr(array, 'shape')
    and tuple(array.shape) == tuple(shape)
    and array.dtype == dtype
  )


def check_proposal(
  recipe: Recipe, batch: int, before: base.PyTree, proposal: Any
) -> None:
  """Raises ValueError, while tracing, for a proposal that breaks the contract.

  Args:
    recipe: recipe with the drafter; holds K, P and V.
    batch: B.
    before: the drafter's state that `propose` was given.
    proposal: result of `propose`.
  """
  if not isinstance(proposal, tuple) or len(proposal) != 2:
    found = type(proposal).__name__
    if isinstance(proposal, tuple):
      found = f'{len(proposal)} values'
    _refuse('What Drafter.propose returns', 'a Draft and the state', found)
  draft, state = proposal
  _check_draft(recipe, batch, draft)
  check_state('Drafter.propose', before, state)


def check_arrays(name: str, made: base.PyTree) -> None:
  """Raises ValueError for leaves that no program can hold.

  Args:
    name: words for `made`.
    made: pytree of arrays and numbers.
  """
  for path, leaf in jax.tree.leaves_with_path(made):
    is_host = isinstance(leaf, (np.ndarray, np.generic))
    good = isinstance(leaf, (jax.Array, numbers.Number))
    # Numpy has arrays of texts and objects too.
    if not good and not (is_host and leaf.dtype.kind not in 'OSUMm'):
      where = jax.tree_util.keystr(path)
      _refuse(
        f'{name}{where and f", at {where},"}',
        'a pytree of arrays and numbers',
        _describe(leaf),
      )


def check_state(which: str, before: base.PyTree, after: base.PyTree) -> None:
  """Raises ValueError, while tracing, for a state that changes its form.

  Args:
    which: function that returned `after`.
    before: state as `init` made it.
    after: state as it is now.
  """
  _check_form(f'The state that {which} returns', 'Drafter.init', before, after)


def check_cache(which: str, before: base.PyTree, after: base.PyTree) -> None:
  """Raises ValueError, while tracing, for a cache that changes its form.

  Args:
    which: function that returned `after`.
    before: cache as it was given.
    after: state as it is now.
  """
  _check_form(
    f'The cache that {which} returns', 'CachedLM.prefill', before, after
  )


def check_prefilled(batch: int, found: Any) -> None:
  """Raises ValueError, while tracing, for a prefill that breaks the contract.

  Args:
    batch: B.
    found: result of `CachedLM.prefill`.
  """
  if not isinstance(found, base.Prefilled):
    _refuse(
      'What CachedLM.prefill returns', 'a Prefilled', type(found).__name__
    )
  if not _is(found.last_token, (batch,), jnp.int32):
    _refuse(
      'Prefilled.last_token of CachedLM.prefill',
      f'int32[{batch}] (batch)',
      _describe(found.last_token),
    )
  check_arrays('The cache that CachedLM.prefill returns', found.cache)


def check_scored(shape: tuple, before: base.PyTree, found: Any) -> None:
  """Raises ValueError, while tracing, for scores that break the contract.

  Args:
    shape: (B, T, V).
    before: the cache that `extend` was given.
    found: result of `CachedLM.extend`.
  """
  if not isinstance(found, tuple) or len(found) != 2:
    _refuse(
      'What CachedLM.extend returns',
      'a Scored and the cache',
      type(found).__name__,
    )
  scored, cache = found
  if not isinstance(scored, base.Scored):
    _refuse(
      'What CachedLM.extend returns first', 'a Scored', type(scored).__name__
    )
  if not _is(scored.logits, shape, jnp.float32):
    _refuse(
      'Scored.logits of CachedLM.extend',
      f'float32{list(shape)} (batch, slots, vocabulary)',
      _describe(scored.logits),
    )
  check_cache('CachedLM.extend', before, cache)


def _check_form(name, made_by, before, after) -> None:
  if jax.tree.structure(before) != jax.tree.structure(after):
    _refuse(
      name,
      f'a pytree like that of {made_by}, {jax.tree.structure(before)}',
      str(jax.tree.structure(after)),
    )
  for (path, old), new in zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
  ):
    if _describe(old) != _describe(new):
      where = jax.tree_util.keystr(path)
      _refuse(
        f'{name}{where and f", at {where},"}',
        f'{_describe(old)} as {made_by} made it',
        _describe(new),
      )


def check_idle(batch: int, idle: Any) -> None:
  """Raises ValueError, while tracing, unless `is_idle` gives bool [B].

  Args:
    batch: B.
    idle: result of `is_idle`.
  """
  if not _is(idle, (batch,), jnp.bool_):
    _refuse(
      'What Drafter.is_idle returns', f'bool[{batch}] (batch)', _describe(idle)
    )


def _check_draft(recipe: Recipe, batch: int, draft: base.Draft) -> None:
  slots, size = recipe.drafter.num_draft, recipe.target.vocab_size
  if not isinstance(draft, base.Draft):
    _refuse(
      'What Drafter.propose returns first', 'a Draft', type(draft).__name__
    )
  if not _is(draft.tokens, (batch, slots), jnp.int32):
    _refuse(
      'Draft.tokens of Drafter.propose',
      f'int32[{batch}, {slots}] (batch, num_draft), with EMPTY where nothing '
      'is proposed',
      _describe(draft.tokens),
    )
  given = draft.log_probs
  if given is not None and not _is(given, (batch, slots, size), jnp.float32):
    _refuse(
      'Draft.log_probs of Drafter.propose',
      f'float32[{batch}, {slots}, {size}] (batch, num_draft, vocabulary) or '
      'None',
      _describe(given),
    )
  if given is not None and not recipe.has_log_probs:
    _refuse(
      'Draft.log_probs of a drafter without probabilities',
      'None (give specjax.drafters.custom a function and has_log_probs=True)',
      _describe(given),
    )
  if (draft.tree is None) != (not recipe.is_tree):
    wanted, found = ('a Tree', 'None') if recipe.is_tree else ('None', 'a Tree')
    _refuse(
      'Draft.tree of Drafter.propose', f'{wanted}, as its plan states', found
    )
  for name in ('parent', 'depth') if draft.tree is not None else ():
    if not _is(getattr(draft.tree, name), (batch, slots + 1), jnp.int32):
      _refuse(
        f'Tree.{name} of Drafter.propose',
        f'int32[{batch}, {slots + 1}] (batch, num_draft + 1)',
        _describe(getattr(draft.tree, name)),
      )


def check_verdict(recipe: Recipe, batch: int, verdict: base.Verdict) -> None:
  """Raises ValueError, while tracing, for a verdict that breaks the contract.

  Args:
    recipe: recipe with the drafter; holds P.
    batch: B.
    verdict: result of `Verifier.verify`.
  """
  if not isinstance(verdict, base.Verdict):
    _refuse('What Verifier.verify returns', 'a Verdict', type(verdict).__name__)
  for name in ('num_accepted', 'next_token'):
    if not _is(getattr(verdict, name), (batch,), jnp.int32):
      _refuse(
        f'Verdict.{name} of Verifier.verify',
        f'int32[{batch}] (batch)',
        _describe(getattr(verdict, name)),
      )
  longest = recipe.drafter.max_path
  if not recipe.is_tree:
    if verdict.path is not None:
      _refuse(
        'Verdict.path of Verifier.verify',
        'None for a chain',
        _describe(verdict.path),
      )
  elif not _is(verdict.path, (batch, longest), jnp.int32):
    _refuse(
      'Verdict.path of Verifier.verify',
      f'int32[{batch}, {longest}] (batch, max_path) for a tree',
      _describe(verdict.path),
    )


def faults(
  draft: base.Draft, verdict: base.Verdict, vocab_size: int
) -> base.Array:
  """int32 [B]: bits of the rules that this round's values break.

  Args:
    draft: draft of K slots.
    verdict: decision on them.
    vocab_size: V.
  """
  filled = draft.tokens >= 0
  found = jnp.zeros(draft.tokens.shape[:1], jnp.int32)
  if draft.log_probs is not None:
    # tokens [a b EMPTY], rows of log_probs summing to [1 .9 0]: slot 1 is
    # wrong, and the empty one is not looked at. NaN fails every comparison, so
    # it is found too.
    mass = jnp.exp(draft.log_probs).sum(axis=-1)
    wrong = filled & ~(jnp.abs(mass - 1.0) <= TOLERANCE)
    found |= LOG_PROBS * jnp.any(wrong, axis=1)
  if verdict.path is None:
    # [a b EMPTY d]: two can be accepted, as a chain ends at its first empty
    # slot.
    most = jnp.cumprod(filled, axis=1).sum(axis=1)
  else:
    step = jnp.arange(verdict.path.shape[1])
    # path [1 3 0], tokens [a EMPTY c]: slots 1 and 3 are filled, 0 is no slot
    # of a draft, so at most two are accepted.
    slot = jnp.clip(verdict.path - 1, 0, max(draft.tokens.shape[1] - 1, 0))
    on_path = (
      jnp.take_along_axis(filled, slot, axis=1) & (verdict.path > 0)
      if draft.tokens.shape[1]
      else jnp.zeros(verdict.path.shape, bool)
    )
    most = jnp.cumprod(on_path, axis=1).sum(axis=1)
    most = jnp.minimum(most, step.shape[0])
  accepted = verdict.num_accepted
  found |= ACCEPTED * ((accepted > most) | (accepted < 0))
  emitted = verdict.next_token[:, None]
  if verdict.path is None:
    step = jnp.arange(draft.tokens.shape[1])
    # Accepted tokens are emitted as they are; refused ones may be anything.
    kept = jnp.where(step < accepted[:, None], draft.tokens, 0)
    emitted = jnp.concatenate([emitted, kept], axis=1)
  outside = jnp.any(emitted >= vocab_size, axis=1) | (verdict.next_token < 0)
  return found | TOKENS * outside
