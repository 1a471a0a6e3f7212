"""The folder of checkpoints: what is kept, and what a full disk leaves."""

import os
import resource
import shutil

import numpy as np
import pytest

from specjax.checkpoints import orbax


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
    orbax.restore(manager, 5, {'b': like['a']})
  manager.close()


def test_a_checkpoint_that_the_disk_refuses_is_told_in_a_sentence(tmp_path):
  manager = orbax.open_manager(str(tmp_path), 2)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
  state = {'a': np.random.default_rng(0).random(4000)}
  try:
    with pytest.raises(OSError, match='File too large; no older one is there'):
      orbax.save(manager, 1, state)
      orbax.close(manager)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
  got = orbax.restore(again, 1, orbax.abstract(state))
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
