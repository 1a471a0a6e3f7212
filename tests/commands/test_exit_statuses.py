"""Exit statuses that differ by cause, closed pipes, and lines of the log."""

import logging
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tqdm

from decode import certify
from specjax import early
from specjax.commands import cli
from specjax.distributed import mesh as mesh_lib
from tests.helpers import tiny
from tests.helpers.source_code import ROOT


def _signalled(number):
  def main(argv):
    os.kill(os.getpid(), number)
    time.sleep(5)
    return len(argv)

  return main


@pytest.mark.parametrize('failure', [0, certify.BAD_INPUT])
@pytest.mark.parametrize(
  'number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_has_a_status_of_its_own(number, status, failure, capsys):
  assert cli.call(_signalled(number), ['x'], failure=failure) == status
  captured = capsys.readouterr()
  assert captured.err == 'error: interrupted.\n' and not captured.out


def test_a_signal_while_a_line_is_written_keeps_its_status(monkeypatch, capsys):
  from specjax.commands import answer_files

  def main(argv):
    with answer_files.writer('-') as write:
      del write
      with answer_files._signals_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        print('whole line')
    return len(argv)

  assert cli.call(main, ['x']) == 143
  assert capsys.readouterr().out == 'whole line\n'


def test_a_signal_in_a_destructor_ends_the_command(capsys):
  class Last:
    def __del__(self):
      os.kill(os.getpid(), signal.SIGTERM)

  def main(argv):
    del argv
    one = Last()
    del one
    time.sleep(5)

  assert cli.call(main, ['x']) == 143
  assert capsys.readouterr().err == 'error: interrupted.\n'


def test_a_signal_that_a_library_turned_into_an_error(capsys):
  def main(argv):
    del argv
    try:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(5)
    except KeyboardInterrupt as error:
      raise RuntimeError('INTERNAL: CpuCallback error') from error

  assert cli.call(main, ['x']) == 143
  assert capsys.readouterr().err == 'error: interrupted.\n'


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_behind_the_work_cuts_nothing(number):
  code = f"""
import atexit, os, sys
from specjax.commands import cli
def main(argv):
  atexit.register(os.kill, os.getpid(), {int(number)})
  print('done')
cli.run(main)
"""
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, 'done\n', '')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_libraries_are_imported(tmp_path, number):
  # The first of our modules behind JAX kills the process that imports it.
  (tmp_path / 'flax.py').write_text(
    f'import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(5)\n'
  )
  done = subprocess.run(
    [sys.executable, '-m', 'decode.main', '--demo'],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(tmp_path)},
    # A parent in the background may ignore it, and a child would too.
    preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (
    128 + number,
    'error: interrupted.\n',
  )


@pytest.mark.parametrize(
  'argv, whole, ours',
  [
    (['bin/specjax-label', 'x'], ['python', 'bin/specjax-label', 'x'], True),
    (['main.py', 'x'], ['python', '-X', 'dev', '-m', 'train.main', 'x'], True),
    (['-m'], ['python', '-m', 'specjax.decode.certify'], True),
    (['-m', 'x'], ['python', '-m', 'pytest', 'x'], False),
    (['bin/specjax-label', 'x'], ['python', '-c', 'spawn_main()', 'y'], False),
    (['bin/specjax-label'], ['python', '-c', 'spawn_main()'], False),
    (
      ['mine.py', 'specjax-label'],
      ['python', 'mine.py', 'specjax-label'],
      False,
    ),
    (['', ''], ['python'], False),
    ([], ['python'], False),
  ],
)
def test_only_our_commands_catch_signals_early(argv, whole, ours):
  assert early.is_command(argv, whole) is ours


@pytest.mark.exhaustive
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_twenty_signals_at_random_times(tmp_path, number):
  """Each run ends with the whole answers it gave and at most one line."""
  target = tiny.save(tmp_path / 'target')
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('the cat\n' * 60)
  command = [sys.executable, '-m', 'decode.main', f'--target={target}']
  command += [f'--input={prompts}', '--config.batch_size=1']
  command += ['--config.max_new_tokens=4', f'--stats={tmp_path}/stats.json']

  def start():
    output = tmp_path / 'answers.txt'
    output.unlink(missing_ok=True)
    process = subprocess.Popen(
      [*command, f'--output={output}'],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      text=True,
    )
    while process.poll() is None and not output.exists():
      time.sleep(0.01)
    return process

  process = start()
  begin = time.perf_counter()
  process.communicate()
  rest = time.perf_counter() - begin
  rng = random.Random(int(number))
  found = []
  for _ in range(20):
    process = start()
    time.sleep(rng.random() * rest)
    process.send_signal(number)
    said = process.communicate()[1]
    found.append(process.returncode)
    assert process.returncode in (0, 128 + number), said
    assert 'Traceback' not in said and 'Exception ignored' not in said, said
    assert said.count('error: ') == (process.returncode > 0), said
  assert set(found) == {0, 128 + number}, found


def test_a_mesh_that_cannot_be_is_bad_usage(capsys):
  def main(argv):
    raise mesh_lib.MeshError('no such mesh.')

  assert cli.call(main, ['x']) == 2
  assert capsys.readouterr().err == 'error: no such mesh.\n'


def _shell(command, **settings):
  return subprocess.run(
    ['bash', '-c', f'set -o pipefail; {command}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
    **settings,
  )


def test_a_closed_pipe_ends_silently(tmp_path):
  target = tiny.save(tmp_path / 'target')
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('the cat\n' * 400)
  python = f'{sys.executable} -m decode.main'
  # `head` is gone before the first line comes.
  done = _shell(f'{python} --help | true')
  assert (done.returncode, done.stdout, done.stderr) == (141, '', '')
  done = _shell(
    f'{python} --target={target} --input={prompts} --config.batch_size=1 '
    '--config.max_new_tokens=4 --baseline=none | head -1'
  )
  assert done.returncode == 141 and done.stdout.count('\n') == 1
  assert 'rror' not in done.stderr and 'Traceback' not in done.stderr


def test_lines_of_the_log_stand_above_a_progress_bar(monkeypatch, capsys):
  # As the import of Orbax leaves it.
  monkeypatch.setattr(logging.root, 'handlers', [logging.StreamHandler()])
  cli._show_log()
  with tqdm.tqdm(total=2, file=sys.stderr) as bar:
    bar.update()
    logging.getLogger('specjax').warning('Compiling %s.', 'a step')
    cli.note('warning:', 3)
  # A library that logs to the root would configure it otherwise.
  logging.warning('another')
  lines = capsys.readouterr().err.replace('\r', '\n').splitlines()
  assert {'Compiling a step.', 'warning: 3', 'another'} <= set(lines)
