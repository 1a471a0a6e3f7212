"""The table `VARIANTS` of a config file: one row for each way to use it.

`configs/README.md` is printed from these tables.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

NOT_MEASURED = 'not measured'


class Variant(NamedTuple):
  """One way to use a config file.

  Attributes:
    name: NAME of `--config=FILE:NAME`; '' for the file alone.
    makes: noun phrase, the result of the command.
    command: shell command, in which '{config}' stands for FILE:NAME.
    measured: date, time and machine of the last measurement.
  """

  name: str
  makes: str
  command: str
  measured: str = NOT_MEASURED


def table(command: str, makes: Mapping[str, str]) -> tuple[Variant, ...]:
  """The table of a file whose variants share a command and were not measured.

  Args:
    command: shell command, in which '{config}' stands for FILE:NAME.
    makes: result of each variant, by name.
  """
  return tuple(Variant(name, words, command) for name, words in makes.items())


def check(name: str, variants: Sequence[Variant]) -> None:
  """Refuses a variant that a config file does not have.

  Args:
    name: NAME of `--config=FILE:NAME`; '' for the file alone.
    variants: the file's table.

  Raises:
    ValueError: no row has this name.
  """
  known = [variant.name for variant in variants]
  if name not in known:
    raise ValueError(
      f'Unknown variant {name!r}; known are {", ".join(filter(None, known))}.'
    )
