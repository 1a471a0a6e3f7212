"""Files that a disk has no room for: named, and neither empty nor half."""

import os

import pytest

from decode import certify
from specjax.commands import certify as certify_command
from specjax.commands import cli
from tests.helpers import decode_main
from tests.helpers import disks
from tests.helpers import tiny
from train import label


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return {'target': tiny.save(tmp_path_factory.mktemp('full') / 'target')}


@pytest.fixture
def prompts(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('the cat\na dog\nthe red house\none two\n')
  return path


def run(folders, prompts, size, *argv):
  with disks.room_for(size):
    return decode_main.decode(folders, prompts, *decode_main.QUICK, *argv)


@pytest.mark.parametrize(
  'option, argv',
  [
    ('stats', ()),
    ('corpus', ('--drafter=suffix', '--config.costs=rule')),
    ('output', ()),
  ],
)
def test_the_file_is_named_and_is_not_there(
  folders, prompts, tmp_path, capsys, option, argv
):
  made = tmp_path / 'made'
  made.mkdir()
  path = made / f'{option}.jsonl'
  argv = (f'--{option}={path}', *argv)
  assert run(folders, prompts, 20, *argv) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  if option == 'output':  # The note of what made it comes first.
    path = f'{path}.made.json'
  assert error == f'error: Cannot write to {path}: File too large.'
  assert os.listdir(made) == []


@pytest.mark.parametrize('option', ['stats', 'corpus'])
def test_an_earlier_file_stays_as_it_was(
  folders, prompts, tmp_path, capsys, option
):
  made = tmp_path / 'made'
  made.mkdir()
  path = made / option
  argv = [f'--{option}={path}']
  if option == 'corpus':
    argv += ['--drafter=suffix', '--config.costs=rule']
  assert decode_main.decode(folders, prompts, *decode_main.QUICK, *argv) == 0
  before = path.read_bytes()
  assert run(folders, prompts, 20, *argv) == 1
  assert f'Cannot write to {path}: File too large.' in capsys.readouterr().err
  assert path.read_bytes() == before and os.listdir(made) == [option]


def test_whole_answers_stay_for_resume(folders, prompts, tmp_path, capsys):
  path = tmp_path / 'out.jsonl'
  whole = tmp_path / 'whole.jsonl'
  prompts.write_text(prompts.read_text() * 8)
  assert decode_main.decode(folders, prompts, f'--output={whole}') == 0
  lines = whole.read_bytes().splitlines(keepends=True)
  # More than the note of what made them.
  kept = b''.join(lines[:20])
  assert len(kept) > os.path.getsize(f'{whole}.made.json')
  assert run(folders, prompts, len(kept) + 5, f'--output={path}') == 1
  assert f'Cannot write to {path}: File too large.' in capsys.readouterr().err
  # Answers that are ready together are written together, or not at all.
  found = path.read_bytes().splitlines(keepends=True)
  assert found == lines[: len(found)] and 16 <= len(found) <= 20


def test_a_label_file_without_an_answer_is_not_left(
  folders, prompts, tmp_path, capsys
):
  path = tmp_path / 'labels.jsonl'
  argv = ['label', f'--target={folders["target"]}', f'--input={prompts}']
  argv += [f'--output={path}', '--config.max_new_tokens=12']
  with disks.room_for(20):
    assert cli.call(label.main, argv) == 1
  assert f'Cannot write to {path}: File too large.' in capsys.readouterr().err
  assert not path.exists()


def test_an_earlier_certificate_stays_as_it_was(tmp_path, capsys, monkeypatch):
  path = tmp_path / 'bits.json'
  path.write_text('{}\n')
  found = {'verdict': 'x' * 40}
  monkeypatch.setattr(certify_command, '_bits', lambda *_: (found, 0))
  argv = ['certify', '--target=x', '--check=bits', f'--json={path}']
  with disks.room_for(20):
    assert cli.call(certify.main, argv) == 1
  assert f'Cannot write to {path}: File too large.' in capsys.readouterr().err
  assert path.read_text() == '{}\n' and os.listdir(tmp_path) == ['bits.json']
