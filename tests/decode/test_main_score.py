"""`decode.main --score`: completions in, log probabilities out."""

import json

import pytest

import specjax
from specjax.commands import score_file
from specjax.distributed import watch
from specjax.inference.config import DecodeConfig
from tests.helpers.decode_main import call
from tests.helpers.decode_main import QUICK
from tests.helpers.decode_main import SHAPE

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')

ROWS = (
  {'prompt': 'the cat', 'completion': ' sat on', 'id': 'a'},
  {'prompt': 'a dog', 'completion': [5, 6, 2]},
  {'prompt': [4, 5], 'completion': 'red house'},
)


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def score(folder, source, *argv):
  return call(f'--target={folder}', f'--input={source}', '--score', *argv)


@pytest.mark.parametrize('kind', ['target', 't5'])
def test_lines_have_the_scores_of_python(kind, folders, tmp_path, capsys):
  source = write(tmp_path / 'pairs.jsonl', ROWS)
  out, stats = tmp_path / 'out.jsonl', tmp_path / 'stats.json'
  argv = (f'--output={out}', f'--stats={stats}', '--config.logprobs=1')
  assert score(folders[kind], source, *argv) == 0, capsys.readouterr().err
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  scores = specjax.score(specjax.load(folders[kind]), ROWS, logprobs=1)
  assert lines[0]['id'] == 'a' and 'id' not in lines[1]
  for line, wanted in zip(lines, scores, strict=True):
    assert line['tokens'] == list(wanted.tokens)
    assert line['num_tokens'] == len(line['tokens'])
    assert line['completion'] == wanted.completion
    assert line['logprob'] == pytest.approx(wanted.logprob, abs=1e-5)
    assert [one['id'] for one in line['logprobs']] == line['tokens']
    assert len(line['logprobs'][0]['top']) == 1
  found = json.loads(stats.read_text())
  assert found['num_pairs'] == 3 and found['digests']['target']
  total = sum(line['logprob'] for line in lines)
  assert found['logprob'] == pytest.approx(total)
  assert '3 completions of' in capsys.readouterr().err


@pytest.mark.parametrize(
  'row, words',
  [
    ({'prompt': 'a'}, 'line 2 has no "completion"'),
    ({'prompt': 'a', 'completion': ''}, 'line 2: "completion" is empty'),
    ({'prompt': 'a', 'completion': [5] * 200}, 'line 2 has'),
    ({'prompt': 'a', 'completion': 5}, 'line 2: "completion" must be'),
    ({'prompt': 'a', 'completon': 'b'}, "key 'completon'; give completion"),
    ({'completion': 'a'}, 'line 2 has no "prompt"'),
  ],
)
def test_a_bad_line_is_named(row, words, folders, tmp_path, capsys):
  source = write(tmp_path / 'pairs.jsonl', [ROWS[0], row])
  out = tmp_path / 'out.jsonl'
  assert score(folders['target'], source, f'--output={out}') == 1
  told = capsys.readouterr().err.strip().splitlines()[-1]
  assert told.startswith('error: ') and words in told, told
  assert not out.exists()


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--drafter=suffix', 'leave --drafter out'),
    ('--resume', 'leave --resume out'),
    ('--corpus=x', 'leave --corpus out'),
    ('--config.temperature=1', 'so temperature changes nothing'),
    ('--config.num_beams=2', 'so num_beams changes nothing'),
  ],
)
def test_options_without_a_meaning_are_refused(
  flag, words, folders, tmp_path, capsys
):
  source = write(tmp_path / 'pairs.jsonl', ROWS[:1])
  assert score(folders['target'], source, flag) in (1, 2)
  assert words in capsys.readouterr().err


def test_processes_cannot_share_standard_input(folders, monkeypatch):
  request = score_file.ScoreRequest(
    folders['target'], ('-',), '-', '', DecodeConfig()
  )
  monkeypatch.setattr(watch, 'is_alone', lambda: False)
  with pytest.raises(ValueError, match='cannot share standard input'):
    score_file.score_file(request)


@pytest.mark.parametrize('kind', ['target', 't5'])
def test_an_answer_has_the_score_that_it_was_written_with(
  kind, folders, source, tmp_path
):
  answers, scores = tmp_path / 'answers.jsonl', tmp_path / 'scores.jsonl'
  flags = ('--config.logprobs=2', '--config.temperature=0.8', *QUICK, *SHAPE)
  status = call(
    f'--target={folders[kind]}',
    f'--input={source}',
    f'--output={answers}',
    '--drafter=prompt_lookup',
    *flags,
  )
  assert status == 0
  rows = [json.loads(line) for line in answers.read_text().splitlines()]
  rows = [row for row in rows if row['tokens']]
  pairs = [{'prompt': r['prompt'], 'completion': r['tokens']} for r in rows]
  given = write(tmp_path / 'pairs.jsonl', pairs)
  flags = (f'--output={scores}', '--config.logprobs=2')
  assert score(folders[kind], given, *flags) == 0
  found = [json.loads(line) for line in scores.read_text().splitlines()]
  assert len(found) == len(rows) >= 4
  for row, one in zip(rows, found, strict=True):
    assert one['tokens'] == row['tokens']
    for ours, theirs in zip(one['logprobs'], row['logprobs'], strict=True):
      assert ours['id'] == theirs['id'] and ours['token'] == theirs['token']
      assert ours['logprob'] == pytest.approx(theirs['logprob'], abs=1e-4)
      best = [[x['id'] for x in side['top']] for side in (ours, theirs)]
      assert best[0] == best[1]
