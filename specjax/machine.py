"""The processor that this process runs on."""

import platform

_PATH = '/proc/cpuinfo'
# Keys of the line with the instruction sets, on x86 and on ARM.
_FLAGS = ('flags', 'Features')


def processor() -> str:
  """Name of the processor's model, or of its kind where none is known."""
  found = _values('model name')
  return found[0] if found else platform.processor() or platform.machine()


def processor_flags() -> tuple[str, ...]:
  """Names of the processor's instruction sets; none where they are unknown."""
  found = _values(*_FLAGS)
  return tuple(sorted(set(found[0].split()))) if found else ()


def _values(*keys: str) -> list[str]:
  """Values of a line of Linux's description, one for each core."""
  # In:  'model name' and the line 'model name\t: AMD EPYC'
  # Out: ['AMD EPYC']
  try:
    with open(_PATH, encoding='utf-8') as file:
      pairs = [line.partition(':') for line in file]
  except OSError:
    return []
  return [value.strip() for key, _, value in pairs if key.strip() in keys]
