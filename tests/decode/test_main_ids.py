"""`decode.main` with token ids, of models with a tokenizer and without."""

import json
import pathlib
import shutil

import pytest

import specjax
from tests.helpers.decode_main import call
from tests.helpers.decode_main import QUICK
from tests.helpers.decode_main import SHAPE

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')

ROWS = ([5, 6, 7], [8], [9, 10])


@pytest.fixture(scope='module', name='bare')
def bare_fixture(folders, tmp_path_factory):
  """The target's folder without its tokenizer."""
  folder = tmp_path_factory.mktemp('bare') / 'target'
  shutil.copytree(folders['target'], folder)
  for path in folder.glob('tokenizer*'):
    path.unlink()
  return folder


def write(path: pathlib.Path, lines):
  path.write_text(''.join(line + '\n' for line in lines))
  return f'--input={path}'


def test_ids_go_in_and_come_out(bare, folders, tmp_path, capsys):
  text = write(tmp_path / 'a.txt', [' '.join(map(str, row)) for row in ROWS])
  assert call(f'--target={bare}', text, *SHAPE, *QUICK) == 0
  out = capsys.readouterr().out.splitlines()
  answers = specjax.generate(
    specjax.load(str(bare)), list(map(list, ROWS)), max_new_tokens=12
  )
  assert out == [' '.join(map(str, a.tokens)) for a in answers]
  assert all(out)
  # The same ids as JSON lines, to a target with a tokenizer.
  lines = [json.dumps({'tokens': row}) for row in ROWS]
  source = write(tmp_path / 'a.jsonl', lines)
  for target, made in ((bare, 'b.jsonl'), (folders['target'], 'c.jsonl')):
    output = f'--output={tmp_path / made}'
    assert call(f'--target={target}', source, output, *SHAPE, *QUICK) == 0
    rows = (tmp_path / made).read_text().splitlines()
    found = [json.loads(row) for row in rows]
    assert [row['tokens'] for row in found] == [list(a.tokens) for a in answers]
  assert found[0]['prompt'] and found[0]['prompt'] != '5 6 7'


def test_text_of_ids_goes_on_however_it_is_spelled(bare, tmp_path):
  source = write(tmp_path / 'a.txt', ['5  6 7', '08', ' 9 10 '])
  output = tmp_path / 'a.jsonl'
  argv = (f'--target={bare}', source, f'--output={output}', *SHAPE, *QUICK)
  assert call(*argv) == 0
  whole = output.read_bytes()
  rows = [json.loads(line) for line in whole.splitlines()]
  assert [row['prompt'] for row in rows] == ['5  6 7', '08', ' 9 10 ']
  output.write_bytes(b''.join(whole.splitlines(keepends=True)[:2]))
  assert call(*argv, '--resume') == 0
  assert output.read_bytes() == whole


@pytest.mark.parametrize(
  'line, flag, words',
  [
    ('5 cat', '', 'line 1: the target has no tokenizer, so text must be token'),
    ('5 -6', '', "and '-6' is none"),
    ('5 96', '', 'line 1 holds the token id 96'),
    ('5 6', '--config.prefix=x', 'leave chat and prefix out'),
    ('5 6', '--config.stop=x', 'Stop strings need a tokenizer'),
  ],
)
def test_what_is_no_id_is_refused(line, flag, words, bare, tmp_path, capsys):
  source = write(tmp_path / 'a.txt', [line])
  flags = [flag] if flag else []
  assert call(f'--target={bare}', source, *SHAPE, *flags) == 1
  told = capsys.readouterr().err.strip().splitlines()[-1]
  assert words in told, told


@pytest.mark.parametrize(
  'row, words',
  [
    ('{"tokens": "5 6"}', 'line 1: "tokens" must be a list of token ids'),
    ('{"tokens": [5, true]}', '"tokens" must be a list of token ids'),
    ('{"tokens": [5], "prompt": "a"}', 'has "prompt" and "tokens"; give one'),
  ],
)
def test_bad_rows_are_refused(row, words, bare, tmp_path, capsys):
  source = write(tmp_path / 'a.jsonl', [row])
  assert call(f'--target={bare}', source, *SHAPE) == 1
  assert words in capsys.readouterr().err
