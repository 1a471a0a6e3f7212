"""Efforts, progress and what an interrupted certificate leaves."""

import re

import pytest

from decode import certify as certify_command
from specjax.certify import config as config_lib
from specjax.certify import controls
from specjax.certify import runner
from specjax.certify import steps as steps_lib
from specjax.certify import verdict
from specjax.commands import cli
from specjax.inference import sources
from tests.helpers import own
from tests.helpers import tiny

PROMPTS = ((1, 2), (3, 0, 1), (2, 2, 0, 3))


class Clock:
  """Seconds that pass when the test moves them."""

  def __init__(self, monkeypatch):
    self.now = 100.0
    monkeypatch.setattr(steps_lib.time, 'perf_counter', lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
  return Clock(monkeypatch)


@pytest.fixture
def one_control(monkeypatch):
  monkeypatch.setattr(controls, 'NAMES', ('accept_all',))


def test_the_time_left_is_that_of_the_steps_so_far(clock):
  told = []
  steps = steps_lib.Steps(12, told.append)
  for number in range(5):
    steps.begin(f'test {number}')
    clock.now += 45
  assert told[0] == 'step 1 of 12: test 0'
  assert told[4] == 'step 5 of 12: test 4, about 6 min left'
  steps.leave_out(5)
  steps.begin('test 5')
  assert told[5] == 'step 6 of 7: test 5, about 90 s left'
  words = ', '.join(steps_lib.in_words(x) for x in (1, 62, 91, 600))
  assert words == '5 s, 60 s, 2 min, 10 min'


def test_no_step_begins_when_the_time_is_up(clock):
  steps = steps_lib.Steps(3, lambda line: None, seconds=60)
  steps.begin('one')
  clock.now += 61
  with pytest.raises(steps_lib.TimeUpError, match='on 1 of 3 steps; give'):
    steps.begin('two')


@pytest.mark.parametrize('effort', config_lib.EFFORTS)
def test_an_effort_decides_what_is_not_given(effort):
  made = config_lib.CertifyConfig(effort=effort, samples=500)
  made.validate()
  how = config_lib.EFFORTS[effort]
  assert made.samples == 500
  assert (made.law_prompts, made.num_prompts) == how[1:3]
  assert made.max_new_tokens == how.max_new_tokens
  made.validate()  # Nothing changes any more.
  assert made.samples == 500
  with pytest.raises(ValueError, match='effort must be one of quick, stand'):
    config_lib.CertifyConfig(effort='little').validate()


def _certify(seconds, clock, monkeypatch, verifier='auto'):
  quick = config_lib.EFFORTS['quick']._replace(seconds=seconds)
  monkeypatch.setitem(config_lib.EFFORTS, 'quick', quick)
  config = config_lib.CertifyConfig(
    effort='quick', temperature=0.0, num_draft=2, verifier=verifier
  )
  told, lines = [], []

  def progress(line):
    told.append(line)
    clock.now += 10

  target = own.target()._replace(tokenizer=None)
  made = runner.certify(
    target,
    sources.of_model(own.target(1)),
    PROMPTS,
    config,
    progress,
    report=lines.append,
  )
  return made, told, lines


def test_quick_ends_without_a_verdict_when_its_time_is_up(
  clock, monkeypatch, one_control
):
  made, told, lines = _certify(15.0, clock, monkeypatch)
  assert made.verdict == verdict.INCONCLUSIVE and made.status == 3
  assert '1 of 2 steps; give --config.effort=standard' in made.last_line
  assert made.lines == tuple(lines) and len(lines) == 1
  assert lines[0].startswith('greedy identity: 4 of 4 rows')
  assert 'at most 90 s' in told[0] and '2048 continuations' in told[0]
  assert told[1] == 'step 1 of 2: greedy identity'


def test_quick_is_sure_of_what_it_has_found(clock, monkeypatch, one_control):
  made, _, _ = _certify(15.0, clock, monkeypatch, 'broken:second_best')
  assert made.verdict == verdict.NOT_LOSSLESS


def test_every_line_is_reported_when_it_is_known(
  clock, monkeypatch, one_control
):
  made, told, lines = _certify(1e6, clock, monkeypatch)
  assert made.lines == tuple(lines) and len(lines) == 2
  assert re.match(r'step 2 of 2: negative control: accepts every', told[2])


def test_an_interrupt_leaves_the_finished_tests_and_no_verdict(
  tmp_path, monkeypatch, capsys, one_control
):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  folder = tiny.save(tmp_path / 'target')
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('the cat\na dog\n')

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(runner, '_run_controls', interrupted)
  argv = ['decode.certify', f'--target={folder}', f'--input={prompts}']
  argv += ['--drafter=prompt_lookup', '--config.effort=quick']
  argv += ['--config.temperature=0']
  status = cli.call(certify_command.main, argv, failure=2)
  captured = capsys.readouterr()
  assert status == 130
  assert captured.out.startswith('greedy identity: ')
  assert captured.out.count('\n') == 1 and 'LOSSLESS' not in captured.out
  assert 'no verdict' in captured.err.splitlines()[-1]
