"""Decoding of the same texts in several shapes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.simulated import ENTRY as SIMULATED
from specjax.inference import assemble
from specjax.inference import decode_batch

WIDTHS, BATCHES = (1, 2, 5, 9, 16), (1, 4, 8, 32)
RULES = ('greedy', 'match', 'coupled')
# Without a draft no rule runs: `match` and `coupled` are one program then.
PIECES = tuple(
  (width, rule)
  for width in WIDTHS
  for rule in RULES
  if width > 1 or rule != 'coupled'
)
# Share of the drafted tokens that are right: most, so that the last slots of
# wide blocks are judged too.
RATE = 0.9


class Cell(NamedTuple):
  """A way to decode; `wide` and `roomy` add to prompt width and capacity."""

  width: int
  batch: int
  wide: bool
  roomy: bool
  rule: str = 'greedy'


FIRST = Cell(1, 1, False, False)
# Every value of a factor stands beside every one of the others, but among
# widths, batches and rules, which have more pairs than there are cells: of
# those 12 of 20, 12 of 15 and 9 of 12 are met.
PAIRS = (
  Cell(2, 1, False, True, 'greedy'), Cell(2, 8, True, False, 'match'),
  Cell(5, 4, False, False, 'coupled'), Cell(5, 32, True, True, 'greedy'),
  Cell(9, 1, True, False, 'coupled'), Cell(9, 8, False, True, 'match'),
  Cell(16, 4, True, True, 'match'), Cell(16, 32, False, False, 'greedy'),
  Cell(1, 4, False, True, 'greedy'), Cell(1, 8, True, True, 'coupled'),
  Cell(1, 32, True, False, 'match'), Cell(16, 1, False, True, 'coupled'),
)  # fmt: skip


def decode(model, rows, cell: Cell, *, new: int, plain=None) -> list[list[int]]:
  """New tokens of every row.

  Args:
    model: target.
    rows: prompts' ids.
    cell: way to decode.
    new: most new tokens of a row.
    plain: tokens that plain decoding gives, from which drafts are made; None
      at width 1.
  """
  temperature = 0.0 if cell.rule == 'greedy' else 0.8
  sampling = Sampling(temperature=temperature)
  assembled = assemble.assemble(
    assemble.target_of(model),
    Source(SIMULATED, 'simulated', None, RATE),
    assemble.Settings(
      num_draft=cell.width - 1,
      verifier=cell.rule if cell.width > 1 else 'auto',
      warp=sampling.warp_spec(),
    ),
  )
  width = text_lib.bucket(max(map(len, rows))) + 16 * cell.wide
  capacity = 16 * cell.roomy + 80 + new
  capacity += 0 if assembled.target.lm.is_encoder_decoder else width
  run = assemble.compiled(assembled.recipe, new, capacity)
  found = []
  for begin in range(0, len(rows), cell.batch):
    numbers = [(begin + i) % len(rows) for i in range(cell.batch)]
    tokens, lengths = text_lib.pad([rows[i] for i in numbers], width)
    script = np.zeros((cell.batch, new), np.int32)
    for place, i in enumerate(numbers):
      if plain is not None:
        script[place, : len(plain[i])] = plain[i]
    made = jax.device_get(
      run(
        assembled.params(DraftData(script=jnp.asarray(script))),
        base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths)),
        sampling.controls(row_keys(0, np.array(numbers)), new, model.eos_ids),
      )
    )
    assert not np.any(made.status == generate_lib.NAN)
    found += [decode_batch.new_tokens(made, i) for i in range(cell.batch)]
  return found[: len(rows)]


def plainly(model, rows, rules, *, new: int) -> dict[str, list[list[int]]]:
  """{rule: tokens of plain decoding at batch 1}, to compare cells with."""
  return {
    rule: decode(model, rows, FIRST._replace(rule=rule), new=new)
    for rule in sorted(set(rules))
  }


def differing(model, rows, cells, plain, *, new: int) -> dict[Cell, list[int]]:
  """{cell: numbers of the rows whose tokens are not those of `plainly`}."""
  found = {}
  for cell in cells:
    want = plain[cell.rule]
    got = decode(model, rows, cell, new=new, plain=want)
    wrong = [i for i in range(len(rows)) if got[i] != want[i]]
    if wrong:
      found[cell] = wrong
  return found
