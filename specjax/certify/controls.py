"""Deliberately broken rules: what a test that is worth its name must flag.

Each is a mistake seen in a public implementation or a plausible slip. A
certificate runs them with the same drafter, prompts and sample size as the
method itself; those it flags are what its verdict is worth.
"""

from typing import Optional

import jax
import jax.numpy as jnp
import numpy as np

from specjax.certify import mistakes
from specjax.decoding.recipe import Recipe

DESCRIPTIONS = {
  'accept_all': 'accepts every draft token unseen',
  'resample_from_p': 'draws the correction from p, not from the residual',
  'residual_bonus': 'subtracts the last draft law from the bonus token',
  'shared_noise': 'draws the correction with the draft token\'s noise',
  'argmax_draft': 'drafts the likeliest token and calls it a sample of q',
  'stale_noise': 'judges every round by the same noise',
  'block_by_position': 'block verification, noise keyed by absolute position',
  'warp_swapped': 'filters before the temperature when verifying',
  'second_best': 'emits the second best token as correction',
}  # fmt: skip
# The mistake left out is real, but so small that with many a pair of models the
# tests see it only after more samples than one would wait for.
NAMES = tuple(name for name in DESCRIPTIONS if name != 'block_by_position')
# These two break any rule, also one that nobody knows.
GENERIC = ('accept_all', 'second_best')
# Need a program of their own.
ALONE = ('warp_swapped',)


def make(name: str, recipe: Recipe, temperature: float) -> Optional[Recipe]:
  """The recipe, broken.

  Args:
    name: of `DESCRIPTIONS`.
    recipe: chains or trees.
    temperature: of the rows; decides which mistakes are mistakes.

  Returns:
    A recipe, or None where this mistake cannot be made or changes nothing.
  """
  return mistakes.MAKERS[name](recipe, temperature)


def combined(
  recipe: Recipe, temperature: float
) -> tuple[Recipe, dict[str, int]]:
  """One program for many mistakes, chosen row by row.

  Compiling is most of what a control costs. `Controls.rule` of such a program
  is `wrapped(dials, number)`.

  Args:
    recipe: chains or trees.
    temperature: above 0.

  Returns:
    The recipe, and the number that makes each mistake; 0 is none.
  """
  singles = {
    name: made
    for name in NAMES
    if name not in ALONE and (made := make(name, recipe, temperature))
  }
  chosen = {name: number for number, name in enumerate(singles, 1)}

  def verify(context, draft, logits):
    wanted = context.controls.rule['mistake']
    inner = context.controls.replace(rule=context.controls.rule['rule'])
    context = context.replace(controls=inner)
    verdict = recipe.verifier.verify(context, draft, logits)
    for name, made in singles.items():
      if made.verifier.verify is recipe.verifier.verify:
        continue
      other = made.verifier.verify(context, draft, logits)
      here = wanted == chosen[name]
      verdict = jax.tree.map(
        lambda a, b, here=here: jnp.where(
          here.reshape(-1, *[1] * (a.ndim - 1)), a, b
        ),
        other,
        verdict,
      )
    return verdict

  def propose(params, state, view):
    draft, state = recipe.drafter.propose(params, state, view)
    if 'argmax_draft' in chosen and draft.log_probs is not None:
      here = view.context.controls.rule['mistake'] == chosen['argmax_draft']
      tokens = jnp.where(here[:, None], mistakes.likeliest(draft), draft.tokens)
      draft = draft.replace(tokens=tokens)
    return draft, state

  made = mistakes.with_verify(recipe, verify)
  drafter = recipe.drafter._replace(propose=propose)
  return made._replace(drafter=drafter), chosen


def wrapped(dials: dict, number: int) -> dict:
  """`Controls.rule` of a program of `combined`, before it has rows.

  Args:
    dials: of the rule itself.
    number: which mistake; 0 for none.
  """
  return {'rule': dials, 'mistake': np.asarray(number, np.int32)}
