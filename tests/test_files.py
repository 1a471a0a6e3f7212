"""JSON that is nested deeply, and files that appear whole or not at all."""

import os
import stat

import pytest

from specjax import files


@pytest.mark.parametrize('kind', [str, str.encode])
def test_json_has_a_deepest_level(kind):
  def nested(levels):
    return '{"a": ' * (levels // 2) + '[' * (levels - levels // 2)

  for levels in (files.MOST_LEVELS + 1, 500, 100_000):
    half = levels // 2
    text = nested(levels) + ']' * (levels - half) + '}' * half
    with pytest.raises(ValueError, match='nested more than 128 levels deep'):
      files.parse_json(kind(text))
  levels, half = files.MOST_LEVELS, files.MOST_LEVELS // 2
  text = nested(levels) + ']' * (levels - half) + '}' * half
  assert files.parse_json(kind(text))
  # Many brackets beside each other are not deep.
  assert len(files.parse_json(kind('[' + '[], ' * 999 + '[]]'))) == 1000
  with pytest.raises(ValueError):
    files.parse_json(kind('{'))


def test_a_file_appears_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'file.txt'
  files.write_text(str(path), 'ö\n')
  assert path.read_bytes() == 'ö\n'.encode()
  assert stat.S_IMODE(path.stat().st_mode) & 0o444

  def fail(part):
    with open(part, 'wb') as file:
      file.write(b'half')
    raise OSError(28, 'No space left on device')

  with pytest.raises(OSError, match=rf'^Cannot write to {path}: No space left'):
    files.write_whole(str(path), fail)
  assert path.read_bytes() == 'ö\n'.encode()
  assert os.listdir(tmp_path) == ['file.txt']
  link = tmp_path / 'link.txt'
  link.symlink_to(path)
  files.write_text(str(link), 'new')
  assert link.is_symlink() and path.read_text() == 'new'


def test_a_file_keeps_its_rights(tmp_path):
  path, own = tmp_path / 'new.txt', tmp_path / 'own.txt'
  own.touch(0o600)

  def private(part):
    os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))

  before = os.umask(0o022)
  try:
    for file in (path, own):
      files.write_whole(str(file), private)
      files.write_text(str(file), 'x')
  finally:
    os.umask(before)
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  assert stat.S_IMODE(own.stat().st_mode) == 0o600


def test_a_stream_is_written_directly(tmp_path):
  files.write_text('/dev/null', 'x')
  with pytest.raises(OSError, match='^Cannot write to /dev/full: No space'):
    files.write_text('/dev/full', 'x')
  files.check_writable('/dev/null')
  with pytest.raises(OSError, match='it is a folder'):
    files.check_writable(str(tmp_path))
