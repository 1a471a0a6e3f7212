"""A target of seven tokens whose answers end, or repeat themselves.

It counts up and ends at 4, but answers 5 and 6 with fives for ever:

  prompt ends in  0        1      2    5 or 6
  answer          1 2 3 4  2 3 4  3 4  5 5 5 ...
"""

import jax.numpy as jnp
import numpy as np

from specjax.checkpoints import model as model_lib
from tests.helpers import fakes

VOCAB, END = 7, 4
# Prompts that `prompt_lookup` drafts for from the first round on.
SOUND = ((0, 1, 2, 0), (1, 2, 1), (2, 3, 0, 2))
LOOPING = ((5, 5), (5, 6, 5))
ANSWERS = ([1, 2, 3, 4], [2, 3, 4], [3, 4])


def model(name='chain'):
  logits = np.full((VOCAB + 1, VOCAB, VOCAB), -9.0, np.float32)
  for last, best in enumerate((1, 2, 3, 4, 4, 5, 5)):
    logits[:, last, best] = 0.0
  params = {'table': jnp.asarray(logits), 'source': jnp.zeros((VOCAB, VOCAB))}
  lm = fakes.markov_lm(VOCAB)
  return model_lib.Model(params, None, None, None, lm, (END,), 0, name)
