"""Random texts of tokens that repeat themselves as texts do."""

import numpy as np


def sequence(rng, length):
  """Random, periodic, or made of a few phrases."""
  kind = rng.integers(3)
  vocab = int(rng.integers(2, 9))
  if kind == 0:
    return rng.integers(0, vocab, length)
  if kind == 1:
    period = rng.integers(0, vocab, int(rng.integers(1, 8)))
    row = np.resize(period, length)
    spoiled = rng.random(length) < 0.05
    return np.where(spoiled, rng.integers(0, vocab, length), row)
  phrases = [rng.integers(0, vocab, int(rng.integers(2, 7))) for _ in range(3)]
  row = np.concatenate([phrases[i] for i in rng.integers(0, 3, length)])
  return row[:length]
