"""Going on from a checkpoint: a damaged one, an older one, more steps."""

import json
import shutil

import jax
import numpy as np
import pytest

from specjax.checkpoints import orbax
from specjax.commands import train as train_command
from specjax.training import build
from specjax.training import checkpoints
from tests.helpers import toy
from tests.helpers.training_runs import run

SETTINGS = {'optimizer__schedule': 'constant', 'steps': 8}


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder, train=60, valid=8)
  return folder


@pytest.fixture(scope='module', name='whole')
def whole_fixture(files, tmp_path_factory):
  """A run of eight steps with a checkpoint each four."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, run(files, workdir, **SETTINGS).state


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_damaged_checkpoint_names_the_newest_whole_one(
  files, whole, tmp_path
):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  folder = tmp_path / checkpoints.CHECKPOINTS
  (folder / '8' / 'default' / '_METADATA').write_text('{"tree')
  with pytest.raises(ValueError) as error:
    run(files, tmp_path, **SETTINGS)
  told = str(error.value)
  assert told.startswith(f'Checkpoint 8 in {folder} is damaged')
  assert told.endswith(
    'The newest whole one is 4, and --resume_from=4 goes on from it.'
  )
  with pytest.raises(ValueError, match='no checkpoint 5 .* there are: 4, 8'):
    run(files, tmp_path, resume_from=5, **SETTINGS)
  parts = build.build(toy.config(files, **SETTINGS))
  assert checkpoints.newest(parts, str(tmp_path), 4).step == 4
  assert orbax.steps_of(str(folder)) == [4, 8]
  said = []
  found = run(files, tmp_path, resume_from=4, log_fn=said.append, **SETTINGS)
  assert said == [
    f'Continuing {tmp_path} at step 4.',
    'Removed the later checkpoints: 8.',
  ]
  assert_same(found.state, whole[1])
  assert orbax.steps_of(str(folder)) == [4, 8]


def test_a_damaged_array_is_named_without_code(files, whole, tmp_path):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  step = tmp_path / checkpoints.CHECKPOINTS / '8'
  arrays = [path for path in step.rglob('*') if path.is_file()]
  largest = max(arrays, key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:100])
  with pytest.raises(
    ValueError, match='^Checkpoint 8 .* newest whole'
  ) as error:
    run(files, tmp_path, **SETTINGS)
  assert '<bound' not in str(error.value) and 'See full' not in str(error.value)


def test_nothing_whole_is_told(files, whole, tmp_path):
  shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
  folder = tmp_path / checkpoints.CHECKPOINTS
  for step in ('4', '8'):
    (folder / step / 'metrics' / 'metrics').write_bytes(b'')
  with pytest.raises(ValueError) as error:
    run(files, tmp_path, **SETTINGS)
  assert 'Checkpoint 8 ' in str(error.value)
  assert 'No older one is whole' in str(error.value)


def test_more_steps_go_on(files, whole, tmp_path):
  """A constant rate, so that the run is that of all steps from the start."""
  short = SETTINGS | {'steps': 3}
  run(files, tmp_path, **short)
  said = []
  found = run(files, tmp_path, log_fn=said.append, **SETTINGS)
  assert said == [
    f'Continuing {tmp_path} at step 3.',
    'The run goes on to 8 steps, from 3.',
  ]
  assert_same(found.state, whole[1])
  with pytest.raises(ValueError, match='steps is 3 here and 8 there'):
    run(files, tmp_path, **short)


def test_a_changed_file_is_told(files, whole, tmp_path):
  for name in ('train.tsv', 'valid.tsv'):
    shutil.copy(files / name, tmp_path)
  train = tmp_path / 'train.tsv'
  settings = SETTINGS | {
    'data__train': str(train),
    'data__valid': str(tmp_path / 'valid.tsv'),
  }
  workdir = tmp_path / 'run'
  run(files, workdir, stop_at=2, **settings)
  kept = orbax.about(str(workdir / checkpoints.CHECKPOINTS), 2)['data']
  size = train.stat().st_size
  assert list(kept) == [str(train)] and kept[str(train)][0] == size
  said = []
  run(files, workdir, stop_at=3, log_fn=said.append, **settings)
  assert said == [f'Continuing {workdir} at step 2.']
  # One letter is another, the size is the same; held-out data change no weight.
  text = train.read_text()
  train.write_text(text.replace('ba', 'do', 1))
  (tmp_path / 'valid.tsv').write_text('ba\tban\n')
  run(files, workdir, log_fn=said.append, **settings)
  assert said[2] == (
    f'Note: {train} has changed since checkpoint 3 ({size} bytes then, {size} '
    'now), so the run is not what it would have been without the stop.'
  )
  assert len(said) == 3


def test_the_command_to_resume_does_not_go_back_again():
  argv = ['x', '--workdir=a', '--resume_from=4', '--config.steps=9']
  assert train_command._command(argv) == (
    'specjax-train --workdir=a --config.steps=9'
  )
  spaced = ['x', '--resume_from', '4', '--workdir=a']
  assert train_command._command(spaced) == 'specjax-train --workdir=a'


def test_settings_of_a_run_hold_the_share_in_force(files, whole):
  settings = json.loads((whole[0] / 'config.json').read_text())
  assert settings['data']['labelled_fraction'] == 0.0
