"""Recipes: the pure functions that the loop is given."""

from typing import NamedTuple

from specjax import base
from specjax.decoding import precision
from specjax.decoding import warp as warp_lib


class Recipe(NamedTuple):
  """The parts of a decoder; hashable, so it can be a static argument.

  `inference.assemble` makes recipes; nothing else does.

  Attributes:
    target: the model whose law the output has.
    drafter: the proposer of tokens.
    verifier: the rule that decides.
    warp: static switches of the warp.
    widths: draft widths to compile, ascending, the last one K. Each round is
      verified at the smallest that holds the longest draft of the live rows,
      so that a round without a draft costs a plain step, and no more than that
      while the drafter is idle. Empty: K alone.
      Trees are verified whole or not at all: (0, K).
    is_tree: whether drafts are trees.
    has_log_probs: whether drafts may have probabilities.
    checked: whether drafter or rule is not built in, so that the loop checks
      their results.
    matmul_precision: precision of float32 products, see `precision`.
    logprobs: number of likeliest tokens whose log probabilities are kept beside
      those of the emitted ones; None keeps none at all.
  """

  target: base.CachedLM
  drafter: base.Drafter
  verifier: base.Verifier
  warp: warp_lib.WarpSpec
  widths: tuple[int, ...] = ()
  is_tree: bool = False
  has_log_probs: bool = True
  checked: bool = False
  matmul_precision: str = precision.HIGHEST
  logprobs: int | None = None
