"""Drafters that know fewer or more tokens than their target.

Ids are the target's. One that the drafter does not know is fed to it as its
padding token, and has probability 0 in every draft; so has an id that only the
drafter knows. Its law over the rest is honest, and any exact rule stays exact.

  target's ids    0 1 2 3 4        drafter's ids   0 1 2 (padding 0)
  committed       1 4 2            fed             1 0 2
  its logits      a b c            over the ids    a b c -inf -inf
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from specjax import base
from specjax.models.common.output_ids import spread


class Known(NamedTuple):
  """The ids that a drafter knows. Hashable.

  Attributes:
    target: V, the target's number of ids.
    drafter: V', the drafter's own.
    harmless: id that the drafter is fed in the place of one it does not know.
  """

  target: int
  drafter: int
  harmless: int = 0

  @property
  def is_same(self) -> bool:
    """Whether both know the same ids."""
    return self.target == self.drafter

  def fed(self, tokens: base.Array) -> base.Array:
    """The tokens as the drafter is fed them."""
    if self.target <= self.drafter:
      return tokens
    return jnp.where(tokens < self.drafter, tokens, self.harmless)

  def over_target(self, logits: base.Array) -> base.Array:
    """Logits [..., V' or more] over the target's ids, [..., V]."""
    return spread(logits[..., : self.drafter], (), self.target)

  def notes(self, name: str) -> tuple[str, ...]:
    """Sentences for the user of the drafter of this name."""
    if self.target <= self.drafter:
      return ()
    return (
      f'The drafter {name} knows {self.drafter} token ids and the target '
      f'{self.target}: those from {self.drafter} on are never drafted.',
    )


def of(target: Any, model: Any) -> Known:
  """`Known` of a target and of the model inside a drafter.

  Args:
    target: `entry.Target`.
    model: the loaded model.
  """
  size = model.vocab_size
  # Padding beyond the ids that its tokenizer has is no id of its own.
  harmless = model.pad_id if 0 <= model.pad_id < size else 0
  return Known(target.lm.vocab_size, size, harmless)


@functools.cache
def fitted(lm: base.CachedLM, known: Known) -> base.CachedLM:
  """A draft model over the target's ids; itself where they are the same.

  Args:
    lm: the draft model, of V' ids.
    known: ids of both.
  """
  if known.is_same:
    return lm

  def prefill(params, prompt, *, capacity):
    prompt = prompt.replace(tokens=known.fed(prompt.tokens))
    return lm.prefill(params, prompt, capacity=capacity)

  def extend(params, cache, tokens, tree=None, slots=None):
    scored, cache = lm.extend(params, cache, known.fed(tokens), tree, slots)
    return scored.replace(logits=known.over_target(scored.logits)), cache

  return lm._replace(prefill=prefill, extend=extend, vocab_size=known.target)
