"""Mistyped options are answered with the right ones, and exit status 2."""

import pytest

from decode import main as decode
from specjax.commands import cli
from specjax.commands import suggestions
from train import convert
from train import main as train

KNOWN = [
  '--target',
  '--output',
  '--config.num_draft',
  '--config.batch_size',
  '--config.top_k',
  '--config.top_p',
  '--config.drafters.suffix.tree',
  '--config.drafters.speculator.tree',
  '--config.drafters.prompt_lookup.max_ngram',
]


@pytest.mark.parametrize(
  'given, wanted',
  [
    ('--targt', ['--target']),
    ('--config.num_drafts', ['--config.num_draft']),
    ('--num-draft', ['--config.num_draft']),
    ('--batch', ['--config.batch_size']),
    ('--config.top', ['--config.top_k', '--config.top_p']),
    ('--config.max_ngram', ['--config.drafters.prompt_lookup.max_ngram']),
    (
      '--config.drafters.sufix.tree',
      ['--config.drafters.suffix.tree', '--config.drafters.speculator.tree'],
    ),
    ('--frobnicate', []),
    ('--t', []),
  ],
)
def test_nearest(given, wanted):
  assert suggestions.nearest(given, KNOWN) == wanted


@pytest.mark.parametrize(
  'main, option, words',
  [
    (decode, '--temperature=0.5', 'mean --config.temperature?'),
    (decode, '--config.temprature=1', 'mean --config.temperature?'),
    (decode, '--config.max_tokens=1', 'mean --config.max_new_tokens?'),
    (decode, '--config.stop_ids=[2]', 'mean --config.stop_token_ids?'),
    (decode, '--tree=2', 'mean --config.drafters.suffix.tree or'),
    (decode, '--outptu=x', 'mean --output?'),
    (decode, '--nochatt', '--config.chat'),
    (decode, '--config.mesh.shap=1', 'mean --config.mesh.shape?'),
    (decode, '--config.chat.x=1', 'Unknown option --config.chat.x'),
    (decode, '--confg=x.py', 'mean --config?'),
    (decode, '--frobnicate', 'Unknown option --frobnicate. --help lists'),
    (decode, '--config=configs/decod.py', 'mean configs/decode.py?'),
    (train, '--config.learning_rate=1', '--config.optimizer.learning_rate?'),
    (train, '--batch_rows=1', 'mean --config.data.batch_rows?'),
    (train, '--config.families.speculator.mask=1', 'speculator.masks or'),
    (convert, '--ouput=x', 'mean --output?'),
  ],
)
def test_commands_name_the_right_option(
  main, option, words, monkeypatch, capsys
):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  assert cli.call(main.main, ['command', option]) == 2
  shown = capsys.readouterr()
  assert words in shown.err and shown.err.count('\n') == 1, shown.err
  assert not shown.out
