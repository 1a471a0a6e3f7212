"""`FILE.py:NAME` for drafters and rules, in every command."""

import json
import os
import subprocess
import sys

import pytest

from decode import benchmark
from decode import certify
from decode import main
import specjax
from specjax import user_files
from specjax.certify import controls
from specjax.commands import cli
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.verifiers import registry as verifier_registry
from tests.helpers import tiny
from tests.helpers import user_files as mine
from train import label

LINES = ['the cat', 'a dog ran to the', 'one two three', 'the red house', 'the']
SHAPE = ('--config.max_new_tokens=10', '--config.batch_size=2')
QUICK = ('--baseline=none', '--config.explain=false')


@pytest.fixture(scope='module')
def target(tmp_path_factory):
  return tiny.save(tmp_path_factory.mktemp('model') / 'target')


@pytest.fixture
def source(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('\n'.join(LINES) + '\n')
  return str(path)


@pytest.fixture
def given(target, source):
  """The options that select what is decoded."""
  return [f'--target={target}', f'--input={source}']


@pytest.fixture
def file(tmp_path):
  return mine.write(tmp_path)


@pytest.fixture(autouse=True)
def apart(monkeypatch):
  """Entries that a test registers are gone after it."""
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  for registry in (drafter_registry, verifier_registry):
    monkeypatch.setattr(registry, '_entries', dict(registry._entries))


def decode(target, source, *argv):
  given = ('decode.main', f'--target={target}', f'--input={source}')
  return cli.call(main.main, [*given, *SHAPE, *QUICK, *argv])


def answers(target, source, tmp_path, *argv):
  out = tmp_path / 'out.jsonl'
  assert decode(target, source, f'--output={out}', *argv) == 0
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  out.unlink()
  return [row['tokens'] for row in rows], sum(r['num_drafted'] for r in rows)


def test_decode_main(target, source, file, tmp_path, capsys):
  hot = ('--config.temperature=0.8', '--config.ignore_eos=true')
  plain, drafted = answers(target, source, tmp_path, *hot)
  assert drafted == 0
  for argv in (
    (f'--drafter={file}:DRAFTER',),
    (f'--drafter={file}:ENTRY', '--config.drafters.mine.token=7'),
    (f'--drafter={file}:LAW', f'--config.verifier={file}:RULE'),
    ('--drafter=prompt_lookup', f'--config.verifier={file}:LUCKY_ENTRY'),
  ):
    found, drafted = answers(target, source, tmp_path, *hot, *argv)
    assert found == plain
    assert drafted > 0
  shown = capsys.readouterr().err
  assert f'drafter {file}:ENTRY, 4 draft slots, verifier match' in shown
  assert 'Note: the verifier agree is lossy' in shown
  assert 'the verifier lucky' not in shown
  luck = '--config.verifiers.lucky.luck=1'
  found, _ = answers(target, source, tmp_path, *hot, *argv, luck)
  assert found != plain
  assert 'Note: the verifier lucky is lossy' in capsys.readouterr().err


def test_decode_main_resumes(target, source, file, tmp_path):
  out = tmp_path / 'out.txt'
  argv = (f'--drafter={file}:DRAFTER', f'--output={out}')
  assert decode(target, source, *argv) == 0
  whole = out.read_bytes()
  lines = whole.splitlines(True)
  out.write_bytes(b''.join(lines[:2]) + lines[2][:1])
  assert decode(target, source, *argv, '--resume') == 0
  assert out.read_bytes() == whole


def test_decode_main_with_a_corpus_and_several_answers(
  target, source, file, tmp_path
):
  argv = (f'--config.verifier={file}:RULE', '--config.temperature=1')
  argv += ('--config.num_return_sequences=2',)
  plain, _ = answers(target, source, tmp_path, *argv)
  corpus = tmp_path / 'answers.corpus'
  suffix = ('--drafter=suffix', f'--corpus={corpus}')
  suffix += ('--config.drafters.suffix.min_expected_accepted=0',)
  for _ in range(2):
    found, drafted = answers(target, source, tmp_path, *argv, *suffix)
    assert found == plain
  assert drafted > 0 and corpus.exists()


def test_decode_benchmark(target, source, file, tmp_path, capsys):
  argv = ['decode.benchmark', f'--target={target}', f'--input={source}']
  argv += ['--config.num_prompts=2', '--config.max_new_tokens=24']
  argv += ['--config.repetitions=1', f'--drafter={file}:DRAFTER,{file}:ENTRY']
  argv += [f'--config.verifier={file}:RULE,{file}:LUCKY_ENTRY']
  argv += ['--config.temperature=0.8', f'--output={tmp_path / "report"}']
  assert cli.call(benchmark.main, argv) == 0
  rows = json.loads((tmp_path / 'report' / 'results.json').read_text())
  found = [(row['drafter'], row['verifier'], row['check']) for row in rows[1:]]
  assert found == [
    (f'{file}:{name}', rule, check)
    for name in ('DRAFTER', 'ENTRY')
    for rule, check in (('agree', 'lossy'), ('lucky', 'ok'))
  ]
  captured = capsys.readouterr()
  assert 'ENTRY' in captured.out


def _certify(target, source, *argv):
  given = ['decode.certify', f'--target={target}', f'--input={source}']
  given += ['--config.num_draft=2', '--config.samples=2000']
  given += ['--config.max_new_tokens=8', '--config.law_prompts=1']
  given += ['--config.symbols=3']
  return cli.call(certify.main, [*given, *argv], failure=certify.BAD_INPUT)


def test_decode_certify(target, source, file, monkeypatch, capsys):
  monkeypatch.setattr(controls, 'NAMES', ('accept_all', 'second_best'))
  lucky = f'--config.verifier={file}:LUCKY_ENTRY'
  assert _certify(target, source, f'--drafter={file}:ENTRY', lucky) == 0
  assert capsys.readouterr().out.splitlines()[-1] == 'LOSSLESS'
  argv = (f'--drafter={file}:LAW', lucky, '--config.verifiers.lucky.luck=1')
  assert _certify(target, source, *argv) == 1
  assert 'NOT LOSSLESS' in capsys.readouterr().out.splitlines()[-1]


def test_train_label(target, source, file, tmp_path, capsys):
  out = tmp_path / 'own.jsonl'
  argv = ['train.label', f'--target={target}', f'--input={source}', *SHAPE]
  argv += [f'--output={out}', '--config.temperature=0.7']
  assert cli.call(label.main, argv) == 0
  plain = _answers(out)
  out.unlink()
  capsys.readouterr()
  argv += [f'--drafter={file}:DRAFTER', f'--config.verifier={file}:RULE']
  assert cli.call(label.main, argv) == 0
  assert _answers(out) == plain
  assert 'block efficiency' in capsys.readouterr().err


def _answers(path):
  """Tokens of the answers in a file of labels."""
  lines = path.read_text().splitlines()[1:]
  return [json.loads(line)['tokens'] for line in lines]


def test_a_process_of_its_own_and_a_path_with_spaces(target, tmp_path):
  folder = tmp_path / 'my own (new) files'
  file = mine.write(folder, 'my drafter.py')
  command = [sys.executable, '-m', 'decode.main', '--input=-', *SHAPE, *QUICK]
  command += [f'--target={target}', '--drafter', f'{file}:ENTRY']
  command += [f'--config.verifier={file}:LUCKY_ENTRY']
  command += ['--config.drafters.mine.token=7', '--config.temperature=0.8']
  done = subprocess.run(
    command,
    input=b'the cat\none\n',
    capture_output=True,
    env=os.environ | {'SPECJAX_CACHE_DIR': str(tmp_path / 'cache')},
    check=False,
  )
  assert done.returncode == 0, done.stderr
  plain = specjax.generate(
    specjax.load(target), ['the cat', 'one'], max_new_tokens=10, temperature=0.8
  )
  assert done.stdout.decode().splitlines() == [a.text for a in plain]


BAD = {
  'missing_file': ('none.py:DRAFTER', 'There is no file '),
  'missing_name': ('mine.py:DRAFTR', 'defines no DRAFTR; it defines '),
  'raises': ('raises.py:X', 'raises.py does not load: RuntimeError: not today'),
  'exits': ('exits.py:X', 'exits.py does not load: SystemExit: 3'),
  'syntax': ('syntax.py:X', 'syntax.py does not load: SyntaxError: '),
  'bytes': ('bytes.py:X', 'bytes.py does not load: '),
  'imports': ('imports.py:X', 'ModuleNotFoundError: No module named'),
  'number': ('mine.py:NUMBER', 'mine.py:NUMBER must be a '),
  'function': ('mine.py:agree', 'not function.'),
  'folder': ('folder.py:X', 'There is no file '),
  'other': ('mine.py:OTHER', 'OTHER must be a '),
}


@pytest.fixture
def bad_files(tmp_path):
  mine.write(tmp_path, text=mine.TEXT + '\nOTHER = specjax.load\n')
  mine.write(tmp_path, 'raises.py', "raise RuntimeError('not\\ntoday')\n")
  mine.write(tmp_path, 'exits.py', 'import sys\nsys.exit(3)\n')
  mine.write(tmp_path, 'syntax.py', 'X = = 3\n')
  (tmp_path / 'bytes.py').write_bytes(b'X = "\xff\x00"\n')
  mine.write(tmp_path, 'imports.py', 'import no_such_module_here\n')
  (tmp_path / 'folder.py').mkdir()


@pytest.mark.parametrize('name', BAD)
@pytest.mark.parametrize('flag', ['--drafter', '--config.verifier'])
def test_what_does_not_load_is_told_in_one_line(
  flag, name, bad_files, given, tmp_path, capsys
):
  reference, words = BAD[name]
  out = tmp_path / 'out.jsonl'
  given = [*given, f'--output={out}']
  given += [f'{flag}={tmp_path}/{reference}']
  if flag != '--drafter':
    given.append('--drafter=prompt_lookup')
  report = tmp_path / 'report'
  for command, failure, argv in (
    (main, 0, given),
    (label, 0, given),
    (benchmark, 0, [*given[:2], f'--output={report}', *given[3:]]),
    (certify, certify.BAD_INPUT, [*given[:2], *given[3:]]),
  ):
    argv = [command.__name__, *argv]
    status = cli.call(command.main, argv, failure=failure)
    captured = capsys.readouterr()
    lines = [
      line for line in captured.err.splitlines() if not line.startswith('load')
    ]
    assert status in (1, 2), command
    assert captured.out == ''
    assert len(lines) == 1 and lines[0].startswith('error: '), captured.err
    assert words in lines[0], captured.err
    assert not out.exists()
    assert not report.exists() or not os.listdir(report)


@pytest.fixture
def uncontrolled(monkeypatch):
  """Certificates without negative controls, which take long."""
  monkeypatch.setattr(controls, 'NAMES', ())


@pytest.mark.parametrize(
  'argv, words',
  [
    (
      ['--drafter=FILE:WIDE'],
      'Draft.tokens of Drafter.propose must be int32',
    ),
    (
      ['--drafter=FILE:HEAVY', '--config.verifier=sampling'],
      'log_probs of a filled slot that do not sum to one',
    ),
    (
      ['--drafter=FILE:ENTRY', '--config.verifier=FILE:GREEDY_FOR_MORE'],
      'accepted more tokens than there were filled slots',
    ),
  ],
)
@pytest.mark.usefixtures('uncontrolled')
def test_breaches_end_every_command(argv, words, given, file, tmp_path, capsys):
  argv = [arg.replace('FILE', file) for arg in argv]
  hot = '--config.temperature=0.8'
  out = tmp_path / 'out.jsonl'
  given = [*given, hot, *argv]
  bench = ['--config.num_prompts=2', '--config.repetitions=1']
  bench += ['--config.max_new_tokens=8', '--config.batch_size=2']
  for command, failure, more in (
    (main, 0, [*SHAPE, *QUICK, f'--output={out}']),
    (label, 0, [*SHAPE, f'--output={out}']),
    (benchmark, 0, bench),
    (certify, certify.BAD_INPUT, [*SHAPE, '--config.num_draft=3']),
  ):
    status = cli.call(
      command.main, [command.__name__, *given, *more], failure=failure
    )
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert status == (failure or 1), captured.err
    assert last.startswith('error: ') and words in last, last
    assert captured.out == ''
    assert not out.exists() or not out.read_bytes()


def test_references():
  """One value, or a list of them; nothing else on the command line."""
  find = user_files.references
  assert find('--drafter=a/b.py:X') == ['a/b.py:X']
  assert find('b.py:X') == ['b.py:X']
  assert find("--config.verifier=('auto', 'b.py:X','c.py:Y')") == [
    'b.py:X',
    'c.py:Y',
  ]
  assert find('--drafter=suffix,b.py:X') == ['b.py:X']
  assert find('--drafter=hybrid:a/b.py:X') == ['a/b.py:X']
  for other in ('--drafter=b.py', '--input=x.txt', '--drafter=b.py:X.Y', '--x'):
    assert find(other) == []


def test_files_of_one_name_and_data_classes(tmp_path):
  """Two folders' files are two modules; each is run once a process."""
  text = (
    'from __future__ import annotations\n'
    'import dataclasses\n'
    '@dataclasses.dataclass\n'
    'class A:\n'
    '  x: int = {0}\n'
    'X = A()\n'
  )
  one = mine.write(tmp_path / 'one', 'same.py', text.format(1))
  two = mine.write(tmp_path / 'two', 'same.py', text.format(2))
  assert user_files.load(f'{one}:X').x == 1
  assert user_files.load(f'{two}:X').x == 2
  assert user_files.load(f'{one}:X') is user_files.load(f'{one}:X')
  assert type(user_files.load(f'{one}:X')) is user_files.load(f'{one}:A')
