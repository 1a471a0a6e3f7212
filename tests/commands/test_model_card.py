"""The card of an exported model describes that model and that run."""

import copy
import json
import pathlib
import re

import jax
import pytest

import specjax
from specjax.commands import config_files
from specjax.commands import train_run
from specjax.training import build
from specjax.training import config as config_lib
from specjax.training import loop
from specjax.training import metrics as metrics_lib
from tests.helpers import source_code
from tests.helpers import toy

SHIPPED = source_code.ROOT / 'configs'


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder)
  return folder


def quiet(line):
  del line


def card(folder) -> str:
  return (pathlib.Path(folder) / 'export' / 'README.md').read_text()


def table(text: str) -> dict[str, str]:
  """Rows of all tables of a card."""
  return dict(re.findall(r'^\| (.+) \| (.+) \|$', text, re.M))


def measured(config, folder) -> str:
  """The held-out loss of an export, as a card shows it."""
  parts = build.build(config)
  params = specjax.load(folder / 'export', dtype='float32', prepare=False)
  params = jax.tree.map(jax.numpy.asarray, params.params)
  return metrics_lib.shown(loop.look(parts, params)['loss'])


def at_steps(folder) -> dict[int, str]:
  """The held-out losses of the evaluations during training, by step."""
  return {
    row['step']: metrics_lib.shown(row['loss'])
    for row in metrics_lib.read(str(folder))
    if row['kind'] == 'eval'
  }


@pytest.fixture(scope='module', name='whole')
def whole_fixture(files, tmp_path_factory):
  """A run of 12 steps, exported as its last weights."""
  folder = tmp_path_factory.mktemp('runs') / 'whole'
  config = toy.config(files, eval_every=4, steps=12)
  train_run.run(config, str(folder), log_fn=quiet)
  return config, folder


def test_what_is_measured_at_the_end_is_stated(whole):
  config, folder = whole
  rows = table(card(folder))
  assert rows['loss'] == at_steps(folder)[12] == measured(config, folder)
  assert 'Measured on `valid.tsv`' in card(folder)
  assert 'mean of the checkpoints' not in card(folder)


def test_an_earlier_checkpoint_has_metrics_of_its_own(whole):
  """The last line of metrics.jsonl is of step 12, the weights of step 8."""
  config, folder = whole
  train_run.run(
    config, str(folder), export_only=True, resume_from=8, log_fn=quiet
  )
  rows, seen = table(card(folder)), at_steps(folder)
  assert rows['loss'] == seen[8] == measured(config, folder) != seen[12]
  assert '8 of 12 steps of 8 rows' in card(folder)
  # Averages end there, too.
  config = copy.deepcopy(config)
  config.average_last = 2
  train_run.run(
    config, str(folder), export_only=True, resume_from=8, log_fn=quiet
  )
  mean = '\nExported is the mean of the checkpoints of steps 4, 8.\n'
  assert mean in card(folder)
  rows = table(card(folder))
  assert rows['loss'] == measured(config, folder) not in seen.values()


def test_averaged_weights_are_measured_themselves(files, tmp_path):
  config = toy.config(files, eval_every=4, average_last=3, steps=12)
  train_run.run(config, str(tmp_path), log_fn=quiet)
  rows = table(card(tmp_path))
  assert rows['loss'] == measured(config, tmp_path)
  assert rows['loss'] not in at_steps(tmp_path).values()
  assert 'checkpoints of steps 4, 8, 12.' in card(tmp_path)


def test_what_was_not_measured_is_not_stated(whole):
  """A run that is no longer evaluated has no metrics of its past."""
  config, folder = whole
  assert 'loss' in table(card(folder))
  config = copy.deepcopy(config)
  config.eval_batches = 0
  train_run.run(config, str(folder), export_only=True, log_fn=quiet)
  assert 'Not measured.' in card(folder)
  assert 'loss' not in table(card(folder))


def test_sizes_are_those_of_the_weights(whole, files, tmp_path):
  """With --init_from they are not those of config.model."""
  config = toy.config(
    files,
    init_from=str(whole[1] / 'export'),
    tokenizer='',
    model__width=640,
    model__layers=7,
    model__mlp=99,
    optimizer__ema=0.5,
    steps=2,
    data__max_examples=40,
  )
  train_run.run(config, str(tmp_path), log_fn=quiet)
  text, rows = card(tmp_path), table(card(tmp_path))
  stored = json.loads((tmp_path / 'export' / 'config.json').read_text())
  for name, field in {
    'layers': 'num_decoder_layers',
    'encoder layers': 'num_layers',
    'width': 'd_model',
    'attention heads': 'num_heads',
    'width of an attention head': 'd_kv',
    'width of the feed-forward layer': 'd_ff',
    'vocabulary': 'vocab_size',
  }.items():
    assert rows[name] == str(stored[field]), name
  assert rows['width'] == '32' and rows['layers'] == '1'
  loaded = specjax.load(tmp_path / 'export', prepare=False)
  millions = build.num_parameters(loaded.params) / 1e6
  assert f'of {millions:.2f} million parameters' in text
  assert '40 examples of `train.tsv`' in text
  assert '2 steps of 8 rows' in text
  assert 'began with the weights of `export`' in text
  assert 'moving average over the steps (optimizer.ema=0.5)' in text


def test_shipped_settings_state_nothing_of_their_data():
  """A licence, an origin or languages would be those of somebody's files."""
  names = [
    one.name
    for one in config_files.shipped_for(config_lib.TrainConfig, SHIPPED)
  ]
  assert len(names) > 20
  for name in names:
    config = config_files.load(name, SHIPPED)
    assert (config.licence, config.data_note) == ('', ''), name
    assert not re.search('English|German|demo|mask', config.name), name
