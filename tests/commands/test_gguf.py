"""A GGUF file wherever a command takes a model."""

import json

import pytest

from decode import benchmark
from decode import certify
from specjax import cache
from specjax.certify import controls
from specjax.commands import cli
from tests.helpers import decode_main
from tests.helpers import ggufs
from tests.helpers import tiny
from train import convert
from train import label
from train import main as train

TRAIN = {
  'steps': 2,
  'eval_every': 0,
  'eval_prompts': 2,
  'optimizer.warmup_steps': 1,
  'objective.name': 'cross_entropy',
  'data.train': '',
  'data.labelled_fraction': 1,
  'data.target_length': 32,
  'data.batch_rows': 4,
  'model.width': 16,
  'model.layers': 1,
  'model.heads': 2,
  'model.head_dim': 8,
  'model.mlp': 16,
}


def call(command, *argv, **settings):
  given = [f'--config.{key}={value}' for key, value in settings.items()]
  return cli.call(command.main, [command.__name__, *argv, *given])


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  where = tmp_path_factory.getbasetemp() / 'gguf-cache'
  monkeypatch.setenv(cache.VARIABLE, str(where))


@pytest.fixture(scope='module', name='folder')
def folder_fixture(tmp_path_factory):
  return tiny.save(tmp_path_factory.mktemp('gguf') / 'model')


@pytest.fixture(scope='module', name='target')
def target_fixture(folder, tmp_path_factory):
  return ggufs.by_us(folder, tmp_path_factory.mktemp('gguf') / 'a.gguf')


@pytest.fixture(name='prompts')
def prompts_fixture(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('the cat\na dog ran to the red\none two three\n')
  return str(path)


def test_there_and_back(folder, tmp_path, capsys):
  made = tmp_path / 'b.gguf'
  argv = f'--input={folder}', f'--output={made}', '--to=gguf'
  assert call(convert, *argv) == 0 and made.exists()
  assert 'tokenizer.huggingface.json' in capsys.readouterr().err
  back = tmp_path / 'back'
  assert call(convert, f'--input={made}', f'--output={back}') == 0
  assert (back / 'tokenizer.json').exists()


def test_labels_of_a_file_train_its_drafter(target, prompts, tmp_path, capsys):
  own, run, same = (tmp_path / name for name in ('own.jsonl', 'run', 'same'))
  assert call(convert, f'--input={target}', f'--output={same}') == 0
  for model in (target, same):  # One target: nothing is left for the second.
    argv = f'--target={model}', f'--input={prompts}', f'--output={own}'
    assert call(label, *argv, max_new_tokens=12, batch_size=4) == 0
  assert '0 answers written after 3' in capsys.readouterr().err
  argv = f'--workdir={run}', '--config=configs/text_drafter.py:quick'
  given = {'teacher': target, 'data.valid': prompts, 'data.labelled': own}
  assert call(train, *argv, **TRAIN, **given) == 0
  drafter = f'--drafter={run}/export'
  outputs = [tmp_path / 'plain.jsonl', tmp_path / 'drafted.jsonl']
  for path, argv in zip(outputs, ((), (drafter,)), strict=True):
    argv = (*decode_main.QUICK, f'--output={path}', *argv)
    assert decode_main.decode({'target': target}, prompts, *argv) == 0
  plain, drafted = (
    [json.loads(line)['tokens'] for line in path.read_text().splitlines()]
    for path in outputs
  )
  assert plain == drafted and all(plain)


def test_a_file_is_measured_and_certified(
  target, prompts, tmp_path, monkeypatch, capsys
):
  argv = f'--target={target}', '--drafter=unigram', f'--input={prompts}'
  few = {'max_new_tokens': 12, 'num_prompts': 2, 'repetitions': 1}
  report = f'--output={tmp_path / "report"}'
  assert call(benchmark, *argv, report, **few) == 0
  rows = json.loads((tmp_path / 'report' / 'results.json').read_text())
  assert [row['check'] for row in rows] == [None, 'ok']
  capsys.readouterr()
  monkeypatch.setattr(controls, 'NAMES', ('accept_all',))
  few = {'effort': 'quick', 'temperature': 0, 'max_new_tokens': 8}
  assert call(certify, *argv, **few) == 0
  assert capsys.readouterr().out.splitlines()[-1] == 'LOSSLESS'
