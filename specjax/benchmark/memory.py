"""Peak memory, of the device where it counts itself, else of the process."""

import resource
import sys
from typing import NamedTuple

import jax
import numpy as np


class Peak(NamedTuple):
  """Bytes, and their kind: 'device', 'process' or 'process, ever'."""

  bytes: int
  kind: str


def local_bytes(array: jax.Array | np.ndarray) -> int:
  """Bytes of the part of an array that one device holds, or is to hold."""
  if not isinstance(array, jax.Array):
    return array.nbytes
  return array.addressable_shards[0].data.nbytes


def reset_peak() -> None:
  """Begins a new peak of the process, where the system allows it."""
  try:
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
      file.write('5')  # Linux resets VmHWM, the peak that `peak` reads.
  except OSError:
    pass


def peak() -> Peak:
  """The peak since `reset_peak`; a device's is since its process began."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return Peak(int(stats['peak_bytes_in_use']), 'device')
  try:
    with open('/proc/self/status', encoding='ascii') as file:
      for line in file:
        if line.startswith('VmHWM:'):
          return Peak(int(line.split()[1]) * 1024, 'process')
  except OSError:
    pass
  # macOS counts bytes here, Linux kilobytes.
  unit = 1 if sys.platform == 'darwin' else 1024
  usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return Peak(usage * unit, 'process, ever')


def release_programs(share: float = 0.4) -> None:
  """Lets compiled programs go before the system refuses to load more.

  Linux limits the mappings of memory of a process (65,530 by default). A CPU's
  program takes a few hundred of them, and the compiler ends the process where
  one fails. A program that is needed again comes from the compilation cache.

  Args:
    share: share of the allowed mappings above which programs are released.
  """
  try:
    with open('/proc/self/maps', encoding='utf-8') as file:
      used = sum(1 for _ in file)
    with open('/proc/sys/vm/max_map_count', encoding='utf-8') as file:
      allowed = int(file.read())
  except OSError:  # No such limit here.
    return
  if used > share * allowed:
    jax.clear_caches()
