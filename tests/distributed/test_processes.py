"""Real processes on the loopback device, each with two simulated devices."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from specjax.distributed import processes as processes_lib
from specjax.distributed import watch
from specjax.training import optimizers
from tests.helpers import mesh_training
from tests.helpers import tiny
from tests.helpers import toy
from tests.helpers.ports import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {
  'PYTHONPATH': str(ROOT),
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
}
SECONDS = 400


def begin(module, *arguments, own=((), ())):
  """Starts two processes of a command; `own` are arguments of each."""
  port = free_port()
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        module,
        *arguments,
        *own[index],
        f'--coordinator=127.0.0.1:{port}',
        '--num_processes=2',
        f'--process_id={index}',
      ],
      cwd=ROOT,
      env=ENVIRONMENT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]


def end(processes):
  """[(status, standard output, standard error)], none left running."""
  try:
    return [
      (p.returncode, *texts)
      for p, texts in [(p, p.communicate(timeout=SECONDS)) for p in processes]
    ]
  finally:
    for process in processes:
      process.kill()


def alone(module, *arguments):
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    cwd=ROOT,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    timeout=SECONDS,
    check=False,
  )


def errors(text):
  return [line for line in text.splitlines() if line.startswith('error:')]


def until(done, processes):
  """Waits until `done()`; fails when process 0 ends or it takes too long."""
  limit = time.monotonic() + SECONDS
  while not done():
    assert processes[0].poll() is None, processes[0].communicate()
    assert time.monotonic() < limit
    time.sleep(0.1)


@pytest.mark.slow
def test_labelling(tmp_path):
  folder = tiny.save(tmp_path / 'model')
  source = tmp_path / 'inputs.txt'
  source.write_text('the cat sat\na dog ran\none two\n')
  command = (
    'train.label',
    f'--target={folder}',
    f'--input={source}',
    '--config.max_new_tokens=6',
    '--config.batch_size=2',
    '--config.mesh.shape=(-1, 2)',
  )
  single, both = tmp_path / 'single.jsonl', tmp_path / 'both.jsonl'
  made = alone(*command, f'--output={single}')
  assert made.returncode == 0, made.stderr
  lines = single.read_text().splitlines(keepends=True)
  assert len(lines) == 4
  # Interrupted in a line.
  both.write_text(lines[0] + lines[1] + lines[2][:9])
  ended = end(begin(*command, f'--output={both}'))
  assert [status for status, *_ in ended] == [0, 0], ended
  assert both.read_text() == single.read_text()
  assert '2 answers written after 1' in ended[0][2]
  assert 'answers' not in ended[1][2]


@pytest.mark.slow
def test_decoding(tmp_path):
  folder = tiny.save(tmp_path / 'model')
  source = tmp_path / 'prompts.txt'
  source.write_text('the cat sat\na dog ran\n\none two\n')
  command = (
    'decode.main',
    f'--target={folder}',
    '--drafter=prompt_lookup',
    f'--input={source}',
    '--config.max_new_tokens=6',
    '--config.batch_size=4',
    '--config.mesh.shape=(-1, 2)',
    '--config.explain=false',
    '--baseline=none',
  )
  single = alone(*command)
  assert single.returncode == 0, single.stderr
  both = end(begin(*command))
  assert [status for status, *_ in both] == [0, 0], both
  # Process 0 writes, in order and nothing else.
  assert both[0][1] == single.stdout and both[1][1] == ''
  assert len(single.stdout.splitlines()) == 4
  # Settings that differ are refused at the start, by name.
  first, second = ((f'--config.num_draft={n}',) for n in (2, 3))
  for status, out, err in end(begin(*command, own=(first, second))):
    assert status == 1 and out == ''
    assert 'config.num_draft is 2 in process 0 and 3 in process 1' in err


CONFIG = """
import pathlib
from tests.helpers import toy

def get_config():
  return toy.config(
    pathlib.Path({folder!r}), steps=60, log_every=1, save_every=2,
    eval_prompts=0,
  )
"""


def newest(workdir):
  steps = [
    int(path.name)
    for path in (workdir / 'checkpoints').glob('*')
    if path.name.isdigit()
  ]
  return max(steps, default=0)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_all(tmp_path):
  toy.write(tmp_path)
  config = tmp_path / 'config.py'
  config.write_text(CONFIG.format(folder=str(tmp_path)))
  workdir = tmp_path / 'run'
  processes = begin(
    'train.main',
    f'--config={config}',
    f'--workdir={workdir}',
    '--config.mesh.shape=(2, 1, 2)',
    '--config.steps=5000',
    '--config.save_every=0',
  )
  try:
    seen = workdir / 'metrics.jsonl'
    until(lambda: seen.exists() and seen.read_text(), processes)
    # Not the one that writes and prints.
    processes[1].send_signal(signal.SIGTERM)
  finally:
    ended = end(processes)
  assert [status for status, *_ in ended] == [143, 143], ended
  assert not errors(ended[0][2] + ended[1][2])
  done = [json.loads(line)['step'] for line in seen.read_text().splitlines()]
  saved = sorted(path.name for path in (workdir / 'checkpoints').iterdir())
  assert saved == [str(done[-1])] and done[-1] < 5000
  assert not (workdir / 'export').exists()


@pytest.mark.slow
def test_training_survives_a_lost_process(tmp_path):
  toy.write(tmp_path)
  config = tmp_path / 'config.py'
  config.write_text(CONFIG.format(folder=str(tmp_path)))
  workdir = tmp_path / 'run'
  command = ('train.main', f'--config={config}', f'--workdir={workdir}')
  processes = begin(*command, '--config.mesh.shape=(2, 1, 2)')
  try:
    until(lambda: newest(workdir) >= 4, processes)
    processes[1].send_signal(signal.SIGKILL)
    lost = time.monotonic()
    processes[0].wait(timeout=120)
    assert time.monotonic() - lost < 120
    err = processes[0].communicate()[1]
    assert processes[0].returncode == 1
    assert any('process 1 of 2 was lost' in line for line in errors(err)), err
  finally:
    end(processes)
  saved = newest(workdir)
  assert saved >= 4
  # Another number of processes and another shape go on with it.
  done = alone(*command, '--config.mesh.shape=(1, 2)', f'--config.steps={60}')
  assert done.returncode == 0, done.stderr
  at = int(re.search(r'Continuing .* at step (\d+)', done.stderr).group(1))
  assert at >= 4
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  losses = [row['loss'] for row in rows if row['kind'] == 'train']
  assert [row['step'] for row in rows if row['kind'] == 'train'] == list(
    range(1, 61)
  )
  assert losses[-1] < losses[0]
  # The steps of two processes, each with rows of its own, are those of one.
  settings = toy.config(tmp_path, steps=60)
  optimizer = optimizers.make_optimizer(settings.optimizer, 60)
  wanted, *_ = mesh_training.losses(tmp_path, optimizer, (), 4)
  assert losses[:4] == pytest.approx(wanted, rel=1e-4)
  assert (workdir / 'export' / 'config.json').exists()


def test_a_coordinator_that_does_not_answer():
  processes = processes_lib.Processes(f'127.0.0.1:{free_port()}', 2, 1)
  begun = time.monotonic()
  with pytest.raises(TimeoutError, match='did not answer within 1 seconds'):
    processes_lib.start(processes, {}, seconds=1)
  assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
  'fields, words',
  [
    (('', 2, None), '--coordinator=HOST:PORT'),
    (('here', 2, 0), 'HOST:PORT'),
    (('here:80', 2, None), '--process_id'),
    (('here:80', 2, 2), 'from 0 to 1'),
    (('here:80', 0, 0), '--num_processes must be at least 1'),
    (('here:99999', 2, 0), 'a port from 1 to 65535'),
  ],
)
def test_flags_that_do_not_fit(fields, words):
  with pytest.raises(ValueError, match=words):
    processes_lib.Processes(*fields).validate()


def test_a_cluster_whose_processes_do_not_come(monkeypatch):
  """In Slurm's variables; nobody listens at the address."""
  job = dict(JOB_ID=7, STEP_NODELIST='127.0.0.1', NTASKS=2, PROCID=1)
  for name, value in (job | {'LOCALID': 0}).items():
    monkeypatch.setenv(f'SLURM_{name}', str(value))
  monkeypatch.setenv('JAX_COORDINATOR_PORT', str(free_port()))
  with pytest.raises(TimeoutError, match='did not answer within 1 seconds'):
    processes_lib.start(processes_lib.Processes('auto'), {}, seconds=1)


def test_no_cluster_to_ask(monkeypatch):
  def initialize(**settings):
    raise ValueError('coordinator_address should be defined.')

  monkeypatch.setattr(processes_lib, '_keep_output_clean', lambda: None)
  monkeypatch.setattr(processes_lib.jax.distributed, 'initialize', initialize)
  with pytest.raises(ValueError, match='--coordinator=auto finds no cluster'):
    processes_lib.start(processes_lib.Processes('auto'), {})


@pytest.mark.parametrize('named', ['127.0.1.1', '10.0.0.3', None])
def test_other_hosts_get_an_address_that_is_theirs_to_reach(named, monkeypatch):
  class Probe(contextlib.nullcontext):
    def connect(self, address):
      assert address[0] == '192.0.2.1'

    def getsockname(self):
      return '10.0.0.7', 5

  def lookup(name):
    if named is None:
      raise socket.gaierror(-2, 'Name or service not known')
    return named

  monkeypatch.setattr(socket, 'gethostbyname', lookup)
  probe = Probe()
  probe.enter_result = probe
  monkeypatch.setattr(socket, 'socket', lambda *kind: probe)
  wanted = named if named == '10.0.0.3' else '10.0.0.7'
  assert watch._own_address() == wanted


def test_a_port_that_nobody_may_reach(monkeypatch):
  monkeypatch.setattr(watch.jax, 'process_index', lambda: 1)
  with pytest.raises(TimeoutError, match='found no connection to process 0'):
    watch.connect('127.0.0.1', free_port(), print)


def test_the_first_difference_is_named():
  one = {'a': 1, 'config': {'x': (1, 2), 'y': {'z': 0.5}}}
  other = {'a': 1, 'config': {'x': (1, 2), 'y': {'z': 0.25}}}
  assert processes_lib.difference(one, one) == ''
  found = processes_lib.difference(one, other)
  assert found == 'config.y.z is 0.5 in process 0 and 0.25'
