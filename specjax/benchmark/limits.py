"""Limits of a device: a step beside the speed of memory, and memory in use.

A plain step reads every weight of the decoder and the caches once and computes
little, so the bytes over the measured bandwidth are the least time it can take:
14 GB of weights at 3,500 GB/s take 4 ms, however fast the device multiplies.
"""

from collections.abc import Sequence
from typing import Any

import jax

from specjax.benchmark import memory as memory_lib
from specjax.benchmark import parts
from specjax.benchmark import table
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import tensor_names
from specjax.inference import memory
from specjax.inference.config import DecodeConfig
from specjax.models.common import cpu_layout


def step_bytes(target: model_lib.Model, cache: Any) -> int:
  """Bytes that a device must read for a step of one token a row.

  These are the weights that a step multiplies by, and the caches, which
  attention reads to their capacity. Not counted are an encoder and the weights
  whose results a cache holds (keys and values of the source, position biases).
  An embedding table that is no head counts nothing: a step reads a few rows.

  Args:
    target: `Model` of a language model.
    cache: cache of the batch.
  """
  tied = target.config.tie_word_embeddings
  two_orders = cpu_layout.KERNEL in target.params['embed']
  total = 0
  for path, leaf in tensor_names.flat(target.params):
    looked_up = path[0] == 'positions' or (
      path[0] == 'embed' and (not tied or (two_orders and path[-1] == 'weight'))
    )
    in_cache = path[0] == 'encoder' or (
      'relative_bias' in path
      or path[-3:-1] in (('cross_attn', 'k'), ('cross_attn', 'v'))
    )
    if not looked_up and not in_cache:
      total += memory_lib.local_bytes(leaf)
  return total + sum(map(memory_lib.local_bytes, jax.tree.leaves(cache)))


# Settings of a job that a case has, and those that all cases share.
_OF_CASE = ('num_draft', 'temperature', 'batch_size')
_OF_CONFIG = 'max_new_tokens sampler dtype mesh drafters verifiers'.split()


def estimate(
  case: Any, target: model_lib.Model, width: int, config: Any
) -> int:
  """Bytes of a device that `specjax.estimate_memory` foresees for a case.

  Args:
    case: `cases.Case`.
    target: target of the case.
    width: number of tokens of the longest prompt.
    config: `BenchmarkConfig`.
  """
  decode = DecodeConfig(
    quantize=config.quantize[0],
    **{name: getattr(case, name) for name in _OF_CASE},
    **{name: getattr(config, name) for name in _OF_CONFIG},
  )
  return memory.estimate_memory(
    target.config,
    drafter=case.source,
    decode=decode,
    prompt_tokens=width,
    layout=target.layout,
  ).total


def fields(
  case: Any, target: Any, cache: Any, batches: Any, config: Any
) -> dict[str, Any]:
  """Fields of a row on bytes; `add_bandwidth` adds those on their speed."""
  width = max(batch.prompt.tokens.shape[1] for batch in batches)
  return {
    'step_bytes': step_bytes(target, cache),
    'estimated_bytes': estimate(case, target, width, config),
  }


def add_bandwidth(rows: Sequence[dict]) -> None:
  """Measures this device's memory and adds its limits to the rows.

  It runs after all other measurements, because the array that it reads would
  count as memory in use.
  """
  rate = parts.bytes_per_second()
  for row in rows:
    if 'step_bytes' in row:
      row['bytes_per_second'] = rate
      row['bandwidth_ms'] = 1e3 * row['step_bytes'] / rate
      row['over_bandwidth'] = row['step_ms'] / row['bandwidth_ms']
      used = in_use(row)
      # Some backends count neither.
      ratio = row['estimated_bytes'] / used if used else None
      row['estimate_over_memory'] = ratio


def in_use(row: dict) -> int:
  """Bytes of a device: as it counts them, else as the compiler does."""
  if row['peak_memory_kind'] == 'device':
    return row['peak_memory_bytes']
  return row['program_total_bytes']


def markdown(rows: Sequence[dict]) -> str:
  """Three tables as Markdown; '' where bandwidth was not measured."""
  rows = [row for row in rows if 'bandwidth_ms' in row]
  if not rows:
    return ''
  plain = [row for row in rows if not row['num_draft']]
  shown = [_shown(row) for row in rows]
  rate = rows[0]['bytes_per_second']
  counted = {
    True: 'as the device counts it, all cases so far',
    False: "parameters, and a program's results and temporaries, as compiled",
  }[rows[0]['peak_memory_kind'] == 'device']
  return '\n\n'.join(
    (
      '## Beside what memory allows',
      f'Read at {rate / 1e9:.3g} GB/s (measured in this run). `ms a token`: in '
      'the loop, as one reader waits; `step`: the target alone over one token '
      'a row; `least`: the bytes of a step at that speed.',
      table.markdown(table.cells_of(shown, _SPEED)),
      '## Milliseconds by block width',
      'The target over blocks of so many tokens, and in steps.',
      _widths(plain),
      '## Memory of a device',
      f'In use: {counted}.',
      table.markdown(table.cells_of(shown, _MEMORY)),
    )
  )


def text(rows: Sequence[dict]) -> str:
  """Two tables for a terminal; '' where bandwidth was not measured."""
  rows = [row for row in rows if 'bandwidth_ms' in row]
  if not rows:
    return ''
  shown = [_shown(row) for row in rows]
  rate = rows[0]['bytes_per_second']
  return '\n\n'.join(
    (
      f'Beside what memory allows, read at {rate / 1e9:.3g} GB/s:',
      table.aligned(shown, _SPEED),
      'Memory of a device:',
      table.aligned(shown, _MEMORY),
    )
  )


_WHO = table.columns(
  """
  who         drafter  {}
  num_draft   K        {}
  batch_size  batch    {}
  """
)
_SPEED = _WHO + table.columns(
  """
  ms_a_token      ms a token       {:.3f}
  step_ms         step ms          {:.3f}
  step_mb         MB a step        {:.1f}
  bandwidth_ms    least ms         {:.3f}
  over_bandwidth  step over least  {:.2f}
  """
)
_MEMORY = _WHO + table.columns(
  """
  estimated_mb          estimated MB  {:.1f}
  in_use_mb             in use MB     {:.1f}
  estimate_over_memory  ratio         {:.3f}
  """
)


def _shown(row: dict) -> dict:
  """The row with the values that the tables derive from it."""
  # Rows of a batch advance together, and the reader of one waits for all.
  tokens = row['num_tokens'] / row['batch_size']
  return row | {
    'who': table.brief(row['drafter']) + table.int8(row),
    'ms_a_token': 1e3 * row['decode_seconds'] / tokens,
    'step_mb': row['step_bytes'] / 1e6,
    'estimated_mb': row['estimated_bytes'] / 1e6,
    'in_use_mb': in_use(row) / 1e6,
  }


def _widths(rows) -> str:
  widths = sorted({int(w) for row in rows for w in row['block_ms_by_width']})
  body = []
  for row in rows:
    times = row['block_ms_by_width']
    body.append(
      [
        str(row['batch_size']) + table.int8(row),
        *(
          f'{times[str(w)]:.3f} ({times[str(w)] / row["step_ms"]:.2f})'
          if str(w) in times
          else '-'
          for w in widths
        ),
      ]
    )
  return table.markdown([['batch', *map(str, widths)], *body])
