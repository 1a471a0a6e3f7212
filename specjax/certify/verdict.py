"""From findings to a verdict: what may be said of a method, and what not."""

from typing import NamedTuple, Sequence

from specjax.certify.controls import DESCRIPTIONS
from specjax.certify.identity import Finding
from specjax.certify.identity import Subject

LOSSLESS, NOT_LOSSLESS = 'LOSSLESS', 'NOT LOSSLESS'
INCONCLUSIVE = 'INCONCLUSIVE'
EXIT = {LOSSLESS: 0, NOT_LOSSLESS: 1, INCONCLUSIVE: 3}


class Certificate(NamedTuple):
  """A verdict and what it rests on.

  Attributes:
    verdict: LOSSLESS, NOT_LOSSLESS or INCONCLUSIVE.
    reason: the smallest counter-example, or why nothing can be said; '' for
      LOSSLESS.
    lines: the report, line by line.
    flagged: {broken rule: whether it was told from an exact one}.
  """

  verdict: str
  reason: str
  lines: tuple[str, ...]
  flagged: dict

  @property
  def status(self) -> int:
    """Exit status of the command."""
    return EXIT[self.verdict]

  @property
  def last_line(self) -> str:
    """The verdict as the command prints it."""
    return f'{self.verdict}: {self.reason}' if self.reason else self.verdict


def judge(
  subject: Subject,
  findings: Sequence[Finding],
  flagged: dict,
  power: Sequence[str],
) -> Certificate:
  """Weighs what the tests found.

  Args:
    subject: what was certified.
    findings: of the tests of identity and law.
    flagged: as in `Certificate`.
    power: lines about the negative controls.
  """
  config = subject.config
  method = subject.assembled(config.temperature, config.num_draft)
  lines = tuple(finding.line for finding in findings) + tuple(power)
  faults = [finding for finding in findings if finding.fault]
  if faults:
    worst = min(faults, key=lambda finding: finding.size)
    return Certificate(NOT_LOSSLESS, worst.fault, lines, flagged)
  if all(finding.empty for finding in findings):
    reason = 'nothing was drafted, so nothing was tested'
    return Certificate(INCONCLUSIVE, reason, lines, flagged)
  if not method.is_exact:
    reason = (
      f'the rule {method.rule.name!r} is lossy, though these tests do not '
      'show it; give more samples or other prompts'
    )
    return Certificate(INCONCLUSIVE, reason, lines, flagged)
  missed = [DESCRIPTIONS[name] for name, seen in flagged.items() if not seen]
  if missed:
    reason = (
      'the same tests do not flag a deliberately broken rule with this drafter '
      f'and these prompts, namely one that {", or one that ".join(missed)}; '
      'give more samples or other prompts'
    )
    return Certificate(INCONCLUSIVE, reason, lines, flagged)
  if not any(flagged.values()):
    reason = (
      'no deliberately broken form of this rule was flagged, so the tests show '
      'nothing; give more samples or other prompts'
    )
    return Certificate(INCONCLUSIVE, reason, lines, flagged)
  return Certificate(LOSSLESS, '', lines, flagged)
