"""What a device allows: a step beside its memory's speed, memory beside its
estimate.

A plain step reads every weight of the decoder and the caches once and computes
little, so the bytes over the measured bandwidth are the least time it can take.
"""

from typing import Any, Sequence

import jax

from specjax.benchmark import memory as memory_lib
from specjax.benchmark import parts
from specjax.benchmark import table
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import tensor_names
from specjax.inference import memory
from specjax.inference.config import DecodeConfig
from specjax.models.common import cpu_layout


def step_bytes(target: model_lib.Model, cache) -> int:
  """Bytes that a device must read for a step of one token a row.

  These are the weights a step multiplies by (not an encoder's, nor those that
  made the source's keys and values and the table of position biases, which a
  cache holds; of a table that is no head a few rows only) and the caches, which
  attention reads to their capacity.

  Args:
    target: `load.Model` of a language model.
    cache: of the batch.
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


def estimate(case, target: model_lib.Model, width: int, config) -> int:
  """Bytes of a device that `specjax.estimate_memory` foresees for a case.

  Args:
    case: `cases.Case`.
    target: its target.
    width: tokens of the longest prompt.
    config: `BenchmarkConfig`.
  """
  decode = DecodeConfig(
    num_draft=case.num_draft, temperature=case.temperature,
    batch_size=case.batch_size, max_new_tokens=config.max_new_tokens,
    sampler=config.sampler, dtype=config.dtype, quantize=config.quantize[0],
    mesh=config.mesh, drafters=config.drafters, verifiers=config.verifiers,
  )  # fmt: skip
  return memory.estimate_memory(
    target.config,
    drafter=case.source,
    decode=decode,
    prompt_tokens=width,
    layout=target.layout,
  ).total


def fields(case, target, cache, batches, config) -> dict[str, Any]:
  """What a row says of bytes; `add_bandwidth` says the rest."""
  width = max(batch.prompt.tokens.shape[1] for batch in batches)
  return {
    'step_bytes': step_bytes(target, cache),
    'estimated_bytes': estimate(case, target, width, config),
  }


def add_bandwidth(rows: Sequence[dict]) -> None:
  """Measures this device's memory and tells rows what it allows.

  It comes after all else, because the array it reads would count as memory in
  use.
  """
  rate = parts.bytes_per_second()
  for row in rows:
    if 'step_bytes' in row:
      row['bytes_per_second'] = rate
      row['bandwidth_ms'] = 1e3 * row['step_bytes'] / rate
      row['over_bandwidth'] = row['step_ms'] / row['bandwidth_ms']
      used = in_use(row)
      # Some backends tell nothing.
      ratio = row['estimated_bytes'] / used if used else None
      row['estimate_over_memory'] = ratio


def in_use(row: dict) -> int:
  """Bytes of a device: as it counts them, else as the compiler does."""
  if row['peak_memory_kind'] == 'device':
    return row['peak_memory_bytes']
  return row['program_total_bytes']


def markdown(rows: Sequence[dict]) -> str:
  """Three tables, or '' where nothing of it was measured."""
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


_WHO = (
  ('who', 'drafter', '{}'), ('num_draft', 'K', '{}'),
  ('batch_size', 'batch', '{}'),
)  # fmt: skip
_SPEED = (
  *_WHO, ('ms_a_token', 'ms a token', '{:.3f}'),
  ('step_ms', 'step ms', '{:.3f}'), ('step_mb', 'MB a step', '{:.1f}'),
  ('bandwidth_ms', 'least ms', '{:.3f}'),
  ('over_bandwidth', 'step over least', '{:.2f}'),
)  # fmt: skip
_MEMORY = (
  *_WHO, ('estimated_mb', 'estimated MB', '{:.1f}'),
  ('in_use_mb', 'in use MB', '{:.1f}'),
  ('estimate_over_memory', 'ratio', '{:.3f}'),
)  # fmt: skip


def _shown(row: dict) -> dict:
  """The row with what the tables derive from it."""
  tokens = row['num_tokens'] / row['batch_size']
  return row | {
    'who': table.brief(row['drafter']) + table.int8(row),
    'ms_a_token': 1e3 * row['decode_seconds'] / tokens,
    'step_mb': row['step_bytes'] / 1e6,
    'estimated_mb': row['estimated_bytes'] / 1e6,
    'in_use_mb': in_use(row) / 1e6,
  }


def _widths(rows) -> str:
  widths = sorted({int(w) for row in rows for w in row['verify_ms_by_width']})
  body = []
  for row in rows:
    times = row['verify_ms_by_width']
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
