"""The drafters there are: one line each."""

from typing import Any

from specjax.decoding import names as names_lib
from specjax.decoding.drafters.blockwise import ENTRY as BLOCKWISE
from specjax.decoding.drafters.draft_model import ENTRY as DRAFT_MODEL
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.hybrid import ENTRY as HYBRID
from specjax.decoding.drafters.nothing import ENTRY as NONE
from specjax.decoding.drafters.prompt_lookup import ENTRY as PROMPT_LOOKUP
from specjax.decoding.drafters.simulated import ENTRY as SIMULATED
from specjax.decoding.drafters.spec_drafter import ENTRY as SPEC_DRAFTER
from specjax.decoding.drafters.speculator import ENTRY as SPECULATOR
from specjax.decoding.drafters.suffix import ENTRY as SUFFIX
from specjax.decoding.drafters.table import BIGRAM
from specjax.decoding.drafters.table import UNIGRAM
from specjax.decoding.drafters.token_recycling import ENTRY as TOKEN_RECYCLING
from specjax.models.family import ModelFamily

BUILT_IN = (
  NONE,
  DRAFT_MODEL,
  SPEC_DRAFTER,
  BLOCKWISE,
  SPECULATOR,
  PROMPT_LOOKUP,
  SUFFIX,
  TOKEN_RECYCLING,
  HYBRID,
  UNIGRAM,
  BIGRAM,
  SIMULATED,
)
_entries = {entry.name: entry for entry in BUILT_IN}


def register(entry: DrafterEntry) -> DrafterEntry:
  """Adds an entry, so that commands and options know it by its name.

  Raises:
    ValueError: there is another entry of that name.
  """
  return names_lib.add(_entries, entry, 'drafter')


def check_name(entry: DrafterEntry) -> None:
  """Raises ValueError if another entry has the name of this one."""
  names_lib.check(_entries, entry, 'drafter')


def entries() -> tuple[DrafterEntry, ...]:
  """All of them, in the order of registration."""
  return tuple(_entries.values())


def named() -> tuple[DrafterEntry, ...]:
  """Those that a name alone means: no folder, nothing behind a colon."""
  return tuple(
    entry for entry in entries() if not entry.families and not entry.takes
  )


def find(name: str) -> DrafterEntry | None:
  """The entry that a name means, without what stands behind a colon."""
  return _entries.get(name)


def for_family(family: ModelFamily) -> DrafterEntry:
  """The entry that decodes from folders of a model family.

  Raises:
    ValueError: there is none.
  """
  for word in (family.name, family.role):
    for entry in reversed(entries()):
      if word in entry.families:
        return entry
  raise ValueError(
    f'No drafter decodes from models of the family {family.name!r}.'
  )


def is_built_in(entry: Any) -> bool:
  """Whether an entry is one of ours, whose contract is tested."""
  return entry in BUILT_IN


def names() -> str:
  """Forms in which a user may name a drafter, for messages."""
  words = ['the folder of a model', 'a hub id like organisation/name']
  words += ['FILE.py:NAME']
  words += [
    f'{e.name}:{e.takes.replace(" ", "_")}' for e in entries() if e.takes
  ]
  words += [entry.name for entry in named()]
  return ', '.join(words)
