"""The folder of checkpoints: what is kept, and what a full disk leaves."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from specjax.checkpoints import checksum
from specjax.checkpoints import orbax
from tests.helpers import disks


def test_checkpoints_keep_the_last_and_the_best(tmp_path):
  ranks = {1: 0.1, 2: 0.9, 3: None, 4: 0.2, 5: None}
  manager = orbax.open_manager(str(tmp_path), 2)
  for step in (1, 2, 3):
    orbax.save(manager, step, {'a': np.arange(3)}, ranks[step])
  manager.close()
  manager = orbax.open_manager(str(tmp_path), 2)
  for step in (4, 5):
    orbax.save(manager, step, {'a': np.arange(3)}, ranks[step])
  manager.wait_until_finished()
  assert manager.all_steps() == [2, 4, 5]
  like = orbax.abstract({'a': np.zeros(4)})
  with pytest.raises(ValueError, match='does not fit this model'):
    orbax.restore(str(tmp_path), 5, {'b': like['a']})
  manager.close()


def test_a_checkpoint_that_the_disk_refuses_is_told_in_a_sentence(tmp_path):
  manager = orbax.open_manager(str(tmp_path), 2)
  state = {'a': np.random.default_rng(0).random(4000)}
  checksum.of(state)  # Compiled before files are limited.
  words = 'File too large; no older one is there'
  with disks.room_for(1000), pytest.raises(OSError, match=words):
    orbax.save(manager, 1, state)
    orbax.close(manager)


def test_a_full_disk_leaves_the_previous_checkpoint_whole(
  tmp_path, monkeypatch, caplog
):
  manager = orbax.open_manager(str(tmp_path), 2)
  state = {'a': np.arange(3)}
  orbax.save(manager, 1, state)
  manager.wait_until_finished()
  with monkeypatch.context() as patch:

    def full(*args, **kwargs):
      raise OSError(28, 'No space left on device')

    patch.setattr(os, 'rename', full)
    patch.setattr(os, 'replace', full)
    words = 'No space left on device; checkpoint 1 is there whole'
    with pytest.raises(OSError, match=words):
      orbax.save(manager, 2, state)
      orbax.close(manager)
  assert not caplog.records
  again = orbax.open_manager(str(tmp_path), 2)
  assert again.latest_step() == 1
  got = orbax.restore(str(tmp_path), 1, orbax.abstract(state))
  np.testing.assert_array_equal(got['a'], state['a'])
  again.close()


def test_a_checkpoint_without_room_is_not_begun(tmp_path, monkeypatch):
  manager = orbax.open_manager(str(tmp_path), 2)
  state = {'a': np.arange(3)}
  orbax.save(manager, 1, state)
  room = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: room)
  with pytest.raises(OSError, match='0.0 MB are free; checkpoint 1 is there'):
    orbax.save(manager, 2, state)
  orbax.close(manager)
  assert [path.name for path in tmp_path.iterdir()] == ['1']


def _damages(data):
  """Bytes of a file as a bad disk, or a copy that was cut, leaves them."""
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  return {'cut': data[: len(data) // 2], 'empty': b'', 'flipped': flipped}


def test_a_damaged_checkpoint_is_never_read_as_another_state(tmp_path):
  """Also one bit within the numbers, which tensorstore does not notice."""
  state = {'a': np.random.default_rng(0).random(500, np.float32)}
  manager = orbax.open_manager(str(tmp_path), 2)
  orbax.save(manager, 1, state, about={'data': {'x': [1, 'y']}})
  orbax.close(manager)
  assert orbax.about(str(tmp_path), 1)['data'] == {'x': [1, 'y']}
  told = set()
  like = orbax.abstract(state)
  for path in (tmp_path / '1').rglob('*'):
    # The rest is not needed to restore.
    if path.is_dir() or path.name == '_CHECKPOINT_METADATA':
      continue
    data = path.read_bytes()
    for kind, damaged in _damages(data).items():
      path.write_bytes(damaged)
      try:
        found = orbax.restore(str(tmp_path), 1, like)
      except ValueError as error:
        assert str(error).startswith(f'Checkpoint 1 in {tmp_path} is damaged')
        told.add((path.name, kind))
      else:
        np.testing.assert_array_equal(found['a'], state['a'])
    path.write_bytes(data)
  assert {('_METADATA', kind) for kind in ('cut', 'empty')} <= told
  assert {('metrics', kind) for kind in ('cut', 'empty')} <= told
  assert 'flipped' in {kind for name, kind in told if len(name) == 32}


LATE = """
import resource, sys
import numpy as np
from specjax.checkpoints import orbax
manager = orbax.open_manager(sys.argv[1], 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, -1))
rng = np.random.default_rng(0)
try:
  orbax.save(manager, 1, {str(i): rng.random(4000) for i in range(16)})
  orbax.close(manager)
except OSError as error:
  print(error)
"""


def test_a_failed_save_prints_no_traceback(tmp_path):
  """Every array that is still being written raises in its own thread."""
  done = subprocess.run(
    [sys.executable, '-c', LATE, str(tmp_path)],
    cwd=pathlib.Path(__file__).resolve().parents[2],
    env=os.environ | {'JAX_COMPILATION_CACHE_DIR': ''},
    capture_output=True,
    text=True,
  )
  assert 'File too large; no older one is there whole' in done.stdout
  assert 'Traceback' not in done.stderr, done.stderr
