"""The loop on models made of arrays: prompts, controls and new tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import recipes

VOCAB = 11
NEW = 13


class Drafting(NamedTuple):
  """A drafter and its parameters; none by default."""

  drafter: object = None
  params: object = None


def prompt(batch, seed=0, width=9):
  rng = np.random.default_rng(seed)
  length = rng.integers(1, width + 1, batch)
  # Junk behind the length must not matter.
  tokens = rng.integers(0, VOCAB, (batch, width))
  return base.Prompt(
    jnp.asarray(tokens, jnp.int32), jnp.asarray(length, jnp.int32)
  )


def controls(batch, *, eos=(3,), new=NEW, seed=0, **sampling):
  settings = Sampling(**sampling)
  keys = row_keys(seed, range(batch))
  return settings, settings.controls(keys, new, eos)


def decode(
  target,
  params,
  prompt,
  controls,
  settings,
  drafting=Drafting(),
  *,
  new=NEW,
  **kwargs,
):
  """A `Generation` of numpy arrays; `kwargs` go to `recipes.recipe`."""
  recipe = recipes.recipe(
    target, drafting.drafter, warp=settings.warp_spec(), **kwargs
  )
  call = assemble.compiled(recipe, new)
  return jax.device_get(
    call(generate_lib.Params(params, drafting.params), prompt, controls)
  )


def new_tokens(generation):
  """The list of new tokens of every row."""
  return [
    row[p : p + n].tolist()
    for row, p, n in zip(
      generation.tokens,
      generation.prompt_length,
      generation.num_tokens,
      strict=True,
    )
  ]


def drafting(name, encoder_decoder=False):
  """A drafter for the target of seed 0, from perfect to useless."""
  lm = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  good = fakes.markov_params(0, VOCAB)
  noisy = jax.tree.map(
    lambda x, y: x + 0.3 * y, good, fakes.markov_params(5, VOCAB)
  )
  return {
    'none': Drafting(),
    'itself': Drafting(lm, good),
    'good': Drafting(lm, noisy),
    'random': Drafting(lm, fakes.markov_params(9, VOCAB)),
    'prompt_lookup': Drafting('prompt_lookup'),
  }[name]
