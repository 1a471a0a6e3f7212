"""A long file takes little more memory than a short one."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.helpers import tiny

# Runs the command and prints the most memory in use, in bytes, until all
# prompts are read and planned, and then while they are decoded. Between the two
# lies compiling, which takes more than either.
PEAKS = """
import ctypes
import gc
import json
import sys

from decode import main
from specjax.commands import cli
from specjax.inference import generate
from specjax.inference import planning

STATUS, RESET = '/proc/self/status', '/proc/self/clear_refs'
plan, stream = planning.plan, generate.stream
peaks, kept = [], []


def reset():
  # What compiling freed would hide as much of what comes.
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  with open(RESET, 'w') as file:
    file.write('5')


def peak():
  with open(STATUS) as file:
    (line,) = (x for x in file if x.startswith('VmHWM:'))
  peaks.append(1024 * int(line.split()[1]))


def planned(*args, **more):
  made = plan(*args, **more)
  peak()
  return made


def watched(*args):
  for number, batch in enumerate(stream(*args)):
    if not number:
      reset()
    kept.extend(batch.answers if 'keep' in sys.argv[1:2] else ())
    yield batch


planning.plan, generate.stream = planned, watched
reset()
assert cli.call(main.main, ['decode.main', *sys.argv[2:]]) == 0
peak()
print(json.dumps(peaks))
"""
MOST = 200  # Bytes a prompt.


def peaks(folder, count, keep=False):
  """Peaks of a run of so many prompts, in bytes."""
  rng, words = random.Random(count), ' '.join(tiny.CORPUS).split()
  source, output = folder / f'{count}.txt', folder / f'{count}.jsonl'
  with source.open('w') as file:
    for _ in range(count):
      file.write(' '.join(rng.choices(words, k=rng.randint(1, 6))) + '\n')
  done = subprocess.run(
    [
      *(sys.executable, '-c', PEAKS, 'keep' if keep else 'run'),
      *(f'--target={folder}/target', f'--input={source}'),
      *(f'--output={output}', '--baseline=none', '--config.batch_size=64'),
      *('--config.max_new_tokens=2', '--config.explain=false'),
    ],
    check=True,
    stdout=subprocess.PIPE,
    env=os.environ,
  )
  with output.open() as file:
    assert sum(1 for _ in file) == count
  return json.loads(done.stdout)


def bytes_a_prompt(folder, few, many, **how):
  """By how much either peak grows with a prompt more."""
  one, other = (peaks(folder, count, **how) for count in (few, many))
  return [(b - a) / (many - few) for a, b in zip(one, other, strict=True)]


@pytest.mark.exhaustive
@pytest.mark.skipif(
  not os.access('/proc/self/clear_refs', os.W_OK), reason='needs Linux'
)
def test_memory_hardly_grows_with_a_file(tmp_path):
  tiny.save(tmp_path / 'target')
  assert max(bytes_a_prompt(tmp_path, 1_000, 100_000)) <= MOST
  # Answers that were kept would be noticed.
  assert bytes_a_prompt(tmp_path, 1_000, 20_000, keep=True)[1] > 2 * MOST
