"""Conversion of large folders: memory, and being killed in the middle."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from specjax import models
from specjax.checkpoints import hf
from specjax.checkpoints import safetensors
from specjax.checkpoints import tensor_names

ROOT = pathlib.Path(__file__).resolve().parents[2]


def big_folder(folder, megabytes):
  """A sharded Llama folder of about this size; weights need no meaning."""
  width, vocab = 1024, 4096
  per_layer = (4 * width * width + 3 * width * 4 * width) * 2 / 1e6
  config = models.DecoderConfig(
    vocab_size=vocab,
    hidden_size=width,
    intermediate_size=4 * width,
    num_hidden_layers=max(1, round(megabytes / per_layer)),
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=64,
  )
  os.makedirs(folder)
  rng = np.random.default_rng(0)

  def chunks(size):
    while size:
      piece = rng.bytes(min(size, safetensors.CHUNK))
      size -= len(piece)
      yield piece

  made = []
  abstract = models.abstract_params(config)
  shapes = dict(tensor_names.flat(abstract))
  for path, source in tensor_names.of_parameters(config, abstract).items():
    one = safetensors.Tensor(source.name, 'BF16', shapes[path].shape, None)
    made.append(one._replace(chunks=lambda size=one.size: chunks(size)))
  safetensors.write(str(folder), made, shard_bytes=100_000_000)
  raw = json.dumps(hf.config_to_hf(config) | {'dtype': 'bfloat16'})
  (pathlib.Path(folder) / 'config.json').write_text(raw, encoding='utf-8')


# Peak memory beyond what the imports hold, in megabytes. Not by getrusage: its
# maximum a child inherits from a larger parent. The peak is reset before.
MEASURED = """
import pathlib, sys
from specjax.commands import cli
from train import convert
import jax
jax.devices()
def kilobytes(field):
  text = pathlib.Path('/proc/self/status').read_text()
  return int(text.split(field + ':')[1].split()[0])
try:
  pathlib.Path('/proc/self/clear_refs').write_text('5')
except OSError:
  pass  # then the peak so far is what more is counted from
before = kilobytes('VmHWM')
status = cli.call(convert.main, ['convert', *sys.argv[1:]])
print((kilobytes('VmHWM') - before) / 1e3)
sys.exit(status)
"""


def start(code, *options, **kwargs):
  env = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    [sys.executable, '-c', code, *options],
    cwd=ROOT,
    env=env,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    **kwargs,
  )


def test_memory_stays_small_and_a_kill_leaves_nothing_whole(tmp_path):
  if not os.access('/proc/self/clear_refs', os.W_OK):
    pytest.skip('peak memory is measured through the /proc of Linux.')
  source, out = tmp_path / 'source', tmp_path / 'out'
  big_folder(source, 300)
  options = [f'--input={source}', f'--output={out}', '--shard_megabytes=80']
  process = start(MEASURED, *options)
  said, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  # A reader that maps or gathers the files would take the 300 MB.
  assert float(said) < 100
  before, after = headers(source), headers(out)
  assert before.keys() == after.keys()
  assert all(safetensors.equal(before[k], after[k]) for k in before)
  process = start(
    MEASURED, options[0], f'--output={tmp_path / "orbax"}', '--to=orbax'
  )
  said, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  # Orbax buffers some of what it writes; all of it would be 300 MB and more.
  assert float(said) < 220
  for number in (signal.SIGKILL, signal.SIGTERM):
    target = tmp_path / f'stopped{number}'
    process = start(MEASURED, options[0], f'--output={target}')
    # Its temporary folder has appeared, so it is in the middle of writing.
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f'{target.name}.part*')):
      assert time.monotonic() < deadline and process.poll() is None
      time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not target.exists()
    left = list(tmp_path.glob(f'{target.name}.part*'))
    # What cannot be killed cleanly has at least no config.json.
    assert not any((folder / 'config.json').exists() for folder in left)
    assert number == signal.SIGKILL or not left


def headers(folder):
  found = {}
  for path in pathlib.Path(folder).glob('*.safetensors'):
    found |= safetensors.read_header(str(path))
  return found
