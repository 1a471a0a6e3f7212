"""Costs of an earlier run that are damaged, and folders that keep none."""

import logging
import os
import subprocess
import sys

import pytest

import specjax
from specjax import cache
from specjax.inference import costs
from tests.helpers import costs as helpers
from tests.helpers import tiny


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny.save(tmp_path_factory.mktemp('models') / 'target')


@pytest.fixture(scope='module')
def target(folder):
  return specjax.load(folder)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
  """An empty cache folder."""
  where = tmp_path / 'cache'
  monkeypatch.setenv(cache.VARIABLE, str(where))
  return where


@pytest.fixture
def clock(monkeypatch):
  return helpers.fake_clock(monkeypatch)


DAMAGED = [
  b'',
  b'{',
  b'\xff\xfe',
  b'null',
  b'[]',
  b'7',
  b'{"blocks": {}, "draft": 0}',
  b'{"blocks": {"4": 1.5}}',
  b'{"blocks": {"4": "dear"}, "draft": 0}',
  b'{"blocks": {"4": -1}, "draft": 0}',
  b'{"blocks": {"4": NaN}, "draft": 0}',
  b'{"blocks": {"4": 1e999}, "draft": 0}',
  b'{"blocks": {"4": 1' + b'0' * 400 + b'}, "draft": 0}',
  b'{"blocks": {"four": 1}, "draft": 0}',
  b'[' * 200_000,
]


@pytest.mark.parametrize('data', DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_costs_are_told_once_and_the_rule_holds(target, data, caplog):
  plain = helpers.plan(target)
  file = helpers.keep(plain, data=data)
  with caplog.at_level(logging.WARNING):
    job = helpers.plan(target, costs='measure')
  assert len(caplog.records) == 1
  message = caplog.records[0].getMessage()
  assert str(file.parent) in message and 'damaged' in message
  assert '\n' not in message
  expected = costs.rule(job.assembled, job.batch_size)
  assert job.data.costs == expected._replace(origin='fallback')
  # The run after this one may measure.
  assert not file.exists()
  assert helpers.plan(target).data.costs.origin == 'rule'


def _of_costs(caplog):
  """Records about costs; others are of programs that take long to compile."""
  return [r for r in caplog.records if 'costs' in r.getMessage()]


def test_after_a_damaged_file_nothing_is_measured(target, clock, caplog):
  helpers.keep(helpers.plan(target), data=b'{')
  with caplog.at_level(logging.WARNING):
    helpers.run(helpers.plan(target, costs='measure'))
  assert not clock and len(_of_costs(caplog)) == 1


def test_where_nothing_can_be_kept_nothing_is_measured(
  target, place, clock, monkeypatch, caplog
):
  place.write_text('a file in its place')
  monkeypatch.setattr(costs, 'WORTH_SECONDS', 0.0)
  for mode in ('measure', 'auto'):
    with caplog.at_level(logging.WARNING):
      assert (
        len(helpers.run(helpers.plan(target, costs=mode, batch_size=1))) == 3
      )
    (record,) = _of_costs(caplog)
    message = record.getMessage()
    assert str(place) in message and 'not writable' in message
    caplog.clear()
  assert not clock
  # A short run neither measures nor complains.
  monkeypatch.setattr(costs, 'WORTH_SECONDS', 60.0)
  helpers.run(helpers.plan(target))
  assert not _of_costs(caplog)


def test_one_line_on_standard_error(folder, tmp_path):
  """As a shell sees it."""
  file = tmp_path / 'file'
  file.write_text('in the way')
  source = tmp_path / 'prompts.txt'
  source.write_text('the cat\n')
  command = [sys.executable, '-m', 'decode.main', f'--input={source}']
  command += [f'--target={folder}', '--drafter=suffix', '--baseline=none']
  command += ['--config.costs=measure', '--config.max_new_tokens=4']
  done = subprocess.run(
    command + ['--config.explain=false'],
    capture_output=True,
    env=os.environ | {cache.VARIABLE: str(file)},
    check=True,
  )
  lines = done.stderr.decode().splitlines()
  assert sum(str(file) in line for line in lines) == 1
  assert not any('Traceback' in line for line in lines)
  assert done.stdout.count(b'\n') == 1
