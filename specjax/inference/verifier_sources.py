"""Resolves the verification rule that a user gives to its entry."""

from typing import Any

from specjax import base
from specjax import user_files
from specjax.decoding.verifiers import registry
from specjax.decoding.verifiers.entry import VerifierEntry


def resolve(verifier: Any) -> VerifierEntry | None:
  """The entry that is meant; None for 'auto'.

  Args:
    verifier: a name, FILE.py:NAME, a `VerifierEntry`, or a `Verifier`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if user_files.is_reference(verifier):
    found = user_files.load(verifier)
    if not isinstance(found, (VerifierEntry, base.Verifier)):
      raise ValueError(
        f'{verifier} must be a VerifierEntry or a Verifier, not '
        f'{type(found).__name__}.'
      )
    return registry.resolve(found)
  return registry.resolve(verifier)
