"""The decode command interrupted, resumed, and beside another run."""

import json
import os
import pathlib
import signal

import pytest

import specjax
from specjax import text as text_lib
from specjax.decoding import corpus as corpus_lib
from specjax.inference import generate as inference
from tests.helpers.decode_main import decode
from tests.helpers.decode_main import LINES
from tests.helpers.decode_main import QUICK

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')


def test_resume_continues_whole_lines(folders, source, tmp_path, capsys):
  more = ('--config.num_return_sequences=2', '--config.temperature=1', *QUICK)
  for name in ('whole.txt', 'whole.jsonl'):
    whole = tmp_path / name
    assert decode(folders, source, f'--output={whole}', *more) == 0
    data = whole.read_bytes()
    assert data.count(b'\n') == 10
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord('\n')]
    for cut in (0, ends[0], ends[1] - 1, ends[4] + 1, ends[-1]):
      part = tmp_path / f'part{cut}{whole.suffix}'
      part.write_bytes(data[:cut])
      assert decode(folders, source, f'--output={part}', '--resume', *more) == 0
      assert part.read_bytes() == data
  capsys.readouterr()
  (tmp_path / 'other.txt').write_text('something else\n')
  status = decode(
    folders, tmp_path / 'other.txt', f'--output={whole}', '--resume', *more
  )
  assert status == 1
  assert 'cannot be resumed' in capsys.readouterr().err
  assert whole.read_bytes() == data


def _answers(path):
  kept = 'tokens', 'text', 'finish_reason'
  rows = map(json.loads, path.read_text().splitlines())
  return [[row[name] for name in kept] for row in rows]


@pytest.mark.parametrize(
  'drafter, flags, copies',
  [
    ('suffix', ('verifier=sampling',), True),
    # Rows learn from the row beside them, and so tokens depend on it.
    (
      'token_recycling',
      ('verifier=lenient', 'verifiers.lenient.lenience=0.05'),
      False,
    ),
  ],
)
def test_resumed_answers_are_those_of_an_uninterrupted_run(
  folders, tmp_path, drafter, flags, copies
):
  """Also cut inside a batch, and beside a corpus that holds them all."""
  source = tmp_path / 'in.txt'
  source.write_text('\n'.join([*LINES, *LINES, 'the the the the']) + '\n')
  flags = [f'--config.{flag}' for flag in (*flags, 'temperature=1')]
  flags += [f'--drafter={drafter}']
  flags += [f'--corpus={tmp_path / "answers.corpus"}'] * copies
  whole, part = tmp_path / 'whole.jsonl', tmp_path / 'part.jsonl'
  assert decode(folders, source, f'--output={whole}', *flags, *QUICK) == 0
  lines = whole.read_bytes().splitlines(keepends=True)
  for cut in (1, 3, 4, 8, 10):
    part.write_bytes(b''.join(lines[:cut]))
    resumed = decode(
      folders, source, f'--output={part}', '--resume', *flags, *QUICK
    )
    assert resumed == 0 and _answers(part) == _answers(whole), cut


@pytest.mark.parametrize('name', ['out.txt', 'out.jsonl'])
def test_an_interrupt_leaves_whole_lines(
  folders, source, tmp_path, capsys, monkeypatch, name
):
  path = tmp_path / name
  source = str(tmp_path / 'long.txt')
  pathlib.Path(source).write_text('\n'.join(LINES * 4) + '\n')
  real = inference.stream

  def interrupted(job, progress):
    for batch in real(job, progress):
      yield batch
      if batch.answers:
        os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(inference, 'stream', interrupted)
  corpus = tmp_path / 'answers.corpus'
  status = decode(
    folders,
    source,
    f'--output={path}',
    '--drafter=suffix',
    f'--corpus={corpus}',
    *QUICK,
  )
  assert status == 128 + signal.SIGTERM
  assert '--resume continues it' in capsys.readouterr().err
  data = path.read_bytes()
  assert data.endswith(b'\n') and 1 <= data.count(b'\n') < 20
  tokenizer = specjax.load(folders['target']).tokenizer
  kept = corpus_lib.load(corpus, 1000, text_lib.fingerprint(tokenizer))
  assert len(corpus_lib.sequences(kept)) == data.count(b'\n')
  monkeypatch.setattr(inference, 'stream', real)
  assert decode(folders, source, f'--output={path}', '--resume', *QUICK) == 0
  assert path.read_bytes().startswith(data)
  assert path.read_bytes().count(b'\n') == 20


def test_runs_that_overlap_share_a_corpus(
  folders, source, tmp_path, monkeypatch
):
  corpus = tmp_path / 'answers.corpus'
  theirs = [5, 6, 7]
  tokenizer = specjax.load(folders['target']).tokenizer
  real = inference.stream

  def another_ends(job, progress):
    empty = corpus_lib.empty(1000, text_lib.fingerprint(tokenizer))
    corpus_lib.save(corpus_lib.add(empty, [theirs]), corpus)
    yield from real(job, progress)

  monkeypatch.setattr(inference, 'stream', another_ends)
  flags = ('--drafter=suffix', f'--corpus={corpus}', *QUICK)
  assert decode(folders, source, *flags) == 0
  kept = corpus_lib.load(corpus, 1000, text_lib.fingerprint(tokenizer))
  kept = corpus_lib.sequences(kept)
  assert kept[0].tolist() == theirs and len(kept) == len(LINES) + 1
