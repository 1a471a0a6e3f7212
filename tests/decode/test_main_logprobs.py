"""Options of `decode.main` on what an answer holds."""

import json

import pytest

from tests.helpers.decode_main import decode
from tests.helpers.decode_main import QUICK

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')


def test_lines_have_them_and_text_has_a_note(folders, source, tmp_path, capsys):
  out = tmp_path / 'out.jsonl'
  flag = '--config.logprobs=2'
  assert decode(folders, source, *QUICK, f'--output={out}', flag) == 0
  assert 'logprobs stand' not in capsys.readouterr().err
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  for row in rows:
    assert [one['id'] for one in row['logprobs']] == row['tokens']
    # At temperature 0 the answer's token is the likeliest.
    for one in row['logprobs']:
      assert one['top'][0]['id'] == one['id']
      assert one['top'][0]['logprob'] == one['logprob'] <= 0
      assert len(one['top']) == 2
  assert decode(folders, source, *QUICK, flag) == 0
  assert 'logprobs stand in JSON lines; give' in capsys.readouterr().err


@pytest.mark.parametrize(
  'flags, words',
  [
    (('logprobs=97',), 'logprobs=97 asks for more tokens than the 96 of'),
    (('logprobs=-1',), 'logprobs must be a whole number, 0 or more'),
    (('logprobs=1', 'num_beams=2'), 'has a score and no log probabilities'),
    (('truncate=up',), 'truncate must be one of none, left, right'),
  ],
)
def test_refusals(flags, words, folders, source, capsys):
  flags = [f'--config.{flag}' for flag in flags]
  assert decode(folders, source, *QUICK, *flags) in (1, 2)
  told = capsys.readouterr().err.strip().splitlines()[-1]
  assert told.startswith('error: ') and words in told


def test_special_tokens_are_a_switch(folders, source, capsys):
  flag = '--config.skip_special_tokens=false'
  assert decode(folders, source, *QUICK, '--config.logit_bias={"3":9}') == 0
  assert '<unk>' not in capsys.readouterr().out
  status = decode(folders, source, *QUICK, '--config.logit_bias={"3":9}', flag)
  assert status == 0 and '<unk>' in capsys.readouterr().out
