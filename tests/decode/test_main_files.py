"""Files of the decode command: several, packed, parts of them, and locked."""

import gzip
import itertools
import json
import shutil

import pytest

from specjax import locks
from tests.helpers import decode_main
from tests.helpers import tiny
from tests.helpers.decode_main import decode
from tests.helpers.decode_main import LINES
from tests.helpers.decode_main import QUICK
from train import label

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')

SAMPLED = ('--config.temperature=1', *QUICK)
CHAT = [
  {'role': 'system', 'content': 'the house'},
  {'role': 'user', 'content': 'a dog'},
  {'role': 'assistant', 'content': 'ran'},
  {'role': 'user', 'content': 'the cat'},
]


def write_lines(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def refused(capsys, *argv):
  """The one line of a run that is refused."""
  assert decode(*argv) == 1
  captured = capsys.readouterr()
  assert captured.out == ''
  (line,) = [x for x in captured.err.splitlines() if x.startswith('error: ')]
  return line


def test_shards_packed_or_not_join_to_the_whole(folders, tmp_path):
  first, second = tmp_path / 'a.txt', tmp_path / 'b.jsonl.gz'
  first.write_text('\n'.join(LINES))
  rows = [{'prompt': 'the mat', 'id': 'x'}, {'prompt': 'the cat'}]
  second.write_bytes(gzip.compress('\n'.join(map(json.dumps, rows)).encode()))
  inputs = (first, f'--input={second}')
  for kind in ('.jsonl', '.txt'):
    whole = tmp_path / f'whole{kind}'
    assert decode(folders, *inputs, f'--output={whole}', *SAMPLED) == 0
    parts = []
    for number in (1, 2, 3):
      part = tmp_path / f'{number}{kind}.gz'
      shard = (f'--shard={number}/3', f'--output={part}')
      assert decode(folders, *inputs, *shard, *SAMPLED) == 0
      parts.append(gzip.decompress(part.read_bytes()))
    wanted = whole.read_bytes()
    if kind == '.txt':
      assert b''.join(parts) == wanted
      continue
    found = [json.loads(x) for x in b''.join(parts).splitlines()]
    wanted = [json.loads(x) for x in wanted.splitlines()]
    assert [row['prompt_index'] for row in found] == list(range(7))
    kept = ('prompt_index', 'sequence', 'prompt', 'text', 'tokens')
    assert [[row[k] for k in kept] for row in found] == [
      [row[k] for k in kept] for row in wanted
    ]


@pytest.mark.parametrize(
  'shard, words',
  [
    ('4/3', 'no shard 4 of 3'),
    ('0/3', 'no shard 0 of 3'),
    ('1/9', '5 prompts make at most 5 shards'),
    ('1', 'must be i/n'),
    ('1/x', 'must be i/n'),
  ],
)
def test_a_shard_that_is_none_is_refused(folders, source, capsys, shard, words):
  assert words in refused(capsys, folders, source, f'--shard={shard}')


def test_a_packed_input_cut_short_is_named(folders, tmp_path, capsys):
  path, out = tmp_path / 'in.txt.gz', tmp_path / 'out.txt'
  path.write_bytes(gzip.compress(b'the cat\n' * 50)[:-9])
  line = refused(capsys, folders, path, f'--output={out}')
  assert 'in.txt.gz is cut short' in line and not out.exists()


def test_a_packed_output_goes_on(folders, source, tmp_path):
  whole, part = tmp_path / 'whole.jsonl.gz', tmp_path / 'part.jsonl.gz'
  more = ('--config.num_return_sequences=3', *SAMPLED)
  assert decode(folders, source, f'--output={whole}', *more) == 0
  data = whole.read_bytes()
  lines = gzip.decompress(data).splitlines()
  assert len(lines) == 15
  # Looks that find no row done write nothing.
  assert gzip.compress(b'', mtime=0) not in data
  shutil.copy(f'{whole}.made.json', f'{part}.made.json')
  for cut in (0, 5, len(data) // 3, 2 * len(data) // 3, len(data) - 1):
    part.write_bytes(data[:cut])
    assert decode(folders, source, f'--output={part}', '--resume', *more) == 0
    found = gzip.decompress(part.read_bytes()).splitlines()
    for one, other in zip(found, lines, strict=True):
      assert json.loads(one)['tokens'] == json.loads(other)['tokens']


def test_an_output_has_one_run(folders, source, tmp_path, capsys):
  out = tmp_path / 'out.jsonl'
  assert decode(folders, source, f'--output={out}', *QUICK) == 0
  data = out.read_bytes()
  with locks.file(str(out), print):
    for more in ((), ('--resume',)):
      line = refused(capsys, folders, source, f'--output={out}', *QUICK, *more)
      assert line.startswith(f'error: Another run is writing {out}; wait')
    argv = [f'--target={folders["target"]}', f'--input={source}']
    argv = ['label', *argv, f'--output={out}']
    assert decode_main.cli.call(label.main, argv) == 1
    assert f'Another run is writing {out}' in capsys.readouterr().err
  assert out.read_bytes() == data


def begun(folders, source, tmp_path, *argv):
  """An output with two of its answers, beside the note of what made it."""
  out = tmp_path / 'begun.jsonl'
  assert decode(folders, source, f'--output={out}', *QUICK, *argv) == 0
  lines = out.read_bytes().splitlines(keepends=True)
  out.write_bytes(b''.join(lines[:2]))
  return out, lines


def test_other_settings_and_models_are_refused_by_name(
  folders, source, tmp_path, capsys
):
  out, lines = begun(folders, source, tmp_path)
  data = out.read_bytes()
  capsys.readouterr()
  resume = (folders, source, f'--output={out}', '--resume', *QUICK)
  settings = [
    ('--config.temperature=1', 'temperature=0.0 and not 1.0'),
    ('--config.max_new_tokens=9', 'max_new_tokens=12 and not 9'),
    ('--config.prefix=x', "prefix='' and not 'x'"),
    ('--config.stop=x', "stop='' and not 'x'"),
    ('--shard=1/1', "shard='' and not '1/1'"),
  ]
  for flag, words in settings:
    assert f'{out} was begun with {words}' in refused(capsys, *resume, flag)
  other = tiny.save(tmp_path / 'other', seed=5)
  line = refused(capsys, *resume, f'--target={other}')
  assert 'was begun with another target (digest' in line
  tokenizer = tiny.tokenizer()
  tokenizer.chat_template = '{{ messages[0].content }}'
  changed = tmp_path / 'changed'
  shutil.copytree(folders['target'], changed)
  tokenizer.save_pretrained(changed)
  line = refused(capsys, *resume, f'--target={changed}')
  assert 'another chat template (digest none, not' in line
  assert out.read_bytes() == data
  # No greedy token depends on these.
  free = ('--config.batch_size=4', '--drafter=suffix', '--config.num_draft=2')
  assert decode(*resume, *free) == 0
  for one, other in zip(out.read_bytes().splitlines(), lines, strict=True):
    assert json.loads(one)['tokens'] == json.loads(other)['tokens']


def test_a_drafter_is_compared_where_tokens_depend_on_it(
  folders, source, tmp_path, capsys
):
  settings = ('--config.temperature=1', '--config.verifier=sampling')
  drafter = tmp_path / 'drafter'
  shutil.copytree(folders['drafter'], drafter)
  settings = (*settings, f'--drafter={drafter}')
  out, _ = begun(folders, source, tmp_path, *settings)
  capsys.readouterr()
  resume = (folders, source, f'--output={out}', '--resume', *QUICK, *settings)
  line = refused(capsys, *resume, '--config.num_draft=2')
  assert 'num_draft=4 and not 2' in line
  shutil.rmtree(drafter)
  tiny.save(drafter, seed=9)
  assert 'another drafter (digest' in refused(capsys, *resume)


def test_whole_conversations_are_compared(folders, tmp_path, capsys):
  tokenizer = tiny.tokenizer()
  tokenizer.chat_template = (
    '{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}'
  )
  target = tmp_path / 'target'
  shutil.copytree(folders['target'], target)
  tokenizer.save_pretrained(target)
  folders = {'target': str(target)}
  rows = [{'messages': CHAT}, {'messages': CHAT[1:]}, {'prompt': 'one'}]
  source = write_lines(tmp_path / 'in.jsonl', rows)
  out, lines = begun(folders, source, tmp_path)
  data = out.read_bytes()
  changed = itertools.product((0, 2), ({'content': 'x'}, {'role': 'tool'}))
  for turn, change in changed:
    chat = [dict(message) for message in CHAT]
    chat[turn] |= change
    other = write_lines(tmp_path / 'x.jsonl', [{'messages': chat}, *rows[1:]])
    capsys.readouterr()
    line = refused(
      capsys, folders, other, f'--output={out}', '--resume', *QUICK
    )
    assert 'another prompt in the place of' in line and 'line 1 (' in line
    assert out.read_bytes() == data
  # Behind the answers an input may go on in another way.
  longer = write_lines(tmp_path / 'y.jsonl', [*rows, {'prompt': 'a dog'}])
  assert decode(folders, longer, f'--output={out}', '--resume', *QUICK) == 0
  assert len(out.read_bytes().splitlines()) == len(lines) + 1


def test_a_missing_note_is_noted_and_a_broken_one_refused(
  folders, source, tmp_path, capsys
):
  out, lines = begun(folders, source, tmp_path)
  note = tmp_path / 'begun.jsonl.made.json'
  data = out.read_bytes()
  resume = (folders, source, f'--output={out}', '--resume', *QUICK)
  note.write_text('{}')
  assert f'{note} is no note of what made' in refused(capsys, *resume)
  note.unlink()
  assert decode(*resume) == 0
  assert f'{note} is missing, so nothing shows' in capsys.readouterr().err
  assert out.read_bytes().startswith(data) and note.exists()
  assert len(out.read_bytes().splitlines()) == len(lines)


def test_a_prompt_that_does_not_fit_is_named_before_the_first_answer(
  folders, tmp_path, capsys
):
  lines = ['the cat', 'a dog', 'the cat ' * 80, 'one']
  source, out = tmp_path / 'in.txt', tmp_path / 'out.jsonl'
  source.write_text('\n'.join(lines) + '\n')
  line = refused(capsys, folders, source, f'--output={out}', *QUICK)
  assert f'{source}, line 3: Prompt 3 has' in line and not out.exists()


@pytest.mark.parametrize('kind', ['.jsonl', '.txt'])
def test_bad_prompts_may_be_skipped(folders, tmp_path, capsys, kind):
  """The others get their answers, whole, in shards and resumed."""
  source = tmp_path / 'in.jsonl'
  good = {0: 'the cat', 3: 'a dog', 6: 'one two', 7: ''}
  bad = {
    1: '{"prompt": 3, "id": "b"}',
    2: json.dumps({'prompt': 'the cat ' * 80, 'id': 'long'}),
    4: '{"prompt"',
    5: json.dumps({'prompt': 'one', 'temperature': -1, 'id': 'cold'}),
    8: json.dumps({'messages': [{'role': 'user', 'content': 'x'}], 'id': 9}),
  }
  rows = [bad.get(i) or json.dumps({'prompt': good[i]}) for i in range(9)]
  source.write_text('\n'.join(rows) + '\n')
  out = tmp_path / f'out{kind}'
  skip = ('--on_error=skip', *SAMPLED)
  assert decode(folders, source, f'--output={out}', *skip) == 1
  assert '5 of 9 prompts have an error' in capsys.readouterr().err
  data = out.read_bytes()
  found = data.decode().split('\n')[:-1]
  plain = tmp_path / 'plain.jsonl'
  write_lines(plain, [{'prompt': good.get(i, 'x')} for i in range(9)])
  wanted = tmp_path / f'wanted{kind}'
  assert decode(folders, plain, f'--output={wanted}', *SAMPLED) == 0
  wanted = wanted.read_text().split('\n')
  if kind == '.txt':
    assert [found[i] for i in good] == [wanted[i] for i in good]
    assert {found[i] for i in bad} == {''}
  else:
    found, wanted = ([json.loads(x) for x in xs if x] for xs in (found, wanted))
    for i in good:
      assert found[i]['tokens'] == wanted[i]['tokens']
    assert [set(found[i]) for i in bad] == [{'prompt_index', 'id', 'error'}] * 5
    assert [found[i]['prompt_index'] for i in bad] == list(bad)
    assert [found[i]['id'] for i in bad] == [None, 'long', None, None, 9]
    errors = [found[i]['error'] for i in bad]
    for i, error in zip(bad, errors, strict=True):
      assert error.startswith(f'{source}, line {i + 1}'), error
    words = (
      'must be a string',
      'has',
      'not JSON',
      'temperature',
      'template',
    )
    assert all(w in e for w, e in zip(words, errors, strict=True)), errors
  for cut in (1, 3, 6):
    kept = b''.join(data.splitlines(keepends=True)[:cut])
    out.write_bytes(kept)
    assert decode(folders, source, f'--output={out}', '--resume', *skip) == 1
    if kind == '.txt':
      assert out.read_bytes() == data
    else:
      rows = [json.loads(x) for x in out.read_bytes().splitlines()]
      assert [r.get('tokens') for r in rows] == [r.get('tokens') for r in found]


def test_refused_prompts_stand_in_no_comparison(folders, tmp_path, capsys):
  source = tmp_path / 'in.jsonl'
  source.write_text('{"prompt": 3}\n' * 3 + '{"prompt": "the cat"}\n' * 2)
  flags = ('--on_error=skip', '--drafter=prompt_lookup')
  assert decode(folders, source, *flags, '--config.explain=false') == 1
  assert 'identical tokens: 2 of 2' in capsys.readouterr().err
