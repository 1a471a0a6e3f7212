"""Real networks with random weights, and what they decode."""

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.inference import assemble
from tests.helpers import loops
from tests.helpers import recipes

NEW = 14
CONFIGS = {
  'decoder': models.DecoderConfig(61, 32, 48, 1, 4, 2, 8, 128),
  't5': models.T5Config(61, 32, 8, 48, 1, 1, 4),
}


def params(kind, seed):
  """Random weights, large enough for clear winners and varied text."""
  drawn = models.init_params(CONFIGS[kind], jax.random.key(seed))
  return jax.tree.map(
    lambda x: np.asarray(x) * np.float32(3 if x.ndim > 1 else 1), drawn
  )


def prompt(batch, seed, vocab=61, width=10):
  rng = np.random.default_rng(seed)
  return base.Prompt(
    jnp.asarray(rng.integers(2, vocab, (batch, width)), jnp.int32),
    jnp.asarray(rng.integers(1, width + 1, batch), jnp.int32),
  )


def decode(
  lm,
  params,
  prompt,
  settings,
  *,
  seed=0,
  rows=None,
  eos=(5,),
  new=NEW,
  drafter=None,
  draft_params=None,
  swap=None,
  **kwargs,
):
  """New tokens of every row; `swap` takes the place of the drafter."""
  recipe = recipes.recipe(lm, drafter, warp=settings.warp_spec(), **kwargs)
  if swap is not None:
    recipe = recipe._replace(drafter=swap)
  rows = range(prompt.tokens.shape[0]) if rows is None else rows
  controls = settings.controls(row_keys(seed, rows), new, eos)
  made = assemble.compiled(recipe, new)(
    generate_lib.Params(params, draft_params), prompt, controls
  )
  return loops.new_tokens(jax.device_get(made))
