"""Parts that the prompts of a job share, so that they are read once.

Rows of one prompt are read once a batch and copied, whatever the precision. A
beginning that all prompts of a job share is read once for each capacity of a
batch, in float32 alone: in other precisions a token depends on how many are
read together.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import beginnings
from specjax.decoding import precision


@dataclasses.dataclass
class Sharing:
  """The first tokens of all prompts of a job, and what was made of them.

  Attributes:
    tokens: the tokens; () where prompts share too few.
    made: `base.Shared` by capacity and costs, filled as batches ask for it.
    num_prefilled: prompt tokens that were read for the batches until now,
      padding not counted.
  """

  tokens: tuple[int, ...] = ()
  made: dict[Any, base.Shared] = dataclasses.field(default_factory=dict)
  num_prefilled: int = 0


def of(assembled: Any, config: Any, rows: Iterable[Sequence[int]]) -> Sharing:
  """The beginning of all prompts, where it can be read beforehand.

  Args:
    assembled: `assemble.Assembled`, what decodes.
    config: settings of the job.
    rows: token ids of every prompt of the job, also of those that are answered
      already: a run that is resumed reads what an uninterrupted one reads.
  """
  target, lm = assembled.target, assembled.recipe.target
  can = lm.select is not None and not lm.is_encoder_decoder
  can &= target.layout is None and config.num_beams == 1
  if not can or not precision.is_float32(target.params):
    return Sharing()
  return Sharing(beginnings.common(rows))


def attach(
  job: Any, prompt: base.Prompt, rows: Sequence[Any], capacity: int
) -> base.Prompt:
  """The prompts of a batch with what they share.

  Args:
    job: job that they belong to.
    prompt: tokens [B, S] and lengths [B], those behind `rows` blank.
    rows: `batching.Row`s of the batch.
    capacity: token slots of the batch, see `generate.start`.
  """
  places: dict[int, int] = {}
  for place, row in enumerate(rows):
    places.setdefault(row.prompt_index, place)
  first, copy_of = None, None
  if job.layout is None and job.recipe.target.select is not None:
    first, copy_of = _copies(job, rows, places, prompt.tokens.shape[0])
  shared = _begun(job, capacity)
  if first is not None:
    shared = (shared or base.Shared()).replace(first=first, copy_of=copy_of)
  read = rows if first is None else [rows[place] for place in places.values()]
  job.sharing.num_prefilled += sum(
    len(row.tokens) - len(job.sharing.tokens) for row in read
  )
  return prompt.replace(shared=shared)


def _begun(job, capacity: int) -> base.Shared | None:
  """The job's beginning as it was read, for batches of a capacity."""
  tokens, made = job.sharing.tokens, job.sharing.made
  if not tokens:
    return None
  # Costs decide whether a hybrid's model reads prompts at all.
  key = capacity, id(job.data.costs)
  if key not in made:
    prompt = base.Prompt(
      jnp.asarray([tokens], jnp.int32), jnp.asarray([len(tokens)], jnp.int32)
    )
    made[key] = beginnings.begin(
      job.recipe, job.params, prompt, capacity=capacity
    )
    job.sharing.num_prefilled += len(tokens)
  return made[key]


def _copies(job, rows, places: dict[int, int], size: int):
  """`Shared.first` and `Shared.copy_of`; None where every row is read.

  Args:
    job: job that the rows belong to.
    rows: rows of the batch.
    places: first place of each prompt, by the prompt's index.
    size: B.
  """
  # Two answers a prompt, a batch of 4: two prompts, or three if the first of
  # them began in the batch before, so there are two programs at most.
  #   rows p p q q: first [0 2],   copy_of [0 0 1 1]
  #   rows p q q r: first [0 1 3], copy_of [0 1 1 2]
  #   rows p p:     first [0 0],   copy_of [0 0 0 0]
  sequences = job.config.num_return_sequences
  counts = -(-size // sequences), -(-(size - 1) // sequences) + 1
  count = next((n for n in counts if n >= len(places)), size)
  if sequences == 1 or count >= size:
    return None, None
  first = np.zeros(count, np.int32)
  first[: len(places)] = list(places.values())
  order = {index: at for at, index in enumerate(places)}
  copy_of = np.zeros(size, np.int32)
  copy_of[: len(rows)] = [order[row.prompt_index] for row in rows]
  return first, copy_of
