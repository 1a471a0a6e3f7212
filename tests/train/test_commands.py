"""The commands of training: usage, one-line errors, a tokenizer's promises."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import transformers

from specjax.commands import cli
from specjax.commands import label as label_lib
from specjax.commands import tokenizer as tokenizer_lib
from tests.helpers import tiny
from tests.helpers import toy
from train import label
from train import main
from train import tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = ['Der Hund schläft.', 'The dog sleeps.', '„Ja“, sagte er.', "I don't."]


@pytest.mark.parametrize('kind', ['unigram', 'bpe'])
def test_tokenizer_folder(tmp_path, kind):
  lines = WORDS * 50 + [' '.join(p) for p in toy.pairs(50)]
  made = tokenizer_lib.train_tokenizer(lines, 330, kind=kind)
  tokenizer_lib.save(made, str(tmp_path))
  loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (
    0,
    1,
    2,
  )
  for text in WORDS + ['Ünknown 猫 \t bytes\n', 'a']:
    ids = loaded(text).input_ids
    assert ids[-1] == 1 and 2 not in ids
    assert loaded.decode(ids, skip_special_tokens=True) == text
  # Sentences can be joined token by token.
  a, b = (loaded(text).input_ids for text in WORDS[:2])
  assert loaded(' '.join(WORDS[:2])).input_ids == a[:-1] + b


def test_tokenizer_without_end(tmp_path):
  made = tokenizer_lib.train_tokenizer(WORDS * 9, 330, 'bpe', append_eos=False)
  assert made.encode(WORDS[0]).ids[-1] != 1


@pytest.mark.parametrize(
  'size, kind, words',
  [
    (100, 'bpe', 'at least 320'),
    (400, 'words', "'unigram' or 'bpe'"),
  ],
)
def test_tokenizer_bad_arguments(size, kind, words):
  with pytest.raises(ValueError, match=words):
    tokenizer_lib.train_tokenizer(WORDS, size, kind=kind)


def test_a_tokenizer_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  made = tokenizer_lib.train_tokenizer(WORDS, 330)

  def full(*args):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  with pytest.raises(OSError, match='tokenizer.json: No space left on device'):
    tokenizer_lib.save(made, str(tmp_path))
  assert not list(tmp_path.iterdir())


def status(module, *arguments):
  """Exit status of a command in this process."""
  with pytest.raises(SystemExit) as ended:
    sys.argv = [module.__name__, *arguments]
    module.run()
  return ended.value.code


@pytest.fixture(name='blank')
def blank_fixture(tmp_path_factory):
  path = tmp_path_factory.mktemp('data') / 'blank.txt'
  path.write_text('\n  \n')
  return str(path)


@pytest.mark.parametrize(
  'module, arguments, code, words',
  [
    (main, [], 2, '--workdir=DIR is needed'),
    (main, ['--workdir=x', '--config=nowhere.py'], 2, 'nowhere.py'),
    (main, ['--workdir=x', '--config.optimizer.rate=1'], 2, 'optimizer.rate'),
    (main, ['--workdir=x', '--config.objective.name=kld'], 2, 'Unknown objec'),
    (main, ['--workdir=x', '--config.data.source_length=0'], 2, 'at least 1'),
    (
      main,
      ['--workdir=x', '--config.tokenizer=none'],
      1,
      'No tokenizer in none',
    ),
    (label, [], 2, '--target is needed'),
    (label, ['--target=x', '--input=y', '--output=z'], 1, '.jsonl'),
    (label, ['--target=x', '--input=y', '--output=z.jsonl'], 1, 'y does not'),
    (tokenizer, [], 2, '--input=FILE and --output=DIR'),
    (
      tokenizer,
      ['--input=nowhere.txt', '--output=o'],
      1,
      'nowhere.txt does not',
    ),
    (tokenizer, ['--input=a', '--output=o', 'b'], 2, 'b'),
    (tokenizer, ['--input={blank}', '--output=o'], 1, 'No text in'),
    (tokenizer, ['--input={blank}', '--output={blank}'], 1, 'no folder'),
    (main, ['--workdir={blank}'], 1, 'is a file'),
    (main, ['--workdir=x', '--config.seed=-1'], 2, 'seed must lie between 0'),
    (
      main,
      ['--workdir=x', '--config.teacher=y'],
      2,
      "teacher='y' is for drafters",
    ),
  ],
)
def test_one_line_for_each_mistake(
  module, arguments, code, words, *, capsys, monkeypatch, tmp_path, blank
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'argv', list(sys.argv))
  arguments = [argument.replace('{blank}', blank) for argument in arguments]
  assert status(module, *arguments) == code
  captured = capsys.readouterr()
  assert captured.out == ''
  assert captured.err.startswith('error:') and words in captured.err
  assert captured.err.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_an_interrupted_labelling_says_how_it_goes_on(
  capsys, monkeypatch, tmp_path
):
  def interrupted(request, progress):
    progress(3, 9)
    time.sleep(0.2)
    progress(4, 9)
    raise KeyboardInterrupt

  monkeypatch.setattr(label_lib, 'label', interrupted)
  argv = ['label', '--target=x', '--input=y', f'--output={tmp_path}/z.jsonl']
  assert cli.call(label.main, argv) == 128 + signal.SIGINT
  told = capsys.readouterr().err.splitlines()
  assert told[-1] == (
    'error: interrupted after 4 answers; the same command continues.'
  )


def test_labels_keep_to_lists_of_tokens(tmp_path):
  tiny.save(tmp_path / 'target')
  (tmp_path / 'inputs.txt').write_text('the cat\na dog ran\n')

  def labelled(name, *settings):
    output = tmp_path / f'{name}.jsonl'
    argv = [
      'label',
      f'--target={tmp_path}/target',
      f'--input={tmp_path}/inputs.txt',
      f'--output={output}',
      '--config.max_new_tokens=6',
      *settings,
    ]
    assert not cli.call(label.main, argv)
    lines = map(json.loads, output.read_text().splitlines())
    return [line['tokens'] for line in lines if 'tokens' in line]

  free = labelled('free', '--config.ignore_eos')
  assert [len(tokens) for tokens in free] == [6, 6]
  used = sorted({token for tokens in free for token in tokens})
  kept = labelled('kept', f'--config.suppress_tokens={used}')
  assert not {token for tokens in kept for token in tokens} & set(used)


def test_help_from_a_bare_checkout():
  for command in ('main', 'label', 'tokenizer'):
    done = subprocess.run(
      [sys.executable, '-m', f'train.{command}', '--help'],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0 and 'python -m train' in done.stdout
