"""Files and folders that one run at a time may write."""

import errno
import os
import subprocess
import sys

import pytest

from specjax import locks
from specjax.commands import train_run
from specjax.training import config as config_lib
from specjax.training import workdir as workdir_lib


def test_a_file_is_held_by_one(tmp_path):
  path, notes = str(tmp_path / 'out.txt'), []
  with locks.file(path, notes.append) as keep:
    for _ in range(2):
      with pytest.raises(OSError, match=f'Another run is writing {path}; wait'):
        with locks.file(path, notes.append):
          pass
    keep()
  with locks.file(path, notes.append):
    pass
  assert os.path.exists(path) and not notes


def test_an_empty_file_is_left_only_if_it_was_there_or_is_kept(tmp_path):
  path = tmp_path / 'out.txt'

  def run(act, error=None):
    with locks.file(str(path), print) as keep:
      act(keep)
      if error:
        raise error

  run(lambda keep: None)
  assert not path.exists()
  run(lambda keep: path.write_text('x'))
  assert path.read_text() == 'x'
  path.unlink()
  with pytest.raises(OSError, match='full'):
    run(lambda keep: keep(), OSError('full'))
  assert not path.exists()
  with pytest.raises(ValueError, match='bad'):
    run(lambda keep: keep(), ValueError('bad'))
  assert path.exists()
  with pytest.raises(OSError, match='full'):
    run(lambda keep: None, OSError('full'))
  assert path.exists()  # It was there before.
  with pytest.raises(OSError, match='Cannot write to .*: No such file'):
    with locks.file(str(tmp_path / 'no' / 'such'), print):
      pass


def test_a_folder_is_held_by_one_and_none_is_left(tmp_path):
  path = str(tmp_path / 'a' / 'b')
  with workdir_lib.held(path, print):
    with pytest.raises(OSError, match='Another run is writing'):
      with workdir_lib.held(path, print):
        pass
    assert os.path.isdir(path)
  assert os.listdir(tmp_path) == []
  with workdir_lib.held(path, print):
    (tmp_path / 'a' / 'b' / 'kept').touch()
  with workdir_lib.held(path, print):
    pass
  assert os.listdir(path) == ['kept']


def test_a_folder_has_one_training(tmp_path):
  config = config_lib.TrainConfig()
  with workdir_lib.held(str(tmp_path), print):
    for more in ({}, {'export_only': True}):
      with pytest.raises(OSError, match=f'Another run is writing {tmp_path};'):
        train_run.run(config, str(tmp_path), **more)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('kind', [locks.file, locks.folder])
def test_the_lock_of_a_killed_run_is_gone(tmp_path, kind):
  path = str(tmp_path / 'held')
  code = (
    'import sys, time\nfrom specjax import locks\n'
    f'with locks.{kind.__name__}({path!r}, print):\n'
    '  print("held", flush=True)\n  time.sleep(60)\n'
  )
  command = [sys.executable, '-c', code]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
    assert run.stdout.readline() == b'held\n'
    with pytest.raises(OSError, match='Another run'), kind(path, print):
      pass
    run.kill()
  with kind(path, print):
    pass


# NFS answers for a folder as for a file that is not open: EBADF.
@pytest.mark.parametrize('code', [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, code):
  def refuse(handle, how):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(locks.fcntl, 'flock', refuse)
  for kind in (locks.file, locks.folder):
    notes = []
    with kind(str(tmp_path / kind.__name__), notes.append):
      pass
    assert len(notes) == 1 and 'does not lock it' in notes[0]
