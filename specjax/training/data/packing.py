"""Examples to fixed-shape rows: joining, packing, and the arrays of a batch.

Everything here is numpy and a pure function of its arguments, so any process
can rebuild any batch from its number alone.

A packed row holds several examples one after another. `segments` numbers them
1, 2, ... within the row and is 0 where the row is empty; a token may attend
only to tokens of its own segment.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Rows that stand open while examples are placed: more leave less padding.
_OPEN_ROWS = 16


class Stream(NamedTuple):
  """Token sequences of different lengths in two flat arrays.

  Attributes:
    tokens: int32 [total].
    offsets: int64 [n + 1]; sequence i is tokens[offsets[i]:offsets[i + 1]].
  """

  tokens: np.ndarray
  offsets: np.ndarray


def stream(sequences: Sequence[Sequence[int]]) -> Stream:
  """Flattens sequences of ids."""
  # In:  [[5 6] [7]]
  # Out: tokens [5 6 7], offsets [0 2 3]
  lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
  offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
  # Two flat arrays instead of a list of arrays: a million short sequences would
  # cost a hundred bytes of bookkeeping each, and could not be sliced at once.
  tokens = np.empty(int(offsets[-1]), np.int32)
  for i, s in enumerate(sequences):
    tokens[offsets[i] : offsets[i + 1]] = s
  return Stream(tokens, offsets)


def lengths(sequences: Stream) -> np.ndarray:
  """int64 [n], the length of each sequence."""
  return np.diff(sequences.offsets)


def get(sequences: Stream, i: int) -> np.ndarray:
  """int32, sequence `i`."""
  return sequences.tokens[sequences.offsets[i] : sequences.offsets[i + 1]]


def group(
  order: np.ndarray,
  sizes: Sequence[np.ndarray],
  limits: Sequence[int],
  rng: np.random.Generator,
  *,
  num_joined: int = 0,
  join: tuple[int, int] = (1, 1),
  cut: np.ndarray | None = None,
) -> list[np.ndarray]:
  """Joins the first `num_joined` of `order` to passages; the rest stay alone.

  Args:
    order: int [n], items in the order they are taken.
    sizes: per side, int [number of items], the tokens an item takes there.
    limits: per side, the most tokens an example may take.
    rng: draws the number of items of each passage.
    num_joined: number of items that become parts of passages.
    join: fewest and most items of a passage; a passage also ends before it
      would pass a limit.
    cut: bool [number of items], those that end their passage; None for none.

  Returns:
    list of int arrays, the items of each example; each item occurs once.
  """
  # One side, at most 5 tokens, passages of two, the first three items joined:
  # In:  order [0 1 2 3], sizes [2 2 3 2]
  # Out: [0 1] [2] [3]; item 2 ends alone, as nothing is left to join
  examples = []
  current, wanted, used = [], 0, [0] * len(sizes)
  for item in order[:num_joined]:
    # Each side has a limit of its own, as sources and targets are different
    # rows.
    new = [u + s[item] for u, s in zip(used, sizes, strict=True)]
    full = len(current) >= wanted or any(
      n > m for n, m in zip(new, limits, strict=True)
    )
    if current and full:
      examples.append(np.asarray(current))
      current, new = [], [s[item] for s in sizes]
    if not current:
      wanted = int(rng.integers(join[0], join[1] + 1))
    current.append(item)
    used = new
    # What follows a truncated item would stand in the middle of its sentence.
    if cut is not None and cut[item]:
      wanted = 0
  if current:
    examples.append(np.asarray(current))
  examples += [order[i : i + 1] for i in range(num_joined, len(order))]
  return examples


def pack(
  sizes: np.ndarray, limits: Sequence[int], pack_rows: bool = True
) -> list[list[int]]:
  """Places examples into rows.

  Args:
    sizes: int [examples, sides], tokens an example takes on each side.
    limits: tokens a row has on each side.
    pack_rows: False gives every example a row of its own.

  Returns:
    the example numbers of each row; every example stands in exactly one row.
  """
  if not pack_rows:
    return [[i] for i in range(len(sizes))]
  # In:  sizes [[5] [4] [3] [6]], limits [8]
  # Out: [0 2] [1] [3]; example 2 goes where it leaves the least room
  limits = np.asarray(limits)
  rows = []
  opened = [[] for _ in range(_OPEN_ROWS)]
  used = np.zeros((_OPEN_ROWS, len(limits)), np.int64)
  for i, size in enumerate(sizes):
    after = used + size
    fits = (after <= limits).all(1)
    # The fullest row that still fits, as in best-fit bin packing.
    fullness = used.sum(1)
    if fits.any():
      slot = int(np.argmax(np.where(fits, fullness, -1)))
    else:
      # Nothing fits: the fullest row is closed, since it has least left to
      # give.
      slot = int(np.argmax(fullness))
      rows.append(opened[slot])
      opened[slot], used[slot] = [], 0
    opened[slot].append(i)
    used[slot] += size
  return rows + [row for row in opened if row]


def _row(pieces, length):
  """Lays sequences side by side: tokens [length], segments [length]."""
  # In:  pieces [[5 6] [7]], length 5
  # Out: tokens [5 6 7 0 0], segments [1 1 2 0 0]
  tokens = np.zeros(length, np.int32)
  segments = np.zeros(length, np.int32)
  at = 0
  for number, piece in enumerate(pieces, 1):
    tokens[at : at + len(piece)] = piece
    segments[at : at + len(piece)] = number
    at += len(piece)
  return tokens, segments


def pair_rows(
  rows: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
  source_length: int,
  target_length: int,
  num_rows: int,
  start_id: int,
) -> dict[str, np.ndarray]:
  """Arrays of a batch of (source, target) examples.

  Args:
    rows: the examples of each row; fewer than `num_rows` leaves empty rows.
    source_length: S, tokens of a row of sources.
    target_length: T, tokens of a row of targets.
    num_rows: B.
    start_id: the decoder's start token, put before every target.

  Returns:
    int32 `source`, `source_segments` [B, S]; `target_in`, `target`,
    `target_segments` [B, T]. `target_in` is `target` moved right by one
    inside each segment; positions with segment 0 carry no loss.
  """
  # One row of two examples, T = 6, start token 0:
  # In:  targets         [5 6 1] [7 1]
  # Out: target          [5 6 1 7 1 0]
  #      target_in       [0 5 6 0 7 0]
  #      target_segments [1 1 1 2 2 0]
  batch = {
    'source': np.zeros((num_rows, source_length), np.int32),
    'source_segments': np.zeros((num_rows, source_length), np.int32),
    'target_in': np.zeros((num_rows, target_length), np.int32),
    'target': np.zeros((num_rows, target_length), np.int32),
    'target_segments': np.zeros((num_rows, target_length), np.int32),
  }
  for b, row in enumerate(rows):
    sources, targets = [s for s, _ in row], [t for _, t in row]
    batch['source'][b], batch['source_segments'][b] = _row(
      sources, source_length
    )
    batch['target'][b], batch['target_segments'][b] = _row(
      targets, target_length
    )
    batch['target_in'][b], _ = _row(
      [np.concatenate([[start_id], t[:-1]]) for t in targets], target_length
    )
  return batch


def text_rows(
  rows: Sequence[Sequence[tuple[np.ndarray, int]]], length: int, num_rows: int
) -> dict[str, np.ndarray]:
  """Arrays of a batch for a decoder-only model.

  Args:
    rows: the examples of each row as (tokens [n], given), where the first
      `given` tokens (at least 1) are a prompt and carry no loss.
    length: L.
    num_rows: B.

  Returns:
    int32 `tokens`, `target`, `segments`, `positions` [B, L] and float32
    `weight` [B, L]: `target` is the token after `tokens`, and `weight` is 1
    where it is to be predicted. Example tokens [n] take n - 1 places.
  """
  # One row of two examples, the first with a prompt of two tokens:
  # In:  [5 6 7 8] given 2, [9 1] given 1, L = 5
  # Out: tokens [5 6 7 9 0], positions [0 1 2 0 0], segments [1 1 1 2 0]
  #      target [6 7 8 1 0], weight    [0 1 1 1 0]
  batch = {
    name: np.zeros((num_rows, length), np.int32)
    for name in ('tokens', 'target', 'segments', 'positions')
  }
  batch['weight'] = np.zeros((num_rows, length), np.float32)
  for b, row in enumerate(rows):
    batch['tokens'][b], batch['segments'][b] = _row(
      [t[:-1] for t, _ in row], length
    )
    batch['target'][b], _ = _row([t[1:] for t, _ in row], length)
    batch['positions'][b], _ = _row(
      [np.arange(len(t) - 1) for t, _ in row], length
    )
    at = 0
    for tokens, given in row:
      # given 2 of [5 6 7 8]: places 0 .. 2 predict 6, 7 and 8; 6 is still the
      # prompt, so weights begin at place 1.
      batch['weight'][b, at + given - 1 : at + len(tokens) - 1] = 1
      at += len(tokens) - 1
  return batch


def cut(tokens: np.ndarray, length: int) -> list[np.ndarray]:
  """Cuts a document into pieces of at most `length` + 1 tokens.

  Neighbours share one token, so every token but the first is predicted
  exactly once.
  """
  # In:  [a b c d e f], length 2
  # Out: [a b c] [c d e] [e f]
  last = max(len(tokens) - 1, 1)
  return [tokens[i : i + length + 1] for i in range(0, last, length)]


def padding(batch: dict[str, np.ndarray], name: str) -> float | None:
  """Share of empty places of `name`, one of the segment arrays."""
  segments = batch.get(name)
  return None if segments is None else float((segments == 0).mean())
