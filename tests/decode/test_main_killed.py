"""The decode command killed at any moment, and continued."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from tests.helpers.decode_main import decode
from tests.helpers.decode_main import LINES
from tests.helpers.decode_main import QUICK
from tests.helpers.decode_main import SHAPE

pytestmark = [
  pytest.mark.usefixtures('no_cache_of_the_users'),
  pytest.mark.slow,
]

COUNT = 80
FLAGS = ('--config.temperature=1', *QUICK)
# All but counters.
KEPT = 'prompt_index', 'sequence', 'prompt', 'text', 'tokens', 'finish_reason'


def kept(path):
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [json.dumps([row[name] for name in KEPT]) for row in rows]


def killed(argv, out, lines):
  """Ends a run by SIGKILL as soon as its output has so many lines."""
  command = [sys.executable, '-m', 'decode.main', *argv, *SHAPE]
  quiet = subprocess.DEVNULL
  with subprocess.Popen(command, stderr=quiet, env=os.environ) as run:
    while run.poll() is None:
      if out.exists() and out.read_bytes().count(b'\n') >= lines:
        run.kill()
      time.sleep(0.002)  # The run has few cores as it is.
    return run.returncode


@pytest.mark.parametrize(
  'kills', [2, pytest.param(10, marks=pytest.mark.exhaustive)]
)
def test_a_killed_run_ends_as_one_that_was_not(folders, tmp_path, kills):
  source = tmp_path / 'in.txt'
  source.write_text('\n'.join(LINES[i % 5] for i in range(COUNT)) + '\n')
  whole, out = tmp_path / 'whole.jsonl', tmp_path / 'out.jsonl'
  assert decode(folders, source, f'--output={whole}', *FLAGS) == 0
  argv = [f'--target={folders["target"]}', f'--input={source}', *FLAGS]
  argv += [f'--output={out}', '--resume']
  moments = random.Random(kills).sample(range(COUNT - 20), kills)
  ends = [killed(argv, out, lines) for lines in sorted(moments)]
  assert -9 in ends
  assert decode(folders, source, f'--output={out}', '--resume', *FLAGS) == 0
  assert kept(out) == kept(whole)
