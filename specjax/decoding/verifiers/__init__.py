"""Verification rules: given a draft and the target's logits, what is kept.

One file each, chains and trees in the same file; `registry` lists them.

  specjax.verifiers.register(VerifierEntry(...))
  specjax.verifiers.common.count_leading(...)  # what the rules share
"""

from specjax.decoding.verifiers import common
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.registry import entries
from specjax.decoding.verifiers.registry import names
from specjax.decoding.verifiers.registry import register
from specjax.options import static

__all__ = [
  'VerifierEntry',
  'common',
  'entries',
  'names',
  'register',
  'static',
]
