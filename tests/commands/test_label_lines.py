"""Inputs of labels hold settings of their own; drafters may be exchanged."""

import json
import shutil

import pytest

import specjax
from specjax.commands import cli
from specjax.commands import label as label_command
from specjax.inference.config import DecodeConfig
from tests.helpers import tiny
from train import label

TEMPLATE = (
  "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}"
  '{% endif %}{{ messages[0].content }}'
)
ROWS = [
  {'source': 'the cat', 'id': 1, 'target': 'die Katze'},
  {'source': 'a dog ran', 'temperature': 1.5, 'seed': 7, 'id': 1},
  {'messages': [{'role': 'user', 'content': 'x'}], 'source': 'one two'},
  {'source': 'on the mat', 'max_new_tokens': 3, 'stop': None},
]
OWN = [{}, {'temperature': 1.5, 'seed': 7}, {}, {'max_new_tokens': 3}]


@pytest.fixture(scope='module', name='target')
def target_fixture(tmp_path_factory):
  return tiny.save(tmp_path_factory.mktemp('tiny') / 'model')


@pytest.fixture(name='labelled')
def labelled_fixture(target, tmp_path):
  """Labels rows of JSON lines; returns the lines of the output."""
  output = tmp_path / 'out.jsonl'

  def run(rows, drafter='', **settings):
    source = tmp_path / 'in.jsonl'
    source.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    settings = dict(max_new_tokens=8, batch_size=2, num_draft=3) | settings
    label_command.label(
      label_command.LabelRequest(
        target,
        drafter,
        (str(source),),
        'source',
        str(output),
        0,
        DecodeConfig(**settings),
      )
    )
    return output.read_text().splitlines(keepends=True)

  run.output = output
  return run


def test_settings_of_lines_decide(labelled, target):
  with pytest.warns(UserWarning, match="not read: 'target'"):
    _, *rows = map(json.loads, labelled(ROWS))
  prompts = [
    {'prompt': row['source'], **own} for row, own in zip(ROWS, OWN, strict=True)
  ]
  wanted = specjax.generate(target, prompts, max_new_tokens=8)
  assert [tuple(row['tokens']) for row in rows] == [a.tokens for a in wanted]
  assert [row.get('settings', {}) for row in rows] == OWN
  greedy = specjax.generate(target, 'a dog ran', max_new_tokens=8)
  assert wanted[1].tokens != greedy[0].tokens and len(wanted[3].tokens) == 3


@pytest.mark.parametrize(
  'change, words',
  [
    ({'temperature': -1}, 'line 2: temperature must be'),
    ({'temprature': 1}, "line 2 has the unknown key 'temprature'"),
    ({'dtype': 'float32'}, 'line 2: dtype holds for all prompts of a run'),
  ],
)
def test_wrong_settings_of_lines_are_refused(labelled, change, words):
  with pytest.raises(ValueError, match=f'in.jsonl, {words}'):
    labelled([ROWS[3], ROWS[3] | change])
  assert not labelled.output.exists()


def test_lines_are_compared_with_their_settings(labelled):
  rows = ROWS[1:]
  whole = labelled(rows)
  kept = ''.join(whole[:3])
  labelled.output.write_text(kept)
  with pytest.raises(ValueError, match='line 2 does not answer prompt 1'):
    labelled([rows[0] | {'seed': 8}, *rows[1:]])
  assert labelled.output.read_text() == kept
  assert labelled(rows) == whole


def test_prompts_that_were_cut_are_known_again(labelled):
  rows = [{'source': 'the cat ' * 80}, *ROWS[1:]]
  with pytest.warns(UserWarning, match='lost tokens on the left'):
    whole = labelled(rows, truncate='left')
  labelled.output.write_text(''.join(whole[:2]))
  with pytest.warns(UserWarning, match='lost tokens on the left'):
    assert labelled(rows, truncate='left') == whole


def test_a_drafter_is_compared_where_tokens_depend_on_it(labelled, tmp_path):
  rows = ROWS[1:]
  whole = labelled(rows, 'prompt_lookup')
  labelled.output.write_text(''.join(whole[:2]))
  # All of these tokens are the target's own.
  assert labelled(rows, 'suffix', num_draft=2) == whole
  labelled.output.unlink()
  drafter = tiny.save(tmp_path / 'drafter', seed=5)
  drawn = dict(temperature=1.0, verifier='sampling')
  whole = labelled(rows, drafter, **drawn)
  labelled.output.write_text(''.join(whole[:2]))
  for name, settings, words in (
    (drafter, {'num_draft': 2}, 'with num_draft=3 and not 2'),
    ('', {}, r'with another drafter \(digest'),
  ):
    with pytest.raises(ValueError, match=words):
      labelled(rows, name, **drawn | settings)
  shutil.rmtree(drafter)
  tiny.save(tmp_path / 'drafter', seed=9)
  with pytest.raises(ValueError, match=r'with another drafter \(digest'):
    labelled(rows, drafter, **drawn)
  assert labelled.output.read_text() == ''.join(whole[:2])


def test_a_template_that_refuses_names_the_line(tmp_path, capsys):
  folder = tiny.save(tmp_path / 'model')
  tokenizer = tiny.tokenizer()
  tokenizer.chat_template = TEMPLATE
  tokenizer.save_pretrained(folder)
  source, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
  rows = [
    {'messages': [{'role': role, 'content': 'the cat'}]}
    for role in ('user', 'system')
  ]
  source.write_text('\n' + '\n'.join(map(json.dumps, rows)))
  argv = ['label', f'--target={folder}', f'--input={source}']
  assert cli.call(label.main, [*argv, f'--output={output}']) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert f'{source}, line 3: ' in line and 'no system here' in line
  assert not output.exists()
