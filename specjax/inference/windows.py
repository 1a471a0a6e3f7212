"""Layout of prompts by length, a window at a time.

A window is a number of batches' rows, counted from the first prompt of the
input. Inside of one, rows of similar length share a batch, so that one long
prompt pads few others; answers are put back into the input's order.
"""

from collections.abc import Sequence
from typing import NamedTuple

from specjax import text as text_lib
from specjax.distributed import mesh as mesh_lib

# Prompt tokens for whose sake another prefill program is compiled.
_WORTH_A_PROGRAM = 512


class RowGroup(NamedTuple):
  """Rows decoded together.

  Attributes:
    places: places of the rows among all rows of the input.
    width: padded prompt width.
  """

  places: tuple[int, ...]
  width: int


class Widths(NamedTuple):
  """Widths of a run that refills rows, ascending.

  Attributes:
    prompts: padded prompt widths, each with a prefill program.
    batches: widths that a batch has room for, each with a loop program.
  """

  prompts: tuple[int, ...] = ()
  batches: tuple[int, ...] = ()


def batch_rows(count: int, batch_size: int, parts: int) -> int:
  """Rows of every batch, fewer than `batch_size` for a few rows in all.

  Args:
    count: rows that are decoded in all.
    batch_size: the setting.
    parts: devices that a batch is divided between.

  Raises:
    MeshError: the devices do not divide a batch.
  """
  if batch_size % parts:
    raise mesh_lib.MeshError(
      f'batch_size={batch_size} cannot be divided by the {parts} devices of '
      f'the data axis; take a multiple of {parts}, or a mesh.shape with fewer '
      'there.'
    )
  # 3 rows, batch_size 8, 2 parts: 4
  fewer = -(-text_lib.row_count(count) // parts) * parts
  return min(batch_size, fewer) if count else batch_size


def lay_out(
  lengths: Sequence[int],
  batch_size: int,
  window: int,
  *,
  is_sorted: bool,
  refills: bool,
) -> tuple[tuple[RowGroup, ...], Widths | None]:
  """Batches of all rows, window after window.

  Args:
    lengths: tokens of each row; 0 for a row that is not decoded.
    batch_size: rows of a batch.
    window: batches of a window.
    is_sorted: whether rows are sorted by length in a window; where tokens
      depend on the rows of a batch, they stay in order.
    refills: whether finished rows may make place for others.

  Returns:
    The batches, and widths for refilling where it pays.
  """
  chunks, size = [], window * batch_size
  for number, first in enumerate(range(0, len(lengths), size)):
    places = range(first, min(first + size, len(lengths)))
    chunks += _chunks(
      lengths, places, batch_size, (1, -1)[number % 2], is_sorted
    )
  if not chunks:
    return (), None
  found = text_lib.widths(
    [max(lengths[place] for place in chunk) for chunk in chunks]
  )
  groups = tuple(map(RowGroup, chunks, found))
  # One batch of like lengths has no place to refill.
  if len(groups) == 1:
    refills &= _is_padded(lengths, groups[0], batch_size)
  return groups, widths(lengths, batch_size) if refills else None


def _chunks(lengths, places, batch_size, sign, is_sorted) -> list:
  """The live rows of a window, a batch's at a time."""
  # Rows of 5, 0, 40, 7 and 12 tokens, batch_size 2: (2, 4), (3, 0). In the next
  # window the shortest come first, which are like the last ones of this one.
  live = [place for place in places if lengths[place]]
  if is_sorted:
    live.sort(key=lambda place: (-sign * lengths[place], place))
  return [
    tuple(live[i : i + batch_size]) for i in range(0, len(live), batch_size)
  ]


def widths(lengths: Sequence[int], batch_size: int) -> Widths:
  """Widths of prompts and batches, where rows are refilled.

  Args:
    lengths: tokens of each row; 0 for a row that is not decoded.
    batch_size: rows of a batch.
  """
  counts: dict[int, int] = {}
  for length in lengths:
    if length:
      width = text_lib.bucket(length)
      counts[width] = counts.get(width, 0) + 1
  # 20 rows of up to 64 tokens, 9 of up to 96 and 5 of up to 128: those of 96
  # are padded to 128, which is 288 tokens in all.
  kept: list[int] = []
  for width in sorted(counts, reverse=True):
    if not kept or counts[width] * (kept[0] - width) >= _WORTH_A_PROGRAM:
      kept.insert(0, width)
  # A narrow batch reads shorter caches, and a change of batches lets one run
  # out: so it must be much narrower, and for many rows.
  rooms = kept[-1:]
  for width in reversed(kept[:-1]):
    below = sum(counts[other] for other in counts if other <= width)
    if 4 * width <= rooms[0] and below >= 4 * batch_size:
      rooms.insert(0, width)
  return Widths(tuple(kept), tuple(rooms))


def at_least(choices: Sequence[int], length: int) -> int:
  """The first of ascending widths that holds a row."""
  return next(width for width in choices if width >= length)


def _is_padded(
  lengths: Sequence[int], group: RowGroup, batch_size: int
) -> bool:
  """Whether padding to one width would more than double a batch's prompts."""
  real = sum(text_lib.bucket(lengths[place]) for place in group.places)
  return batch_size * group.width > 2 * real
