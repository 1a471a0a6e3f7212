"""Prompts that get an error in the place of an answer."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from specjax import prompts as prompts_lib
from specjax.inference import encoding
from specjax.inference import line_settings

# A prompt that cannot be answered ends the job before it begins, or gets an
# error while the others get their answers.
STOP, SKIP = 'stop', 'skip'
ON_ERROR = (STOP, SKIP)


@dataclasses.dataclass(frozen=True, eq=False)
class Checked(Sequence):
  """Lines of which some are refused.

  Attributes:
    lines: all lines.
    errors: reason of each refused one, by its place.
  """

  lines: Sequence[prompts_lib.Line]
  errors: dict[int, str]

  @property
  def first(self) -> int:
    """Place of the first line in the whole input."""
    return first_of(self.lines)

  def __len__(self) -> int:
    """Number of lines."""
    return len(self.lines)

  def __getitem__(self, index):
    """A line; with an error, and without a prompt, if it is refused."""
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    line = self.lines[index]
    error = self.errors.get(index % len(self))
    if error is None:
      return line
    return dataclasses.replace(line, source='', settings={}, error=error)


def first_of(lines: Sequence[prompts_lib.Line]) -> int:
  """Place of the first of some lines in the whole input, from 0."""
  return getattr(lines, 'first', 0)


def readable(
  model: Any, lines: Sequence[prompts_lib.Line], config: Any
) -> Checked:
  """Lines with errors where the target cannot read them.

  Args:
    model: the target.
    lines: lines, each read once.
    config: `DecodeConfig`.
  """
  errors = {}
  names = line_settings.names_of_all(config)
  for index, line in enumerate(lines):
    try:
      line_settings.check_line(line, config, names)
      encoding.encode_line(model, line, config)
    except ValueError as error:
      errors[index] = str(error)
    else:
      if line.error:
        errors[index] = line.error
  return Checked(lines, errors)


def named(line: prompts_lib.Line, index: int, error: ValueError) -> str:
  """The sentence of an error, with the place of the line in front.

  Args:
    line: the line.
    index: its place, which a sentence may name as 'Prompt 3'.
    error: error that names its prompt.
  """
  if line.where in ('', f'Prompt {index + 1}'):
    return str(error)
  return f'{line.where}: {error}'
