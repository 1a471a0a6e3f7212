"""The rule in force, which a drafter may restrict or exchange."""

from typing import Any

from specjax.decoding.drafters.entry import DraftPlan
from specjax.decoding.verifiers import registry
from specjax.decoding.verifiers.entry import VerifierEntry


def choose(
  name: str, plan: DraftPlan, verifier: Any, sampled: bool
) -> tuple[VerifierEntry, str]:
  """The rule in force, which the plan may restrict or exchange.

  Args:
    name: name of the drafter.
    plan: plan of the drafter.
    verifier: argument of `registry.resolve`.
    sampled: whether some temperature is above 0.

  Returns:
    (rule in force, name of the rule in whose place it stands or '').

  Raises:
    ValueError: drafter and rule do not fit together.
  """
  # Of a point mass, weighing keeps no more than `match`, whose tokens do not
  # depend on the draft at all.
  auto = plan.auto_verifier or ('sampling' if plan.has_log_probs else 'match')
  drafts = plan.num_draft > 0
  asked = registry.choose(verifier, sampled=sampled, auto=auto, drafts=drafts)
  rule, instead_of = asked, ''
  # The plan (('sampling', 'match'),) makes `match` of `sampling` alone.
  instead = dict(_pairs(name, plan)).get(asked.name)
  if instead is not None:
    # By the same function as a rule that is asked for: above temperature 0 a
    # substitute that decides by the argmax is refused as well.
    rule = registry.choose(instead, sampled=sampled, auto=auto)
    instead_of = asked.name
  _check(plan, rule)
  return rule, instead_of


def _pairs(name: str, plan: DraftPlan) -> tuple[tuple[str, str], ...]:
  """The exchanges of a plan, checked."""
  known = registry.names()
  for pair in plan.rerouted:
    good = isinstance(pair, tuple) and len(pair) == 2
    if not good or not set(pair) <= set(known):
      raise ValueError(
        f'The plan of the drafter {name} has {pair!r} in rerouted, which must '
        f'hold pairs of rules; there are {", ".join(known)}.'
      )
  return plan.rerouted


def _check(plan: DraftPlan, rule: VerifierEntry) -> None:
  """Raises ValueError for a rule with which the drafter does not work."""
  able = plan.allowed_verifiers or registry.names()
  if plan.needs_target_sample:
    able = [
      entry.name for entry in registry.entries() if entry.keeps_target_sample
    ]
  fits = rule.keeps_target_sample or not plan.needs_target_sample
  if plan.allowed_verifiers:
    fits &= rule.name in plan.allowed_verifiers
  if not fits:
    raise ValueError(
      f'This drafter works with the verifiers {", ".join(able)} (or auto), not '
      f'with {rule.name}.'
    )
