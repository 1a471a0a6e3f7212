"""Verdicts from findings, without decoding."""

import types

from specjax.certify import chi_square
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import runner
from specjax.certify import verdict
from tests.helpers import fakes
from tests.helpers import recipes


def test_another_law_where_nothing_was_drafted_is_no_pass(monkeypatch):
  """Beside tests that pass and flag every control."""
  cell = chi_square.CellDifference((3,), 0.2, 0.4, 1e-9)
  found = law_lib.LawOutcome(1e-9, cell, 2000, 0, 0, 0.2, 0.01, (0.1, 0.1))
  monkeypatch.setattr(runner.trials_lib, 'run', lambda subject, trial: found)
  law = types.SimpleNamespace(length=2, symbols=(1, 3))
  trial = types.SimpleNamespace(
    who='', number=1, law=law, recipe=recipes.recipe(fakes.markov_lm(5))
  )
  exact = types.SimpleNamespace(is_exact=True)
  subject = types.SimpleNamespace(
    target=types.SimpleNamespace(tokenizer=None),
    config=types.SimpleNamespace(temperature=1.0, num_draft=2),
    assembled=lambda temperature, num_draft: exact,
  )
  finding = runner._law_finding(subject, trial, lambda text: None)
  assert finding.fault is None and finding.line.endswith('DIFFERS')
  passed, flagged = identity.Finding('greedy identity', None), {'a': True}
  made = verdict.judge(subject, [passed, finding], flagged, ())
  assert made.verdict == verdict.INCONCLUSIVE and made.status == 3
  assert made.reason.startswith('prompt 2: continuations that begin [3]')
  assert made.reason.endswith('and nothing was drafted there')
  fault = identity.Finding('identity', 'prompt 1 differs')
  made = verdict.judge(subject, [fault, finding], flagged, ())
  assert made.verdict == verdict.NOT_LOSSLESS
  assert verdict.judge(subject, [passed], flagged, ()).status == 0
