"""Cases that decode all prompts as a file is decoded.

Prompts are laid out by length, and the next ones take the places of finished
rows. So this measures throughput: seconds are those of all prompts together,
and prefill has no time of its own.
"""

from collections.abc import Sequence
import dataclasses
import time

import jax
import numpy as np

from specjax.benchmark import measure
from specjax.benchmark import request as request_lib
from specjax.benchmark.cases import Case
from specjax.benchmark.cases import PromptBatch
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding import insertion
from specjax.inference import batching
from specjax.inference import decode_batch
from specjax.inference import generate as inference
from specjax.inference import sharing
from specjax.inference import token_lists
from specjax.inference import windows
from specjax.inference.config import DecodeConfig


def check(case: Case) -> None:
  """Raises ValueError where rows of a case cannot be refilled."""
  # What decides at each place must not depend on the row's neighbours, nor on
  # the place: the script of a simulated drafter is that of a batch.
  can = insertion.can_insert(case.recipe) and jax.process_count() == 1
  can &= case.assembled.is_row_independent
  if can and not case.assembled.plan.reads_script:
    return
  what = f'The drafter {case.name}' if case.drafts else 'This target'
  raise ValueError(
    f'{what} decodes whole batches here, whose rows cannot be refilled; leave '
    'refill at false, or take another drafter.'
  )


def engine(
  case: Case, batches: Sequence[PromptBatch], setup: request_lib.Setup
) -> measure.Engine:
  """Compiles a case.

  Args:
    case: way to decode, which `check` allows.
    batches: prompts that are decoded in one go, of any number.
    setup: models and prompts that these belong to.
  """
  begin = time.perf_counter()
  jobs = [_job(case, batch.rows, setup) for batch in batches]
  for job in jobs:
    inference.warm_up(job)
  seconds = time.perf_counter() - begin

  def call(index: int):
    begin = time.perf_counter()
    found = _decoded(jobs[index])
    return measure.Timing(time.perf_counter() - begin), found

  return measure.Engine(case.label, call, compile_seconds=seconds)


def decode(
  case: Case, batches: Sequence[PromptBatch], setup: request_lib.Setup
) -> list[generate_lib.Generation]:
  """The `Generation`s of numpy arrays that `engine` gives, untimed."""
  return [_decoded(_job(case, batch.rows, setup)) for batch in batches]


def _job(
  case: Case, numbers: Sequence[int], setup: request_lib.Setup
) -> batching.Job:
  """The prompts of these numbers as a job of decoding."""
  target = setup.target
  config = _config(case, setup)
  prompts = [setup.prompts[number].tokens for number in numbers]
  batches, widths = windows.lay_out(
    [len(tokens) for tokens in prompts],
    case.batch_size,
    config.window,
    is_sorted=True,
    refills=True,
  )
  return batching.Job(
    assembled=case.assembled,
    params=case.params,
    config=config,
    tokenizer=None,
    eos_ids=config.end_ids(target.eos_ids),
    # By its number a prompt has the same noise wherever it stands.
    rows=batching.ChosenRows(
      [
        batching.Row('', tuple(tokens), number, 0)
        for number, tokens in zip(numbers, prompts, strict=True)
      ]
    ),
    batches=batches,
    batch_size=case.batch_size,
    refill=widths,
    data=case.data,
    layout=target.layout,
    sizes=token_lists.sizes(config, target),
    sharing=sharing.of(case.assembled, config, prompts),
  )


def _config(case: Case, setup: request_lib.Setup) -> DecodeConfig:
  """The settings of decoding that a case stands for."""
  config, sampling = setup.config, setup.sampling(case.temperature)
  return DecodeConfig(
    **{
      field.name: getattr(sampling, field.name)
      for field in dataclasses.fields(sampling)
    },
    max_new_tokens=config.max_new_tokens,
    ignore_eos=config.ignore_eos,
    batch_size=case.batch_size,
    seed=config.seed,
  )


def _decoded(job: batching.Job) -> generate_lib.Generation:
  """All rows in the order of their prompts, as one batch would give them."""
  # Each time what the prompts share is read anew, as for a file.
  shared = sharing.Sharing(job.sharing.tokens)
  job = dataclasses.replace(job, sharing=shared)
  decoder, count = inference.decoder_of(job), len(job.rows)
  rows: dict[int, generate_lib.Generation] = {}
  rounds = 0
  while (step := decoder.step(count)) is not None:
    rounds += step.all_rounds // job.batch_size
    rows |= {done.place: _row(done) for done in step.done}
  made = _joined([rows[place] for place in range(count)])
  contract.refuse(made.faults)
  return made.replace(num_rounds=np.int32(rounds))


def _row(done: decode_batch.Done) -> generate_lib.Generation:
  """One row by itself, without the count of rounds of its batch."""
  # A copy: a view would keep the arrays of the whole batch.
  return jax.tree.map(
    lambda x: np.array(x[done.at]), done.generation.replace(num_rounds=None)
  )


def _joined(rows: Sequence[generate_lib.Generation]) -> generate_lib.Generation:
  """Rows of batches of several widths as one `Generation`."""
  # tokens [5 9 0] and [4 4 7 0 0]: [[5 9 0 0 0] [4 4 7 0 0]]
  width = max(len(row.tokens) for row in rows)
  rows = [
    row.replace(tokens=np.pad(row.tokens, (0, width - len(row.tokens))))
    for row in rows
  ]
  return jax.tree.map(lambda *x: np.stack(x), *rows)
