"""Runs one peer in a process of its own: python -P worker.py FILE.

Reads JSON lines: first the job, then {'run': index}. Answers JSON lines. FILE
defines `make(job, folder)`, which returns a function that decodes a batch, and
versions.
Nothing here imports this package, so that neither JAX nor its threads start.
"""

import importlib.util
import json
import os
import pathlib
import sys
import tempfile
import time
import types


def main() -> None:
  # Libraries print on standard output; keep a clean copy for the answers.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(message) -> None:
    answers.write(json.dumps(message) + '\n')
    answers.flush()

  job = json.loads(sys.stdin.readline())
  try:
    with tempfile.TemporaryDirectory() as folder:
      begin = time.perf_counter()
      run, versions = load(sys.argv[1]).make(job, pathlib.Path(folder))
      answer({'versions': versions, 'seconds': time.perf_counter() - begin})
      for line in sys.stdin:
        answer(process_peak() | run(json.loads(line)['run']))
  except Exception as error:  # reported to the reader in one line
    text = ' '.join(str(error).split())
    answer({'error': f'{type(error).__name__}: {text[:400]}'})


def load(file: str) -> types.ModuleType:
  """The peer's module."""
  spec = importlib.util.spec_from_file_location('peer', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def process_peak() -> dict:
  """The most memory that this process ever had."""
  with open('/proc/self/status', encoding='ascii') as file:
    for line in file:
      if line.startswith('VmHWM:'):
        size = int(line.split()[1]) * 1024
        return {'peak_bytes': size, 'peak_kind': 'process, ever'}
  return {'peak_bytes': 0, 'peak_kind': ''}


if __name__ == '__main__':
  main()
