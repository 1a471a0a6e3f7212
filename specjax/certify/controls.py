"""Negative controls: deliberately broken rules that the tests must flag.

Each is a mistake seen in a public implementation or a plausible slip. A
certificate runs them with the same drafter, prompts and sample size as the
method itself. The flagged ones measure the power of these tests on these
models: a method with one of these mistakes would not have passed.
"""

import jax
import jax.numpy as jnp
import numpy as np

from specjax.certify import mistakes
from specjax.decoding.recipe import Recipe

DESCRIPTIONS = {
  'accept_all': 'accepts every draft token unseen',
  'resample_from_p': 'draws the correction from p, not from the residual',
  'residual_bonus': 'subtracts the last draft law from the bonus token',
  'shared_noise': "draws the correction with the draft token's noise",
  'argmax_draft': 'drafts the likeliest token and calls it a sample of q',
  'stale_noise': 'judges every round by the same noise',
  'block_by_position': 'block verification, noise keyed by absolute position',
  'warp_swapped': 'filters before the temperature when verifying',
  'second_best': 'emits the second best token as correction',
}
# The mistake left out is real, but so small that for many a pair of models the
# tests flag it only with more samples than one would wait for. As a control it
# would make the verdict INCONCLUSIVE for every such pair.
NAMES = tuple(name for name in DESCRIPTIONS if name != 'block_by_position')
# These two break any rule, also one of the user's own.
GENERIC = ('accept_all', 'second_best')
# It changes the recipe's warp as well, so it needs a program of its own.
ALONE = ('warp_swapped',)


def make(name: str, recipe: Recipe, temperature: float) -> Recipe | None:
  """The recipe, broken.

  Args:
    name: name of a mistake, a key of `DESCRIPTIONS`.
    recipe: loop of chains or trees.
    temperature: temperature of the rows; at 0 few mistakes change a token.

  Returns:
    A recipe, or None where this mistake cannot be made or changes nothing.
  """
  return mistakes.MAKERS[name](recipe, temperature)


def combined(
  recipe: Recipe, temperature: float
) -> tuple[Recipe, dict[str, int]]:
  """One program for many mistakes, chosen row by row.

  Compiling is most of the cost of a control. `Controls.rule` of this program is
  `wrapped(dials, number)`.

  Args:
    recipe: loop of chains or trees.
    temperature: temperature of the rows, above 0.

  Returns:
    The recipe, and {mistake: its number}; 0 is none.
  """
  singles = {
    name: made
    for name in NAMES
    if name not in ALONE and (made := make(name, recipe, temperature))
  }
  chosen = {name: number for number, name in enumerate(singles, 1)}

  # Every rule judges every row, and a row keeps the verdict of its number:
  #   rule['mistake'] [B]:            [0, 2, 2]
  #   accepted by the rule itself:    [3, 1, 4]
  #   accepted by mistakes 1 and 2:   [4, 4, 4] and [3, 2, 4]
  #   accepted by the program:        [3, 2, 4]
  def verify(context, draft, logits):
    wanted = context.controls.rule['mistake']
    inner = context.controls.replace(rule=context.controls.rule['rule'])
    context = context.replace(controls=inner)
    verdict = recipe.verifier.verify(context, draft, logits)
    for name, made in singles.items():
      # 'argmax_draft' breaks the drafter, below, and leaves the rule as it is.
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
    dials: dials of the rule itself.
    number: number of the mistake; 0 for none.
  """
  return {'rule': dials, 'mistake': np.asarray(number, np.int32)}
