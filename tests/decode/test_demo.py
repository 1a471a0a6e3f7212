"""The demo command, on tiny models in place of the bundled ones."""

import re

import pytest

from decode import main
from specjax.commands import cli
from specjax.commands import demo
from tests.helpers import tiny


@pytest.fixture
def models(tmp_path, monkeypatch):
  target = tmp_path / 'target'
  tiny.save(target, tiny.T5, seed=2)
  monkeypatch.setattr(demo, 'TARGET', target)
  monkeypatch.setattr(demo, 'DRAFTER', target)
  monkeypatch.setattr(demo, 'ASSETS', tmp_path)
  monkeypatch.setattr(demo, 'PROMPTS', ('the cat', 'a dog ran', 'one two'))
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)


def call(*argv):
  return cli.call(
    main.main, ['decode.main', '--config.max_new_tokens=12', *argv]
  )


def test_translates_and_measures(models, capsys):
  assert call('--demo') == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line for line in lines if line.startswith('  ')] == [
    '  the cat',
    '  a dog ran',
    '  one two',
  ]
  assert sum(line.startswith('>') for line in lines) == 3
  table = dict(re.split(r':\s+', line, maxsplit=1) for line in lines[-6:])
  assert list(table) == [
    'plain',
    'speculative',
    'speed-up',
    'block efficiency',
    'acceptance rate',
    'identical tokens',
  ]
  assert table['identical tokens'] == '3 of 3'
  # The drafter is the target itself.
  assert table['acceptance rate'] == '1.000 (4 draft slots)'
  assert 'float32' in table['plain']


def test_translates_a_sentence_with_models_of_the_users(
  models, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(demo, 'TARGET', demo.ASSETS / 'nowhere')
  monkeypatch.setattr(demo, 'DRAFTER', demo.ASSETS / 'nowhere')
  folder = tmp_path / 'target'
  named = (f'--target={folder}', '--drafter=suffix')
  assert call('--demo=the red house', *named) == 0
  captured = capsys.readouterr()
  assert captured.out.startswith('  the red house\n> ')
  assert 'identical tokens: 1 of 1' in re.sub(' +', ' ', captured.out)
  assert 'batch size 1' in captured.err


def test_does_what_the_config_says(models, capsys):
  flags = ('--config.dtype=float32', '--config.temperature=0.8')
  assert call('--demo=the cat', *flags) == 0
  captured = capsys.readouterr()
  assert ', float32, batch' in captured.err
  assert 'tokens/s (float32)' in captured.out
  # Sampled tokens are comparable too: the same noise decides them.
  assert 'identical tokens: 1 of 1' in re.sub(' +', ' ', captured.out)


@pytest.mark.parametrize(
  ('argv', 'status', 'words'),
  [
    (('--demo', '--input=x'), 2, 'leave --input out'),
    (('--demo', '--resume'), 2, 'leave --resume out'),
    (('--demo', '--config.batch_size=3'), 1, 'leave batch_size at 1'),
    (('--demo= ',), 1, 'There is nothing to translate'),
    (('--demo', '--config.max_new_tokens=0'), 1, 'nothing to translate'),
    (('--demo=' + 'the cat ' * 60,), 1, 'shorten it'),
  ],
)
def test_refuses_in_one_line(models, capsys, argv, status, words):
  assert call(*argv) == status
  error = capsys.readouterr().err.strip()
  assert words in error and '\n' not in error


def test_says_when_the_models_are_missing(models, monkeypatch, capsys):
  monkeypatch.setattr(demo, 'TARGET', demo.ASSETS / 'nowhere')
  assert call('--demo') == 1
  assert 'No target is bundled' in capsys.readouterr().err
