"""What the loop checks of drafters and rules that are not ours.

Shapes and dtypes are checked while tracing, at no cost. Two things only values
show; each is a bit of `DecodeState.faults`, and an error after the batch. For
our own drafters and rules, whose tests hold the contract, nothing is compiled.
"""

import jax.numpy as jnp

from specjax import base
from specjax.decoding.recipe import Recipe

# Bits of `DecodeState.faults`.
LOG_PROBS, ACCEPTED = 1, 2
# How far the sum of a law may be from one.
TOLERANCE = 1e-3

_WORDS = {
  LOG_PROBS: (
    'a drafter returned log_probs of a filled slot that do not sum to one (by '
    'more than 0.001); Draft.log_probs must be the normalised distribution '
    'that the token was drawn from'
  ),
  ACCEPTED: (
    'a verification rule accepted more tokens than there were filled slots; '
    'Verdict.num_accepted must count drafted tokens alone'
  ),
}


def explain(faults: int) -> str:
  """The sentence of the first bit that is set."""
  return next(words for bit, words in _WORDS.items() if faults & bit)


def _refuse(which: str, wanted: str, found: str) -> None:
  raise ValueError(f'{which} must be {wanted}, not {found}.')


def _describe(array) -> str:
  if not hasattr(array, 'shape'):
    return f'{type(array).__name__} {array!r}'
  return f'{array.dtype}{list(array.shape)}'


def _is(array, shape, kinds: str) -> bool:
  return (
    hasattr(array, 'shape')
    and tuple(array.shape) == tuple(shape)
    and array.dtype.kind in kinds
  )


def check_draft(recipe: Recipe, batch: int, draft: base.Draft) -> None:
  """Raises ValueError, while tracing, for a draft that breaks the contract.

  Args:
    recipe: names K, P and V.
    batch: B.
    draft: what `propose` returned.
  """
  slots, size = recipe.drafter.num_draft, recipe.target.vocab_size
  if not isinstance(draft, base.Draft):
    _refuse(
      'What Drafter.propose returns first', 'a Draft', type(draft).__name__
    )
  if not _is(draft.tokens, (batch, slots), 'i'):
    _refuse(
      'Draft.tokens',
      f'int32 [{batch}, {slots}] (batch, num_draft), with EMPTY where nothing '
      'is proposed',
      _describe(draft.tokens),
    )
  if draft.log_probs is not None and not _is(
    draft.log_probs, (batch, slots, size), 'f'
  ):
    _refuse(
      'Draft.log_probs',
      f'float32 [{batch}, {slots}, {size}] (batch, num_draft, vocabulary) or '
      'None',
      _describe(draft.log_probs),
    )
  if (draft.tree is None) != (not recipe.is_tree):
    wanted, found = ('a Tree', 'None') if recipe.is_tree else ('None', 'a Tree')
    _refuse('Draft.tree', f'{wanted}, as its plan says', found)
  for name in ('parent', 'depth') if draft.tree is not None else ():
    if not _is(getattr(draft.tree, name), (batch, slots + 1), 'i'):
      _refuse(
        f'Tree.{name}',
        f'int32 [{batch}, {slots + 1}] (batch, num_draft + 1)',
        _describe(getattr(draft.tree, name)),
      )
  if recipe.verifier.needs_log_probs and draft.log_probs is not None:
    return
  if draft.log_probs is not None and not recipe.has_log_probs:
    _refuse(
      'Draft.log_probs of a drafter without probabilities',
      'None (give specjax.drafters.custom a function and has_log_probs=True)',
      _describe(draft.log_probs),
    )


def check_verdict(recipe: Recipe, batch: int, verdict: base.Verdict) -> None:
  """Raises ValueError, while tracing, for a verdict that breaks the contract.

  Args:
    recipe: names P.
    batch: B.
    verdict: what `Verifier.verify` returned.
  """
  if not isinstance(verdict, base.Verdict):
    _refuse('What Verifier.verify returns', 'a Verdict', type(verdict).__name__)
  for name in ('num_accepted', 'next_token'):
    if not _is(getattr(verdict, name), (batch,), 'i'):
      _refuse(
        f'Verdict.{name}',
        f'int32 [{batch}] (batch)',
        _describe(getattr(verdict, name)),
      )
  longest = recipe.drafter.max_path
  if not recipe.is_tree:
    if verdict.path is not None:
      _refuse('Verdict.path of a chain', 'None', _describe(verdict.path))
  elif not _is(verdict.path, (batch, longest), 'i'):
    _refuse(
      'Verdict.path of a tree',
      f'int32 [{batch}, {longest}] (batch, max_path)',
      _describe(verdict.path),
    )


def faults(draft: base.Draft, verdict: base.Verdict) -> base.Array:
  """int32 [B]: bits of what the values of this round break.

  Args:
    draft: K slots.
    verdict: on them.
  """
  filled = draft.tokens >= 0
  found = jnp.zeros(draft.tokens.shape[:1], jnp.int32)
  if draft.log_probs is not None:
    mass = jnp.exp(draft.log_probs).sum(axis=-1)
    wrong = filled & ~(jnp.abs(mass - 1.0) <= TOLERANCE)
    found |= LOG_PROBS * jnp.any(wrong, axis=1)
  if verdict.path is None:
    most = jnp.cumprod(filled, axis=1).sum(axis=1)
  else:
    step = jnp.arange(verdict.path.shape[1])
    slot = jnp.clip(verdict.path - 1, 0, max(draft.tokens.shape[1] - 1, 0))
    on_path = (
      jnp.take_along_axis(filled, slot, axis=1) & (verdict.path > 0)
      if draft.tokens.shape[1]
      else jnp.zeros(verdict.path.shape, bool)
    )
    most = jnp.cumprod(on_path, axis=1).sum(axis=1)
    most = jnp.minimum(most, step.shape[0])
  accepted = verdict.num_accepted
  return found | ACCEPTED * ((accepted > most) | (accepted < 0))
