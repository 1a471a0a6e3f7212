"""Verification rules: given a draft and the target's logits, what is kept.

One file each, chains and trees in the same file; `registry` lists them.

  specjax.verifiers.register(VerifierEntry(...))
"""

from specjax.decoding.options import static
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.registry import entries
from specjax.decoding.verifiers.registry import names
from specjax.decoding.verifiers.registry import register

__all__ = ['VerifierEntry', 'entries', 'names', 'register', 'static']
