"""Registry entries of verification rules."""

from typing import Any, NamedTuple, Protocol

from specjax import base
from specjax import options as options_lib


class Make(Protocol):
  """Makes the rule; called once for equal arguments.

  `max_path` is 0 for drafts that are chains, for trees their longest path.
  `sampler` is that of plain sampling. `static` holds the compiled options.
  """

  def __call__(
    self, sampler: str, max_path: int, static: tuple
  ) -> base.Verifier: ...


class ExactWhen(Protocol):
  """Whether these options keep the target's law."""

  def __call__(self, options: Any) -> bool: ...


class CheckTarget(Protocol):
  """Raises ValueError where options do not suit the target."""

  def __call__(self, target: Any, options: Any) -> None: ...


def always(options: Any) -> bool:
  """Every option keeps the target's law."""
  del options
  return True


def never(options: Any) -> bool:
  """No option is known to keep the target's law."""
  del options
  return False


def no_check(target: Any, options: Any) -> None:
  """Every option suits every target."""


class VerifierEntry(NamedTuple):
  """A verification rule, as a registry and the assembler see it.

  Attributes:
    name: name as users write it.
    summary: description for help and tables.
    make: function of the protocol `Make`.
    options: dataclass of its options. Fields are dials, traced [B] arrays in
      `Controls.rule`, unless made by `options.static`.
    requires_zero_temperature: whether it decides by the target's argmax.
    greedy_at_zero: whether it equals `greedy` at temperature 0, which then
      runs in its place.
    keeps_target_sample: whether every token is the target's own sample, by
      noise that belongs to its position, so that the output does not depend
      on the draft.
    wants_one_hot: whether rows of temperature 0 become the law of greedy
      decoding, 0 at the argmax and -inf elsewhere. False is for rules that
      rank or compare tokens; the logits then stay as the penalties left them.
    chains, trees: drafts that it judges.
    exact_for: the law that it keeps, for tables: 'argmax' or 'sampling'.
    exact_when: options under which it keeps that law.
    check: check of its options against a target.
  """

  name: str
  summary: str
  make: Make
  options: type = options_lib.NoOptions
  # The defaults are those of an exact rule for chains. A lossy rule that leaves
  # out `exact_when` is taken for exact in every table and report.
  requires_zero_temperature: bool = False
  greedy_at_zero: bool = True
  keeps_target_sample: bool = False
  wants_one_hot: bool = True
  chains: bool = True
  trees: bool = False
  exact_for: str = 'sampling'
  exact_when: ExactWhen = always
  check: CheckTarget = no_check
