"""From findings to a verdict: LOSSLESS, NOT LOSSLESS or INCONCLUSIVE."""

from collections.abc import Mapping, Sequence
import types
from typing import Any, NamedTuple

from specjax.certify.controls import DESCRIPTIONS
from specjax.certify.identity import Finding
from specjax.certify.identity import Subject

LOSSLESS, NOT_LOSSLESS = 'LOSSLESS', 'NOT LOSSLESS'
INCONCLUSIVE = 'INCONCLUSIVE'
# 2 is bad usage in every command, so it is no verdict.
EXIT = {LOSSLESS: 0, NOT_LOSSLESS: 1, INCONCLUSIVE: 3}


class Certificate(NamedTuple):
  """A verdict and its evidence.

  Attributes:
    verdict: LOSSLESS, NOT_LOSSLESS or INCONCLUSIVE.
    reason: smallest counter-example, or the reason of an INCONCLUSIVE verdict;
      '' for LOSSLESS.
    lines: report, line by line.
    flagged: {broken rule: whether the tests flag it}.
    from_generation_config: settings taken from the target's file, under their
      names there.
  """

  verdict: str
  reason: str
  lines: tuple[str, ...]
  flagged: dict
  from_generation_config: Mapping[str, Any] = types.MappingProxyType({})

  def with_taken(self, values: Mapping[str, Any], line: str) -> 'Certificate':
    """The certificate with settings of a file; `line` describes them, or ''."""
    lines = (line, *self.lines) if line else self.lines
    return self._replace(lines=lines, from_generation_config=values)

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
  lines: Sequence[str],
) -> Certificate:
  """Weighs the findings of the tests.

  Args:
    subject: method that was certified.
    findings: results of the tests of identity and law.
    flagged: controls, as in `Certificate`.
    lines: lines of the report.
  """
  config = subject.config
  method = subject.assembled(config.temperature, config.num_draft)
  lines = tuple(lines)
  # The order matters. A fault is a counter-example, whatever else is unknown.
  # LOSSLESS needs drafts, an exact rule, and tests that flag every control.
  faults = [finding for finding in findings if finding.fault]
  if faults:
    worst = min(faults, key=lambda finding: finding.size)
    return Certificate(NOT_LOSSLESS, worst.fault, lines, flagged)
  doubts = [finding.doubt for finding in findings if finding.doubt]
  if doubts:
    reason = f'{doubts[0]}, and nothing was drafted there'
    return Certificate(INCONCLUSIVE, reason, lines, flagged)
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
