"""Prompts, checked and laid out into batches of few shapes.

Wrong settings and prompts are found here, before anything is decoded.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import token_rows
from specjax.decoding.drafters.entry import DraftData
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import each
from specjax.inference import sharing as sharing_lib
from specjax.inference import windows
from specjax.inference.config import DecodeConfig
from specjax.inference.config import per_row
from specjax.inference.encoding import Encoded


@dataclasses.dataclass(frozen=True)
class Row:
  """A prompt as the decoder gets it; one for each answer wanted.

  `num_truncated` counts the tokens that were cut off.
  """

  prompt: str
  tokens: tuple[int, ...]
  prompt_index: int
  sequence: int
  id: str | int | None = None
  num_truncated: int = 0
  error: str = ''
  first: int = 0

  @property
  def place(self) -> int:
    """Place of the prompt in an input of which the job may have a part."""
    return self.first + self.prompt_index


class JobRows(Sequence[Row]):
  """The rows of a job, made from their prompts whenever they are read.

  Attributes:
    begin: rows before the first one that is shown: their answers exist.
  """

  def __init__(self, encoded: Encoded, sequences: int = 1, begin: int = 0):
    self._encoded = encoded
    self._sequences = sequences
    self.begin = begin

  def at(self, place: int) -> Row:
    """A row by its place among all rows."""
    # Two answers for each prompt: (0, 0) (0, 1) (1, 0) (1, 1). Those of one
    # prompt stand together, so that they come out in the order of the prompts.
    index, sequence = divmod(place, self._sequences)
    shown, tokens = self._encoded[index]
    line, lost = self._encoded.lines[index], self._encoded.lost[index]
    return Row(
      shown,
      tuple(tokens),
      index,
      sequence,
      line.id,
      lost,
      line.error,
      self._encoded.first,
    )

  def length(self, place: int) -> int:
    """Tokens of a row, by its place among all rows."""
    return self._encoded.lengths[place // self._sequences]

  @property
  def lengths(self) -> Sequence[int]:
    """Tokens of all rows."""
    if self._sequences == 1:
      return self._encoded.lengths
    return np.repeat(self._encoded.lengths, self._sequences).tolist()

  def __len__(self) -> int:
    return len(self._encoded) * self._sequences - self.begin

  def __getitem__(self, index: Any) -> Any:
    places = range(self.begin, self.begin + len(self))[index]
    if isinstance(index, slice):
      return tuple(map(self.at, places))
    return self.at(places)


class ChosenRows(JobRows):
  """Some rows, as they are."""

  def __init__(self, rows: Sequence[Row]):
    self._rows = tuple(rows)
    self.begin = 0

  def at(self, place: int) -> Row:
    """A row by its place."""
    return self._rows[place]

  def length(self, place: int) -> int:
    """Tokens of a row, by its place."""
    return len(self._rows[place].tokens)

  def __len__(self) -> int:
    return len(self._rows)


@dataclasses.dataclass(frozen=True)
class Job:
  """Checked prompts laid out into batches of few shapes.

  Attributes:
    assembled: recipe, and its target and drafter.
    params: parameters of target and drafter.
    config: settings of the job.
    tokenizer: tokenizer of the target, or None.
    eos_ids: end tokens in force, of all prompts or of each.
    rows: every answer wanted, in order: a `JobRows`.
    batches: a `windows.RowGroup` for each batch with rows left; places count
      all rows, those before `rows.begin` too, which are decoded once more and
      left out, so that every batch is one of the whole input. Blank rows are
      not decoded.
    batch_size: rows of every batch; the last is filled up with finished ones.
    refill: widths of prompts and batches where the places of finished rows are
      taken by the next ones, in the order of `batches`; None where batches are
      decoded one after the other.
    data: data that the drafter's parameters are made from.
    corpus: earlier answers that it may copy from, or None.
    layout: the mesh, or None for one device.
    from_generation_config: settings taken from the target's file, see
      `generation_config`.
    refused: errors of prompts that get no answer, by their place.
    sizes: sizes that lists of tokens need in any batch.
    sharing: beginning that all prompts share, and count of what was read.
  """

  assembled: assemble.Assembled
  params: generate_lib.Params
  config: DecodeConfig
  tokenizer: Any
  eos_ids: tuple[int, ...] | each.Each
  rows: JobRows
  batches: tuple[windows.RowGroup, ...]
  batch_size: int
  refill: windows.Widths | None = None
  data: DraftData = DraftData()
  corpus: corpus_lib.Corpus | None = None
  layout: mesh_lib.Layout | None = None
  from_generation_config: Mapping[str, Any] = dataclasses.field(
    default_factory=dict
  )
  sizes: token_rows.Sizes | None = None
  refused: Mapping[int, str] = dataclasses.field(default_factory=dict)
  sharing: sharing_lib.Sharing = dataclasses.field(
    default_factory=sharing_lib.Sharing
  )

  @property
  def recipe(self) -> generate_lib.Recipe:
    """The argument of `generate`."""
    return self.assembled.recipe


def first_batch(job: Job) -> Job:
  """The job cut down to its first rows, as many as a batch has."""
  places = (
    place
    for place in range(len(job.rows))
    if job.rows.length(job.rows.begin + place)
  )
  return only(job, list(itertools.islice(places, job.batch_size)))


def only(job: Job, places: Sequence[int]) -> Job:
  """The job cut down to some of its rows, in whole batches of the same shapes.

  Args:
    job: job whose batches have these shapes.
    places: places of the rows in `job.rows`, in order, none of them blank.
  """
  # Rows 0, 2 and 5 of batches of 4 rows and the widths 24 and 48: one batch
  # ((0, 1, 2), 48), if row 5 has more than 24 tokens.
  rows = ChosenRows([job.rows[place] for place in places])
  choices = sorted({batch.width for batch in job.batches})
  batches = []
  for begin in range(0, len(rows), job.batch_size):
    end = min(begin + job.batch_size, len(rows))
    group = tuple(range(begin, end))
    width = windows.at_least(choices, max(map(rows.length, group)))
    batches.append(windows.RowGroup(group, width))
  return dataclasses.replace(
    job, rows=rows, batches=tuple(batches), refill=None
  )


def as_list(value: Any) -> list:
  """The values of a setting that has one or one for each prompt."""
  return np.ravel(np.asarray(value)).tolist()


def batch_inputs(
  job: Job, rows: Sequence[Row], width: int, size: int | None = None
) -> tuple[base.Prompt, base.Controls]:
  """Arrays for one batch, filled up with rows that are finished at once.

  Args:
    job: result of `plan`.
    rows: at most `size`, none of them blank.
    width: S.
    size: B; by default `job.batch_size`.

  Returns:
    (prompt [B, S], controls [B]).
  """
  # 3 rows, batch_size 4, max_new_tokens 32: budgets [32 32 32 0]
  config, size = job.config, size or job.batch_size
  spare = size - len(rows)
  indices = np.array([row.prompt_index for row in rows] + [0] * spare, int)
  sequences = [row.sequence for row in rows] + [0] * spare
  places = [row.place for row in rows] + [0] * spare
  live = np.arange(size) < len(rows)
  budgets = np.where(live, per_row(config.max_new_tokens, indices), 0)
  tokens, lengths = text_lib.pad(
    [row.tokens for row in rows] + [()] * spare, width
  )
  controls = config.sampling(indices).controls(
    _row_keys(config.seed, indices, (sequences, places)),
    budgets,
    each.rows(job.eos_ids, indices),
    {
      name: np.asarray(per_row(value, indices))
      for name, value in job.assembled.dials().items()
    },
    # Of the whole job: the rows of this batch may need fewer arrays.
    job.recipe.warp,
    job.sizes,
  )
  prompt = base.Prompt(tokens, lengths)
  if job.layout is None:
    return prompt, controls
  rows = job.layout.rows(size)
  return (
    transfer.put(prompt, job.layout, rows),
    transfer.put_controls(controls, job.layout),
  )


def _row_keys(seed, indices: Sequence[int], who: tuple[Sequence[int], ...]):
  """A key for each row, the same in whatever batch the row stands."""
  # A prompt with a seed of its own has the same text wherever it stands.
  # A shard of an input has the noise that its prompts have in the whole.
  sequences, places = who
  names = np.asarray(places)
  if isinstance(seed, each.Each):
    names = np.where([place in seed.own for place in indices], 0, names)
  elif np.ndim(seed):
    names = np.zeros(len(indices))
  seeds = np.broadcast_to(per_row(seed, indices), (len(indices),))
  return _fold_keys(
    np.asarray(seeds, np.uint32),
    np.asarray(names, np.uint32),
    np.asarray(sequences, np.uint32),
  )


@jax.jit
@jax.vmap
def _fold_keys(seed, index, sequence):
  key = jax.random.fold_in(jax.random.key(seed), sequence)
  return jax.random.fold_in(key, index)
