"""The folder of what is kept between runs."""

import errno
import os
import pathlib
import stat
import tempfile

import pytest

from specjax import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  where = tmp_path / 'deep' / 'cache'
  monkeypatch.setenv(cache.VARIABLE, str(where))
  return where


def test_folders_are_ones_own_and_files_come_whole(folder, monkeypatch):
  renamed = []
  replace = os.replace

  def record(old, new):
    renamed.append((pathlib.Path(old).read_bytes(), pathlib.Path(new).name))
    assert not os.path.exists(new)
    replace(old, new)

  monkeypatch.setattr(os, 'replace', record)
  assert cache.read('costs', 'one') is None
  assert cache.write(b'data', 'costs', 'one')
  assert cache.read('costs', 'one') == b'data'
  assert renamed == [(b'data', 'one')]
  assert os.listdir(folder / 'costs') == ['one']
  for path in (folder, folder / 'costs'):
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
  assert stat.S_IMODE((folder / 'costs' / 'one').stat().st_mode) == 0o600
  cache.remove('costs', 'one')
  cache.remove('costs', 'one')
  assert cache.read('costs', 'one') is None


def test_the_default_is_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.delenv(cache.VARIABLE)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  assert cache.folder('x') == tmp_path / 'home' / '.cache' / 'specjax' / 'x'
  monkeypatch.setenv(cache.VARIABLE, '')
  assert cache.folder() == tmp_path / 'home' / '.cache' / 'specjax'


def _refuse(*_, **__):
  raise OSError(errno.EROFS, 'Read-only file system')


def test_a_folder_that_cannot_be_is_no_error(tmp_path, folder, monkeypatch):
  def nothing_works():
    assert not cache.is_writable('costs')
    assert not cache.write(b'data', 'costs', 'one')

  file = tmp_path / 'file'
  file.write_text('in the way')
  for way in (file, file / 'below', '~nobody_of_this_name/x'):
    monkeypatch.setenv(cache.VARIABLE, str(way))
    nothing_works()
    cache.remove('costs', 'one')
    assert cache.read('costs', 'one') is None
    assert cache.folder() is None and cache.trim(0) == 0
  assert file.read_text() == 'in the way'
  monkeypatch.setenv(cache.VARIABLE, str(folder))
  assert cache.is_writable('costs') and cache.write(b'old', 'costs', 'one')
  for name in ('TemporaryFile', 'mkstemp'):
    monkeypatch.setattr(tempfile, name, _refuse)
  nothing_works()
  assert cache.read('costs', 'one') == b'old'


def test_a_failed_rename_leaves_nothing(folder, monkeypatch):
  monkeypatch.setattr(os, 'replace', _refuse)
  assert not cache.write(b'data', 'costs', 'one')
  assert os.listdir(folder / 'costs') == []


def test_the_oldest_files_go_first(folder, monkeypatch):
  def kept():
    return sorted(p.name for p in folder.rglob('*') if p.is_file())

  for age, name in enumerate(('e', 'b', 'd', 'a', 'c')):
    part = 'costs' if age % 2 else 'jax'
    assert cache.write(bytes(100), part, name)
    os.utime(folder / part / name, (0, 1000 - age))
  assert cache.trim(500) == 0
  assert cache.trim(499) == 100 and kept() == ['a', 'b', 'd', 'e']
  assert cache.trim(250) == 200 and kept() == ['b', 'e']
  # Writing trims too; what is new stays.
  monkeypatch.setattr(cache, 'LARGEST_BYTES', 300)
  assert cache.write(bytes(150), 'costs', 'new')
  assert kept() == ['e', 'new']
  outside = folder.parent / 'outside'
  outside.write_bytes(bytes(1000))
  (folder / 'link').symlink_to(outside)
  assert cache.trim(0) == 250 and outside.exists()
