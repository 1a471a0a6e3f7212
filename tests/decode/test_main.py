"""The decode command: its output, its numbers, its messages."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from decode import main
import specjax
from tests.helpers.decode_main import call
from tests.helpers.decode_main import decode
from tests.helpers.decode_main import LINES
from tests.helpers.decode_main import QUICK
from tests.helpers.decode_main import SHAPE

pytestmark = pytest.mark.usefixtures('no_cache_of_the_users')

FIELDS = {
  'prompt_index',
  'sequence',
  'prompt',
  'text',
  'tokens',
  'finish_reason',
  'num_tokens',
  'num_target_calls',
  'num_drafted',
  'num_accepted',
  'num_tested',
  'block_efficiency',
  'acceptance_rate',
  'acceptance_rate_with_loops',
  'loop_share',
  'draft_acceptance_rate',
  'mean_acceptance_length',
}
TOP = ('verifiers.top_candidates.beta=3', 'verifiers.top_candidates.tau=9')


@pytest.mark.parametrize(
  'settings, words',
  [
    (('verifier=sampling', 'temperature=1'), 'the same law, other tokens)'),
    (
      ('verifier=lenient', 'verifiers.lenient.lenience=0.5', 'temperature=1'),
      'is lossy: they',
    ),
    (('verifier=top_candidates', *TOP), 'is lossy: they need not'),
  ],
)
def test_a_lossy_rule_claims_no_law(settings, words, folders, source, capsys):
  flags = [f'--config.{setting}' for setting in settings]
  drafter = f'--drafter={folders["drafter"]}'
  assert decode(folders, source, drafter, *flags) == 0
  told = capsys.readouterr().err
  assert words in told
  assert ('the same law' in told) == ('lossy' not in told)


def test_one_line_a_prompt_and_everything_else_elsewhere(
  folders, source, tmp_path, capsys
):
  stats = tmp_path / 'stats.json'
  status = decode(
    folders, source, f'--drafter={folders["drafter"]}', f'--stats={stats}'
  )
  captured = capsys.readouterr()
  assert status == 0, captured.err
  answers = specjax.generate(
    specjax.load(folders['target']), LINES, max_new_tokens=12
  )
  expected = [answer.text.replace('\n', '\\n') for answer in answers]
  assert captured.out.split('\n') == expected + ['']
  for words in (
    'tokens/s',
    'compile seconds',
    'target calls',
    'block efficiency',
    'acceptance rate',
    'by position',
    'speed-up',
    'identical tokens: 2 of 2',
    'step costs',
    'predicted speed-up',
  ):
    assert words in captured.err, words
  found = json.loads(stats.read_text())
  assert found['num_prompts'] == 5
  assert found['num_tokens'] == sum(a.counts.num_tokens for a in answers)
  assert found['baseline']['identical'] == found['baseline']['compared'] == 2
  assert found['explanation']['predicted_speedup'] > 0
  assert len(found['acceptance_by_position']) == 4


def test_json_lines_hold_the_fields_and_add_up(folders, source, tmp_path):
  path, stats = tmp_path / 'out.jsonl', tmp_path / 'stats.json'
  status = decode(
    folders,
    source,
    '--drafter=prompt_lookup',
    f'--output={path}',
    f'--stats={stats}',
    '--config.ignore_eos',
    *QUICK,
  )
  assert status == 0
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['prompt'] for row in rows] == LINES
  for row in rows:
    assert set(row) == FIELDS
    assert row['num_tokens'] == len(row['tokens'])
    assert row['num_accepted'] <= row['num_tested'] <= row['num_drafted']
    assert row['finish_reason'] == 'length'
    calls = row['num_target_calls']
    assert row['num_accepted'] + calls == row['num_tokens'] or not calls
    if calls:
      assert row['block_efficiency'] == row['num_tokens'] / calls
    if row['num_tested']:
      rate = row['num_accepted'] / row['num_tested']
      assert row['acceptance_rate'] == rate
  found = json.loads(stats.read_text())
  for name in ('tokens', 'target_calls', 'drafted', 'accepted', 'tested'):
    assert found[f'num_{name}'] == sum(row[f'num_{name}'] for row in rows)


def test_coupled_sampling_equals_plain_sampling(folders, source, capsys):
  sampled = ('--config=configs/decode.py:reproduce', '--config.seed=4', *QUICK)
  outputs = []
  for drafter in ('none', folders['drafter']):
    assert decode(folders, source, f'--drafter={drafter}', *sampled) == 0
    outputs.append(capsys.readouterr().out)
  assert outputs[0] == outputs[1]
  assert len(set(outputs[0].split('\n'))) > 3


def test_logits_that_are_not_finite_end_the_run(
  folders, source, tmp_path, capsys
):
  model = specjax.load(folders['target'])
  bad = jax.tree.map(lambda x: np.asarray(x) * np.nan, model.params)
  from specjax.checkpoints import hf

  hf.save_hf(str(tmp_path / 'bad'), bad, model.config)
  model.tokenizer.save_pretrained(str(tmp_path / 'bad'))
  path = tmp_path / 'out.txt'
  status = call(
    f'--target={tmp_path / "bad"}',
    f'--input={source}',
    f'--output={path}',
    *SHAPE,
    *QUICK,
  )
  assert status == 1
  assert 'Prompt 1: ' in capsys.readouterr().err
  assert path.read_text() == ''


@pytest.mark.parametrize(
  'argv, status, words',
  [
    (['--input=x'], 2, '--target is needed'),
    (['--target=x'], 2, '--input is needed'),
    (['--target=x', '--input=y', '--frobnicate=1'], 2, 'frobnicate'),
    (['stray', '--target=x', '--input=y'], 2, "Unexpected argument 'stray'"),
    (['--config=none.py'], 2, 'There is no config file none.py'),
    (['--config=configs/decode.py:nonsense'], 2, 'Unknown variant'),
    (['--config.top_q=1'], 2, 'Unknown option --config.top_q; did you mean'),
    (['--config.top_p.x=1'], 2, 'Unknown option --config.top_p.x'),
    (
      ['--config.top_k=many'],
      2,
      "error: --config.top_k must be a whole number, not 'many'.",
    ),
    (
      ['--config.min_p=x=1'],
      2,
      "error: --config.min_p must be a number, not 'x=1'.",
    ),
    (['--config.top_k=-3'], 2, 'top_k must be a whole number'),
    (['--config.temperature=nan'], 2, 'temperature must be 0 or more'),
    (['--config.num_draft=-1'], 2, 'num_draft must be'),
    (
      ['--config.drafters.suffix.min_match=0'],
      2,
      'min_match of the suffix drafter',
    ),
    (
      ['--config.drafters.prompt_lookup.max_ngram=0'],
      2,
      '1 <= min_ngram <= max_ngram',
    ),
    (['--config.drafters.suffix.tree=-1'], 2, 'suffix.tree must be at least 0'),
    (['--config.stop=["a", ""]'], 2, 'stop must not hold an empty string'),
    (['--resume', '--target=x', '--input=y'], 2, '--resume needs an --output'),
    (
      ['--drafter=suffix,prompt_lookup', '--target=x', '--input=y'],
      2,
      '--drafter=suffix,prompt_lookup names 2 drafters, and this command takes '
      'one; decode.benchmark compares several.',
    ),
    (['--baseline=some', '--target=x', '--input=y'], 2, 'baseline'),
  ],
)
def test_bad_usage_is_told_in_one_line(argv, status, words, capsys):
  assert call(*argv) == status
  captured = capsys.readouterr()
  assert captured.out == ''
  assert captured.err.count('\n') == 1
  assert captured.err.startswith('error: ') and words in captured.err


def test_what_cannot_be_done_is_told_in_one_line(
  folders, source, tmp_path, capsys
):
  bad = tmp_path / 'bad.txt'
  bad.write_bytes(b'fine\nb\xe4d\n')
  empty = tmp_path / 'empty.txt'
  empty.write_bytes(b'')
  bare = tmp_path / 'bare'
  bare.mkdir()
  long = tmp_path / 'long.txt'
  long.write_text('the cat\n' + 'the cat ' * 80 + '\n')
  torn = tmp_path / 'torn'
  torn.mkdir()
  for name in os.listdir(folders['target']):
    data = (tmp_path / folders['target'] / name).read_bytes()
    (torn / name).write_bytes(
      data[: len(data) // 2] if '.safe' in name else data
    )
  partial = tmp_path / 'partial'
  partial.mkdir()
  for name in os.listdir(folders['target']):
    data = (tmp_path / folders['target'] / name).read_bytes()
    (partial / name).write_bytes(data)
  tensors = safetensors.load_file(partial / 'model.safetensors')
  gone = sorted(tensors)[1]
  del tensors[gone]
  safetensors.save_file(tensors, partial / 'model.safetensors')
  out = tmp_path / 'out.txt'
  cases = [
    ([f'--input={tmp_path}/none.txt'], 'no input file'),
    ([f'--input={tmp_path}'], 'is a folder'),
    ([f'--input={bad}'], 'line 2 is not UTF-8'),
    ([f'--input={empty}'], 'is empty'),
    ([f'--input={long}'], 'long.txt, line 2: Prompt'),
    ([f'--target={tmp_path}/none'], 'no folder'),
    ([f'--target={bare}'], 'config.json'),
    ([f'--target={torn}'], 'model.safetensors'),
    ([f'--target={partial}'], gone),
    ([f'--drafter={folders["swapped"]}'], 'first differing id'),
    ([f'--drafter={folders["t5"]}'], 'encoder-decoder'),
    (['--drafter=sufix'], 'There is no drafter sufix: give the folder of a'),
    (['--drafter=hybrid:'], 'hybrid:FOLDER'),
    (['--config.chat=true'], 'no chat template'),
    ([f'--output={tmp_path}/no/such/out.txt'], 'Cannot write to'),
    ([f'--stats={tmp_path}/no/such/stats.json'], 'Cannot write to'),
    ([f'--output={tmp_path}'], 'is a folder'),
    ([f'--stats={out}'], '--output and --stats are the same file'),
    ([f'--corpus={tmp_path}/./out.txt'], '--output and --corpus are the same'),
    ([f'--output={source}'], '--input and --output are the same file'),
    # The file that replaces it could not be made beside it.
    (['--drafter=suffix', f'--corpus={tmp_path}/{"c" * 250}'], 'too long'),
  ]
  for argv, words in cases:
    status = decode(folders, source, f'--output={out}', *QUICK, *argv)
    captured = capsys.readouterr()
    assert status == 1, words
    assert captured.out == ''
    assert words in captured.err and captured.err.count('\n') == 1, captured.err
    assert not out.exists()


def test_help_shows_flags_and_config_fields(capsys):
  with pytest.raises(SystemExit) as leaving:
    main.main(['decode.main', '--help'])
  assert leaving.value.code == 0
  shown = capsys.readouterr().out
  for words in ('--target', 'resume', ' top_p=1.0', ' num_draft=4'):
    assert words in shown


def test_the_command_in_a_process_of_its_own(folders, tmp_path):
  """Standard input, standard output and the exit status, as a shell sees it."""
  environment = os.environ | {'SPECJAX_CACHE': str(tmp_path)}
  command = [sys.executable, '-m', 'decode.main', '--input=-', *SHAPE, *QUICK]
  done = subprocess.run(
    command + [f'--target={folders["target"]}'],
    input=b'the cat\n\n',
    capture_output=True,
    env=environment,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count(b'\n') == 2
  # The empty line is answered too.
  assert all(done.stdout.split(b'\n')[:2])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_precision_is_noted_where_tokens_depend_on_shapes(
  folders, source, tmp_path, capsys, dtype
):
  stats = tmp_path / 'stats.json'
  settings = (f'--config.dtype={dtype}', f'--stats={stats}')
  assert decode(folders, source, '--drafter=none', *settings, *QUICK) == 0
  found, words = json.loads(stats.read_text()), 'may depend on batch_size'
  assert found['precision'] == dtype
  assert (words in found['precision_note']) == (dtype == 'bfloat16')
  assert (words in capsys.readouterr().err) == (dtype == 'bfloat16')
  assert {'loop_share', 'acceptance_rate_with_loops'} <= found.keys()
