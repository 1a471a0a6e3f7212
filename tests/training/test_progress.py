"""Estimates of time leave out what compiling took; doubts are noted."""

import logging
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest

from specjax import waiting
from specjax.commands import train_run
from specjax.training import metrics
from specjax.training import progress
from specjax.training import step as step_lib
from specjax.training.config import TrainConfig
from specjax.training.data.sources import DataConfig
from tests.helpers import tiny


def test_the_time_left_leaves_out_the_first_step():
  now = [0.0]
  shown = progress.bar(101, 0)
  shown._time = lambda: now[0]
  shown.reset()
  now[0] = 60.0
  shown.update()
  progress.leave_out_time(shown, 1)
  for _ in range(3):
    now[0] += 2.0
    shown.update()
  about = shown.format_dict
  assert (about['n'], about['initial'], about['elapsed']) == (4, 1, 6.0)
  rate = about['rate'] or (about['n'] - about['initial']) / about['elapsed']
  assert rate == pytest.approx(0.5, rel=0.1)
  shown.close()


def test_the_speed_leaves_out_the_first_step(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'time', lambda: now[0])
  meter = progress.Meter(started=0.0)
  now[0] = 50.0
  meter.add({'loss': 3.0}, 100)
  meter.leave_out_time()
  now[0] += 2.0
  meter.add({'loss': 1.0}, 100)
  assert meter.read() == {'loss': 2.0, 'tokens_per_second': 50.0}
  meter.add({'loss': 1.0}, 100)
  meter.leave_out_time()
  assert meter.read() == {'loss': 1.0}


def _notes(parameters, **changes):
  config = TrainConfig(**changes)
  config.optimizer.warmup_steps = 60
  teacher = None
  if parameters:
    teacher = types.SimpleNamespace(params={'w': np.zeros(parameters)})
  parts = types.SimpleNamespace(
    config=config, model_config=tiny.DECODER, teacher=teacher
  )
  told = []
  train_run._log_what_runs(parts, told.append)
  return told


def test_what_is_perhaps_not_meant_is_noted():
  first, answers = _notes(10**9, name='tiny', steps=120)
  assert first.startswith('Training tiny: ') and '120 steps' in first
  assert answers == (
    "Note: the drafter learns from the data and not from the target's own "
    'answers, which it has to guess; specjax-label writes them for '
    'data.labelled.'
  )
  labelled = DataConfig(labelled='own.jsonl')
  assert len(_notes(10**9, steps=120, data=labelled)) == 1
  _, warmup = _notes(0, steps=119)
  assert 'optimizer.warmup_steps=60 is more than half of the 119' in warmup
  *_, size = _notes(100, steps=500)
  assert 'the drafter is larger than its target (' in size and '100 p' in size


def test_what_takes_long_is_named(monkeypatch, caplog):
  monkeypatch.setattr(waiting, 'SECONDS', 0.0)
  with caplog.at_level(logging.WARNING, 'specjax'):
    with waiting.noted('Reading models and data.'):
      time.sleep(0.1)
  assert [r.getMessage() for r in caplog.records] == [
    'Reading models and data.'
  ]


def test_a_depth_that_was_never_tested_is_null(tmp_path):
  """Not 0: a rate of 0 would mean that all its drafts were refused."""
  tested = {'loss': jnp.float32(6.0), 'weight': jnp.float32(3.0)}
  tested |= {'acceptance_1': (2.0, 4.0), 'acceptance_2': (0.0, 5.0)}
  batch = tested | {'acceptance_3': (jnp.float32(0), jnp.float32(0))}
  found = step_lib.mean([batch, batch | {'acceptance_1': (4.0, 4.0)}])
  assert found.pop('loss') == 2.0
  untested = found.pop('acceptance_3')
  assert found == {'acceptance_1': 0.75, 'acceptance_2': 0.0}
  assert np.isnan(untested)
  meter = progress.Meter()
  for rate in (float('nan'), 0.5):
    meter.add({'loss': 1.0, 'acceptance_1': rate, 'acceptance_2': untested}, 0)
  values = meter.read()
  assert values['acceptance_1'] == 0.5
  writer = metrics.open_writer(str(tmp_path))
  writer.write(1, 'eval', values)
  writer.close()
  assert metrics.read(str(tmp_path))[0]['acceptance_2'] is None
  assert metrics.shown(untested) == '-'
