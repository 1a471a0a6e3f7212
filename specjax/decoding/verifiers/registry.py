"""The verification rules there are: one line each."""

import functools
from typing import Any

from specjax import base
from specjax import validation
from specjax.decoding import guard
from specjax.decoding import names as names_lib
from specjax.decoding.sampling import SAMPLERS
from specjax.decoding.verifiers import entry as entry_lib
from specjax.decoding.verifiers.block import ENTRY as BLOCK
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.decoding.verifiers.greedy import ENTRY as GREEDY
from specjax.decoding.verifiers.lenient import ENTRY as LENIENT
from specjax.decoding.verifiers.match import COUPLED
from specjax.decoding.verifiers.match import MATCH
from specjax.decoding.verifiers.sampling import ENTRY as SAMPLING
from specjax.decoding.verifiers.top_candidates import ENTRY as TOP_CANDIDATES
from specjax.decoding.verifiers.traversal import ENTRY as TRAVERSAL
from specjax.decoding.verifiers.typical import ENTRY as TYPICAL

BUILT_IN = (
  GREEDY,
  SAMPLING,
  BLOCK,
  COUPLED,
  MATCH,
  TRAVERSAL,
  LENIENT,
  TOP_CANDIDATES,
  TYPICAL,
)
_entries = {entry.name: entry for entry in BUILT_IN}
AUTO = 'auto'


def check_name(entry: VerifierEntry) -> None:
  """Raises ValueError if another entry has the name of this one."""
  names_lib.check(_entries, entry, 'verifier')


def entries() -> tuple[VerifierEntry, ...]:
  """All of them, in the order of registration."""
  return tuple(_entries.values())


def register(entry: VerifierEntry) -> VerifierEntry:
  """Adds an entry, so that commands and options know it by its name.

  Raises:
    ValueError: there is another entry of that name.
  """
  return names_lib.add(_entries, entry, 'verifier')


def names() -> tuple[str, ...]:
  """Their names."""
  return tuple(_entries)


def is_built_in(entry: Any) -> bool:
  """Whether an entry is built in, so that tests hold its contract."""
  return entry in BUILT_IN


def resolve(verifier: Any) -> VerifierEntry | None:
  """The entry that a user means; None for 'auto'.

  Args:
    verifier: a name, 'auto', a `VerifierEntry`, or a `Verifier`. The last
      states no law, so it counts as lossy; it judges chains and trees.

  Raises:
    ValueError: an unknown name, or something else.
  """
  if isinstance(verifier, VerifierEntry):
    check_name(verifier)
    return verifier
  if isinstance(verifier, base.Verifier):
    return _of_verifier(verifier)
  if verifier == AUTO:
    return None
  if isinstance(verifier, str) and verifier in _entries:
    return _entries[verifier]
  known = ', '.join((AUTO, *_entries))
  raise ValueError(
    f'Unknown verifier {verifier!r}: it must be one of {known}, FILE.py:NAME, '
    'a VerifierEntry or a Verifier.'
  )


# Kept, since a lambda made anew would make two entries of one rule unequal.
_wrapped: dict[base.Verifier, VerifierEntry] = {}


def _of_verifier(verifier: base.Verifier) -> VerifierEntry:
  """An entry around a rule of the user's own; the same one every time."""
  validation.hashable('The Verifier', verifier)
  if verifier not in _wrapped:
    name = getattr(verifier.verify, '__name__', 'custom')
    name = name if name.isidentifier() else 'custom'
    _wrapped[verifier] = VerifierEntry(
      # Restrictions and options of a built-in name must not apply to it.
      f'own_{name}' if name in _entries else name,
      'a rule of your own',
      lambda sampler, max_path, static: verifier,
      greedy_at_zero=False,
      trees=True,
      exact_when=entry_lib.never,
    )
  return _wrapped[verifier]


def choose(
  verifier: Any, *, sampled: bool, auto: str, drafts: bool = True
) -> VerifierEntry:
  """The rule in force.

  Args:
    verifier: argument of `resolve`.
    sampled: whether some temperature is above 0.
    auto: name of what 'auto' means then.
    drafts: whether anything is drafted; plain decoding follows `auto`.

  Raises:
    ValueError: a rule for temperature 0 above it.
  """
  entry = resolve(verifier)
  if entry is not None and entry.requires_zero_temperature and sampled:
    raise ValueError(
      f'verifier={entry.name} is for temperature 0; with a temperature above 0 '
      'use sampling, block, coupled or match.'
    )
  # Nothing is drafted, so no rule has anything to judge. One rule for all plain
  # runs gives all of them the same tokens.
  if entry is None or not drafts:
    return _entries[auto] if sampled else GREEDY
  # At temperature 0 every exact rule is this one.
  return GREEDY if not sampled and entry.greedy_at_zero else entry


def make(
  entry: VerifierEntry, sampler: str, tree_path: int, static: tuple = ()
) -> base.Verifier:
  """Makes the rule of an entry.

  Args:
    entry: entry of the rule.
    sampler: sampler of plain sampling.
    tree_path: longest path of the trees; 0 for chains.
    static: compiled options, see `options.static_part`.

  Raises:
    ValueError: the rule does not judge such drafts, or is no `Verifier`.
  """
  if sampler not in SAMPLERS:
    raise ValueError(
      f'Unknown sampler {sampler!r}: it must be one of {", ".join(SAMPLERS)}.'
    )
  fits = entry.trees if tree_path else entry.chains
  if not fits:
    mine, other = ('trees', 'chains') if tree_path else ('chains', 'trees')
    able = [e.name for e in entries() if (e.trees if tree_path else e.chains)]
    raise ValueError(
      f'The rule {entry.name!r} verifies {other} only; for {mine} use one of '
      f'{", ".join(able)}.'
    )
  return _made(entry, sampler, tree_path, static)


@functools.cache
def _made(
  entry: VerifierEntry, sampler: str, tree_path: int, static: tuple
) -> base.Verifier:
  """The rule, made once for exactly these arguments."""
  # A rule is part of a program's key, so one that is made anew would compile
  # everything anew.
  made = guard.call(
    f'The verifier {entry.name}: make', entry.make, sampler, tree_path, static
  )
  if not isinstance(made, base.Verifier):
    raise ValueError(
      f'The verifier {entry.name}: make must return a Verifier, not '
      f'{type(made).__name__}.'
    )
  return made
