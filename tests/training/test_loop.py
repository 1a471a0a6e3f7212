"""The loop: stopping, killing, resuming, refusing."""

import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from specjax.checkpoints import orbax
from specjax.training import build
from specjax.training import checkpoints
from specjax.training import config as config_lib
from specjax.training import export
from specjax.training import loop
from specjax.training import metrics
from specjax.training import placement
from specjax.training import state as state_lib
from specjax.training import workdir as workdir_lib
from tests.helpers import toy
from tests.helpers.training_runs import run
from tests.helpers.training_runs import VARIED

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A source token that makes the poisoned loss infinite.
MARK = 3


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder)
  return folder


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module', name='whole')
def whole_fixture(files, tmp_path_factory):
  """A run without a stop: dropout, EMA and two epochs included."""
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, run(files, workdir, **VARIED)


def test_stopping_and_resuming_changes_no_bit(files, whole, tmp_path):
  first = run(files, tmp_path, stop_at=5, **VARIED)
  assert first.stopped and first.step == 5
  second = run(files, tmp_path, **VARIED)
  assert not second.stopped and second.step == 10
  assert_same(second.state, whole[1].state)
  losses = [
    {r['step']: r['loss'] for r in metrics.read(d) if r['kind'] == 'eval'}
    for d in (tmp_path, whole[0])
  ]
  assert losses[0] == losses[1] != {}


def test_what_a_person_watches_is_there(whole):
  workdir = whole[0]
  rows = metrics.read(workdir)
  assert [r['step'] for r in rows if r['kind'] == 'train'] == [4, 8, 10]
  assert {'loss', 'tokens_per_second', 'learning_rate', 'grad_norm'} <= set(
    rows[0]
  )
  assert (workdir / 'curves.png').read_bytes().startswith(b'\x89PNG')
  assert list((workdir / 'tensorboard').glob('events*'))


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
import jax
jax.config.update('jax_default_matmul_precision', 'highest')
jax.config.update('jax_num_cpu_devices', 8)
from specjax.checkpoints import orbax as checkpoints
from tests.helpers import training_runs

save = checkpoints.save

def killed_in_the_middle(manager, step, state, rank=None, about=None):
  save(manager, step, state, rank, about)
  if step == 8:  # The writing goes on in the background; nobody waits.
    os.kill(os.getpid(), signal.SIGKILL)

checkpoints.save = killed_in_the_middle
import pathlib
training_runs.run(
    pathlib.Path({files!r}), pathlib.Path({workdir!r}), **training_runs.VARIED)
"""


def test_killed_in_the_middle_of_a_save(files, whole, tmp_path):
  code = KILLED.format(root=str(ROOT), files=str(files), workdir=str(tmp_path))
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  folder = tmp_path / checkpoints.CHECKPOINTS
  manager = orbax.open_manager(str(folder), read_only=True)
  # Whole or absent: the one before is there in any case.
  assert set(manager.all_steps()) in ({4}, {4, 8})
  manager.close()
  resumed = run(files, tmp_path, **VARIED)
  assert_same(resumed.state, whole[1].state)


def test_a_workdir_of_another_run_is_left_alone(files, whole, tmp_path):
  workdir = whole[0]
  before = (workdir / 'config.json').read_bytes()
  with pytest.raises(
    ValueError, match='optimizer.learning_rate is 0.1 here and 0.005 there'
  ):
    run(files, workdir, optimizer__learning_rate=0.1, **VARIED)
  assert (workdir / 'config.json').read_bytes() == before
  # What changes no parameter may differ.
  for text in ('{"steps": ', '[1]'):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match='not hold the settings of a run'):
      run(files, tmp_path, **VARIED)
    assert [p.name for p in tmp_path.iterdir()] == ['config.json']
  config = toy.config(files, log_every=7, eval_prompts=1, **VARIED)
  workdir_lib.check(str(workdir), config)


def test_a_loss_that_is_not_finite_stops(files, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr('tqdm.std.time', iter(range(9999)).__next__)
  parts = build.build(toy.config(files))

  def loss(params, frozen, batch, key):
    total, weight, sums = parts.objective.loss(params, frozen, batch, key)
    return total / (batch['source'][0, 0] != MARK), weight, sums

  def poison(params, batch, step):
    del params
    mark = MARK if step == 5 else batch['source'][0, 0]
    return dict(batch, source=batch['source'].at[0, 0].set(mark))

  poisoned = parts._replace(objective=parts.objective._replace(loss=loss))
  with pytest.raises(FloatingPointError) as error:
    loop.train(poisoned, str(tmp_path), on_policy=poison, log_fn=lambda s: None)
  err = capsys.readouterr().err
  # Messages begin a line; a step that compiled estimates no time left.
  assert err.endswith('\n')
  assert set(re.findall(r' 1/12 \[[\d:]+<([^,]+)', err)) == {'?'}
  told = str(error.value)
  assert told.startswith('Step 6: the loss is inf')
  assert told.find(os.path.join(str(tmp_path), 'checkpoints', '4')) > 0


def test_rows_must_divide_by_the_devices(files):
  config = toy.config(files, data__batch_rows=12, mesh__shape=(-1, 1))
  with pytest.raises(ValueError, match='12 cannot be divided by 8 devices'):
    placement.placement(config)
  config.mesh.shape = (99, 1)
  with pytest.raises(ValueError, match='the number of devices, 8'):
    placement.placement(config)
  config = toy.config(files, mesh__shape=(2, 4), optimizer__accumulation=8)
  with pytest.raises(ValueError, match='8 accumulated parts'):
    placement.placement(config)


def test_several_devices_train_alike(files, whole, tmp_path):
  parts = build.build(toy.config(files, mesh__shape=(-1, 1), **VARIED))
  out = loop.train(parts, str(tmp_path), log_fn=lambda line: None)
  # Dropout draws the same noise wherever a row lies.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3, atol=5e-4),
    out.state.params,
    whole[1].state.params,
  )


def test_readers_leave_alone_what_a_run_is_writing(files, tmp_path):
  parts = build.build(toy.config(files))
  run(files, tmp_path, stop_at=2)
  folder = tmp_path / checkpoints.CHECKPOINTS
  half = folder / '3.orbax-checkpoint-tmp'
  half.mkdir()
  checkpoints.newest(parts, str(tmp_path))
  for read_only in (True, False):
    manager = orbax.open_manager(str(folder), read_only=read_only)
    assert manager.all_steps() == [2]
    if not read_only:  # The next run's: it saves once the old halves are gone.
      orbax.save(manager, 4, {'a': np.arange(3)})
    manager.close()
    assert half.exists() == read_only


def test_the_newest_checkpoint_can_be_had_without_training(files, tmp_path):
  parts = build.build(toy.config(files))
  with pytest.raises(FileNotFoundError, match='no checkpoint yet'):
    checkpoints.newest(parts, str(tmp_path))
  stopped = run(files, tmp_path, stop_at=2)
  found = checkpoints.newest(parts, str(tmp_path))
  assert found.stopped and found.step == 2
  assert_same(found.state, stopped.state)


def test_the_last_checkpoints_are_averaged(files, whole):
  workdir, outcome = whole
  folder = workdir / checkpoints.CHECKPOINTS
  manager = orbax.open_manager(str(folder))
  like = orbax.abstract(outcome.state)
  steps = sorted(manager.all_steps())[-2:]
  wanted = [
    state_lib.best_params(orbax.restore(str(folder), s, like)) for s in steps
  ]
  got = export.final_params(manager, like, 2)
  manager.close()
  jax.tree.map(
    lambda a, b, c: np.testing.assert_allclose(a, (b + c) / 2, rtol=1e-5),
    got,
    *wanted,
  )


def test_a_stop_changes_no_average(files, tmp_path):
  """The checkpoint of a stop neither counts nor displaces one that does."""
  changes = dict(keep_last=2, average_last=2, save_every=4, steps=10)
  run(files, tmp_path, stop_at=9, **changes)
  folder = tmp_path / checkpoints.CHECKPOINTS
  assert {path.name for path in folder.iterdir()} >= {'4', '8', '9'}
  run(files, tmp_path, **changes)
  config = toy.config(files, **changes)
  manager = checkpoints.open_checkpoints(str(tmp_path), config, read_only=True)
  assert {8, 10} <= set(manager.all_steps()) and 9 not in manager.all_steps()
  planned = functools.partial(checkpoints.is_planned, config)
  assert [step for step in range(1, 11) if planned(step)] == [4, 8, 10]
  like = orbax.abstract(run(files, tmp_path, **changes).state)
  got = export.final_params(manager, like, 2, planned)
  manager.close()
  states = [orbax.restore(str(folder), step, like) for step in (8, 10)]
  assert_same(got, export.average([state_lib.best_params(s) for s in states]))


@pytest.mark.parametrize(
  'name, value, words',
  [
    ('task', 'drafter', 'needs teacher=FOLDER'),
    ('task', 'nothing', "must be one of 'target', 'drafter'"),
    ('steps', 0, 'steps must be at least 1'),
    ('seed', 2**32, 'seed must lie between 0 and 4294967295'),
    ('average_last', 4, 'average_last=4 exceeds keep_last=3'),
    ('compute_dtype', 'int4', 'must be one of'),
    ('objective__name', 'kld', 'Unknown objective .kld.*known are'),
    ('objective__name', 'jsd', 'has none and learns by'),
    ('objective__beta', 0.0, 'strictly between'),
    ('objective__temperature', float('nan'), 'positive number'),
    ('optimizer__learning_rate', float('nan'), 'positive number'),
    ('optimizer__eps', 0.0, 'optimizer.eps must be a positive number'),
    ('optimizer__name', 'sgd', "must be one of 'adamw', 'adafactor', 'muon'"),
    ('optimizer__warmup_steps', -1, 'at least 0'),
    ('optimizer__ema', 1.5, 'between 0'),
    ('model__width', 0, 'width must be at least 1'),
    ('tokenizer', '', 'train.tokenizer makes one'),
    ('data__source_length', 0, 'at least 1'),
  ],
)
def test_bad_settings_are_told(files, name, value, words):
  with pytest.raises(ValueError, match=words):
    toy.config(files, **{name: value}).validate()


def test_a_gated_gelu_that_no_t5_can_spell_is_refused(files):
  config = toy.config(files, model__activation='gelu', model__gated=True)
  with pytest.raises(ValueError, match="take 'gelu_new'"):
    config.validate()


def test_rows_longer_than_a_model_are_refused(files):
  text = str(files / 'text.txt')
  with pytest.raises(ValueError, match='32 exceeds the 16 positions that'):
    build.build(
      toy.config(
        files,
        model__family='decoder',
        model__max_positions=16,
        data__kind='text',
        data__train=text,
        data__valid=text,
      )
    )


def test_difference_names_the_field():
  old = config_lib.to_dict(config_lib.TrainConfig())
  new = json.loads(json.dumps(old))
  assert config_lib.difference(old, new) == ''
  # A field that is no more, in the folder of an older run.
  assert config_lib.difference(old | {'data_parallel': 1}, new) == ''
  new['data']['batch_rows'] = 7
  assert config_lib.difference(old, new) == (
    'data.batch_rows is 7 here and 32 there'
  )


def test_bad_folders_are_told(files, tmp_path):
  with pytest.raises(FileNotFoundError, match='No tokenizer in'):
    build.build(toy.config(files, tokenizer=str(tmp_path)))
  with pytest.raises(FileNotFoundError, match='nowhere.tsv does not exist'):
    build.build(toy.config(files, data__train=str(tmp_path / 'nowhere.tsv')))
  with pytest.raises(ValueError, match="learns from data.kind='pairs'"):
    build.build(
      toy.config(files, data__kind='text', data__train=str(files / 'text.txt'))
    )


def test_sigterm_saves_and_says_how_to_resume(files, tmp_path):
  config = tmp_path / 'toy_config.py'
  config.write_text(
    f'import sys\nsys.path.insert(0, {str(ROOT)!r})\n'
    'import pathlib\nfrom tests.helpers import toy\n'
    'def get_config():\n'
    f'  return toy.config(pathlib.Path({str(files)!r}), steps=100000)\n'
  )
  workdir = tmp_path / 'run'
  process = subprocess.Popen(
    [
      sys.executable,
      '-m',
      'train.main',
      f'--config={config}',
      f'--workdir={workdir}',
    ],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.time() + 240
  while time.time() < deadline and process.poll() is None:
    if metrics.read(str(workdir)):
      break
    time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  _, told = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGTERM, told
  last = told.strip().splitlines()[-1]
  assert 'To resume: specjax-train' in last
  assert f'--workdir={workdir}' in last
  step = int(last.split('saved at step ')[1].split()[0])
  assert (workdir / 'checkpoints' / str(step)).is_dir()
