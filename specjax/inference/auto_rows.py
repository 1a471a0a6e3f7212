"""The number of rows that the memory of the machine has room for."""

import dataclasses
import pathlib
from typing import Any

import jax

from specjax import text as text_lib
from specjax.distributed import mesh as mesh_lib
from specjax.inference import memory
from specjax.inference.config import DecodeConfig
from specjax.inference.value_ranges import AUTO

# Beyond so many rows a step of most machines takes as long for each of them.
_CHOICES = (1, 4, 8, 16, 32, 64)
# Share of the free memory that an estimate may take.
_SHARE = 0.5


def settled(
  config: DecodeConfig,
  target: Any,
  *,
  drafter: Any = None,
  prompt_tokens: int,
  count: int,
) -> DecodeConfig:
  """The config with a number in the place of batch_size=auto.

  Args:
    config: settings of the job.
    target: argument of `memory.estimate_memory`, as are the next two; None for
      a model of the user's own, whose memory is not known.
    drafter: the drafter.
    prompt_tokens: length of the longest prompt.
    count: answers that are wanted.

  Raises:
    MeshError: a mesh divides none of the numbers.
  """
  if config.batch_size != AUTO:
    return config
  if target is None:
    return dataclasses.replace(config, batch_size=DecodeConfig().batch_size)
  found, refusal, room = None, None, _SHARE * free_bytes()
  for rows in _CHOICES:
    made = dataclasses.replace(config, batch_size=rows)
    try:
      estimate = memory.estimate_memory(
        target, drafter=drafter, decode=made, prompt_tokens=prompt_tokens
      )
    except mesh_lib.MeshError as error:
      refusal = error
      continue
    # One row is the least, and a run that is too large ends with a sentence.
    if found is None or estimate.total <= room:
      found = made
    if estimate.total > room or rows >= text_lib.row_count(count):
      break
  if found is None:
    raise refusal
  return found


def free_bytes() -> float:
  """Free memory of a device; of the host where the device is the host."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
  try:
    lines = (
      pathlib.Path('/proc/meminfo').read_text(encoding='utf-8').split('\n')
    )
  except OSError:
    return 0.0
  free = [line.split()[1] for line in lines if line.startswith('MemAvailable:')]
  return 1024.0 * int(free[0]) if free else 0.0
