"""Prompts, checked and laid out into batches of few shapes.

Wrong settings and prompts are found here, before anything is decoded.
"""

from collections.abc import Mapping, Sequence
import dataclasses
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
from specjax.inference.config import DecodeConfig
from specjax.inference.config import per_row


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


@dataclasses.dataclass(frozen=True)
class Job:
  """Checked prompts laid out into batches of few shapes.

  Attributes:
    assembled: recipe, and its target and drafter.
    params: parameters of target and drafter.
    config: settings of the job.
    tokenizer: tokenizer of the target, or None.
    eos_ids: end tokens in force, of all prompts or of each.
    rows: every answer wanted, in order.
    batches: (first row, end row, padded prompt width); blank rows in between
      are not decoded.
    batch_size: rows of every batch; the last is filled up with finished ones.
    data: data that the drafter's parameters are made from.
    corpus: earlier answers that it may copy from, or None.
    layout: the mesh, or None for one device.
    from_generation_config: settings taken from the target's file, see
      `generation_config`.
    sizes: sizes that lists of tokens need in any batch.
    again: rows before `rows` that stand in the first batch. They are decoded
      once more and left out, so that every batch is one of the whole job.
  """

  assembled: assemble.Assembled
  params: generate_lib.Params
  config: DecodeConfig
  tokenizer: Any
  eos_ids: tuple[int, ...] | each.Each
  rows: tuple[Row, ...]
  batches: tuple[tuple[int, int, int], ...]
  batch_size: int
  data: DraftData = DraftData()
  corpus: corpus_lib.Corpus | None = None
  layout: mesh_lib.Layout | None = None
  from_generation_config: Mapping[str, Any] = dataclasses.field(
    default_factory=dict
  )
  sizes: token_rows.Sizes | None = None
  again: tuple[Row, ...] = ()

  @property
  def recipe(self) -> generate_lib.Recipe:
    """The argument of `generate`."""
    return self.assembled.recipe


def first_batch(job: Job) -> Job:
  """The job cut down to its first batch."""
  batches = job.batches[:1]
  end = batches[0][1] if batches else 0
  return dataclasses.replace(job, rows=job.rows[:end], batches=batches)


def only(job: Job, places: Sequence[int]) -> Job:
  """The job cut down to some of its rows, in batches of the same shapes.

  Args:
    job: job whose programs are compiled.
    places: places of the rows, in order, none of them blank.
  """
  # Rows 0, 2 and 5 of batches (0, 4, 24), (4, 8, 48) of 4 rows: one batch
  # (0, 3, 48), if row 5 has more than 24 tokens. Rows that stood before them in
  # the first batch would not fit into it any more.
  rows = tuple(job.rows[place] for place in places)
  widths = sorted({width for _, _, width in job.batches})
  batches = []
  for begin in range(0, len(rows), job.batch_size):
    end = min(begin + job.batch_size, len(rows))
    longest = max(len(row.tokens) for row in rows[begin:end])
    width = next(width for width in widths if width >= longest)
    batches.append((begin, end, width))
  return dataclasses.replace(job, rows=rows, batches=tuple(batches), again=())


def as_list(value: Any) -> list:
  """The values of a setting that has one or one for each prompt."""
  return np.ravel(np.asarray(value)).tolist()


def batch_inputs(
  job: Job, rows: Sequence[Row], width: int
) -> tuple[base.Prompt, base.Controls]:
  """Arrays for one batch, filled up with rows that are finished at once.

  Args:
    job: result of `plan`.
    rows: at most `job.batch_size`, none of them blank.
    width: S.

  Returns:
    (prompt [B, S], controls [B]).
  """
  # 3 rows, batch_size 4, max_new_tokens 32: budgets [32 32 32 0]
  config = job.config
  spare = job.batch_size - len(rows)
  indices = np.array([row.prompt_index for row in rows] + [0] * spare, int)
  sequences = [row.sequence for row in rows] + [0] * spare
  live = np.arange(job.batch_size) < len(rows)
  budgets = np.where(live, per_row(config.max_new_tokens, indices), 0)
  tokens, lengths = text_lib.pad(
    [row.tokens for row in rows] + [()] * spare, width
  )
  controls = config.sampling(indices).controls(
    _row_keys(config.seed, indices, sequences),
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
  rows = job.layout.rows(job.batch_size)
  return (
    transfer.put(prompt, job.layout, rows),
    transfer.put_controls(controls, job.layout),
  )


def _row_keys(seed, indices: Sequence[int], sequences: Sequence[int]):
  """A key for each row, the same in whatever batch the row stands."""
  # A prompt with a seed of its own has the same text wherever it stands.
  names = np.asarray(indices)
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


def batch_rows(count: int, batch_size: int, parts: int) -> int:
  """Rows of every batch, fewer than `batch_size` for a few rows in all.

  Args:
    count: rows in all, at least one.
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
  return min(batch_size, -(-text_lib.row_count(count) // parts) * parts)


def layout_rows(
  rows: Sequence[Row], batch_size: int, parts: int
) -> tuple[int, tuple]:
  """(batch size, batches) for rows, a batch being cut into parts; see `Job`."""
  # Prompts of 5, 0, 40, 7 and 12 tokens, batch_size 2, one part:
  #   live [0 2 3 4], groups [0 2] [3 4], widths [48 24]
  #   batches (0, 3, 48), (3, 5, 24)
  live = [index for index, row in enumerate(rows) if row.tokens]
  batch_size = batch_rows(len(live) or batch_size, batch_size, parts)
  if not live:
    return batch_size, ()
  groups = [live[i : i + batch_size] for i in range(0, len(live), batch_size)]
  widths = text_lib.widths(
    [max(len(rows[index].tokens) for index in group) for group in groups]
  )
  return batch_size, tuple(
    (group[0], group[-1] + 1, width)
    for group, width in zip(groups, widths, strict=True)
  )


def after(batches: tuple, skip: int) -> tuple[int, tuple]:
  """The batches that are left, behind rows that are answered already.

  Args:
    batches: result of `layout_rows`.
    skip: number of answered rows.

  Returns:
    (rows before `skip` in the first batch left, batches counted from `skip`).
  """
  # Batches (0, 4, 32), (4, 8, 16), (8, 9, 16), skip 6: row 6 was decoded beside
  # rows 4, 5 and 7, so it is again: 2, (0, 2, 16), (2, 3, 16).
  left = [batch for batch in batches if batch[1] > skip]
  again = max(skip - left[0][0], 0) if left else 0
  return again, tuple(
    (max(first - skip, 0), end - skip, width) for first, end, width in left
  )
