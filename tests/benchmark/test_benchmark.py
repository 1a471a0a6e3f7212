"""The benchmark measures what its tables name, and notices errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decode import benchmark
from decode import main
from specjax import theory
from specjax import waiting
from specjax.benchmark import cases
from specjax.benchmark import check
from specjax.benchmark import near_ties
from specjax.benchmark import parts
from specjax.benchmark import plan
from specjax.benchmark import plots
from specjax.benchmark import prompts
from specjax.benchmark import report
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.benchmark import table
from specjax.commands import cli
from specjax.decoding import generate as generate_lib
from specjax.inference import sources
from tests.helpers import tiny
from tests.helpers.benchmarks import command
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import lookup_case
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import request
from tests.helpers.benchmarks import VOCAB


@pytest.fixture
def fake_models(monkeypatch):
  """`shape:target` and `shape:draft` are models made of arrays."""
  models = {
    'shape:target': markov('shape:target', 0),
    'shape:draft': markov('shape:draft', 0, 0.3),
  }
  monkeypatch.setattr(sources, 'load_target', lambda name, **_: models[name])


def test_rows_and_report(fake_models, tmp_path):
  settings = config(
    parts=True, num_draft=(1, 3), batch_size=(1, 2), temperature=(0.0,)
  )
  results = runner.run(
    request(settings, 'shape:draft', 'prompt_lookup', 'simulated:1.0')
  )
  assert len(results.rows) == 2 * (1 + 3 * 2)
  assert not runner.failures(results.rows)
  for row in results.rows:
    assert row['num_tokens'] == 4 * 20
    assert row['tokens_per_second'] == pytest.approx(80 / row['seconds'])
    assert row['jax_version'] == jax.__version__
    parts_ms = row['draft_ms'] + row['block_ms'] + row['overhead_ms']
    assert parts_ms == pytest.approx(row['round_ms'])
    if row['mode'] == 'plain':
      assert row['speedup'] == pytest.approx(1)
      assert row['block_efficiency'] == 1
      continue
    assert row['check'] == check.OK
    k = row['num_draft']
    if row['drafting_share'] == 1:
      assert row['predicted_speedup'] == pytest.approx(
        theory.walltime_factor(
          row['acceptance_rate'], k, row['cost_ratio'], row['block_cost']
        )
      )
    assert sum(row['accepted_histogram']) <= row['num_target_calls']
    if row['drafter'] == 'simulated:1.0':
      assert row['acceptance_rate'] == 1
      assert row['num_target_calls'] == 4 * -(-20 // (k + 1))
  files = report.write(str(tmp_path), results, settings)
  details = json.loads((tmp_path / 'details.json').read_text())
  assert details['config']['max_new_tokens'] == 20
  assert details['environment']['versions']['jax'] == jax.__version__
  if plots.available():
    assert 'speedup_by_k.png' in files and 'round_split.png' in files
    for name in files:
      assert (tmp_path / name).stat().st_size > 1000
  text = (tmp_path / 'report.md').read_text()
  assert 'simulated:1.0' in text and 'loop_efficiency' in text
  page = (tmp_path / 'explorer.html').read_text()
  assert '/*DATA*/null' not in page and 'src=' not in page
  assert 'http://www.w3.org/2000/svg' in page  # a name, and the only address
  assert page.count('http') == 1


def test_sampled_rows_are_checked(fake_models):
  settings = config(
    temperature=(0.9,),
    verifier=('sampling', 'block', 'coupled', 'lenient'),
    verifiers={'lenient': {'lenience': 0.5}},
  )
  results = runner.run(request(settings, 'shape:draft', 'unigram', 'bigram'))
  checks = {(r['drafter'], r['verifier']): r for r in results.rows[1:]}
  assert len(checks) == 12
  for (_, verifier), row in checks.items():
    lossy = verifier == 'lenient'
    assert row['check'] == (check.LOSSY if lossy else check.OK), row
    assert row['exact'] is not lossy
  note = checks['shape:draft', 'sampling']['check_note']
  assert note.startswith('checked under coupled')


def test_a_wrong_loop_fails_its_check(fake_models, monkeypatch):
  right = cases.assemble.assemble

  def wrong(target, source=None, *rest, **settings):
    made = right(target, source, *rest, **settings)
    if not made.drafts:
      return made
    recipe = made.recipe

    def verify(context, draft, logits):
      verdict = recipe.verifier.verify(context, draft, logits)
      return verdict.replace(next_token=(verdict.next_token + 1) % VOCAB)

    verifier = recipe.verifier._replace(verify=verify)
    return made._replace(recipe=recipe._replace(verifier=verifier))

  monkeypatch.setattr(cases.assemble, 'assemble', wrong)
  results = runner.run(request(config(), 'shape:draft'))
  (failed,) = runner.failures(results.rows)
  assert failed['check'] == check.FAILED
  assert 'rows differ from plain decoding; prompt' in failed['check_note']
  assert check.FAILED in table.text(results.rows)


def test_nothing_drafted_is_inconclusive(fake_models, monkeypatch):
  monkeypatch.setattr(
    request_lib.prompts_lib,
    'collect',
    lambda *_, **__: [prompts.EncodedPrompt((1, 2, 3, 4, 5))],
  )
  results = runner.run(
    request(config(max_new_tokens=1), 'prompt_lookup', 'none')
  )
  assert [row['check'] for row in results.rows] == [None, check.INCONCLUSIVE]


def _generation(tokens, drafted):
  rounds = np.asarray([drafted], np.int32)
  return generate_lib.Generation(
    tokens=np.asarray([[0, *tokens]], np.int32),
    prompt_length=np.asarray([1]),
    num_tokens=np.asarray([len(tokens)]),
    status=np.asarray([generate_lib.LENGTH]),
    num_rounds=np.int32(rounds.shape[1]),
    rounds=generate_lib.Rounds(rounds, rounds, rounds + 1),
  )


@pytest.mark.parametrize(
  'dtype, distance, other, verdict',
  [
    ('float32', 1e-5, 3, 'FAILED'),  # float32 knows no near tie
    ('bfloat16', 1e-5, 3, check.OK),
    ('bfloat16', 0.05, 3, 'FAILED'),
    ('bfloat16', 0.05, VOCAB + 9, 'FAILED'),
  ],
)
def test_near_ties_are_told_from_errors(
  dtype, distance, other, verdict, monkeypatch
):
  """Logits closer than the measured gap may change places, not in float32."""
  monkeypatch.setattr(near_ties, 'gap_between_widths', lambda *_: 0.01)
  logits = np.full((VOCAB + 1, VOCAB, VOCAB), -9.0, np.float32)
  logits[..., 2], logits[..., 3] = 0.0, -distance
  params = {'table': jnp.asarray(logits), 'source': jnp.zeros((VOCAB, VOCAB))}
  params = {name: table.astype(dtype) for name, table in params.items()}
  target = markov('target', 0)._replace(params=params)
  settings = config(max_new_tokens=4)
  case = lookup_case(target, settings)
  batches = cases.batches(
    [prompts.EncodedPrompt((0,))], target, settings, settings.sampling(0.0), 1
  )
  outcome = check.check(
    case,
    batches,
    [_generation([2, 2, 2, 2], [0, 0, 0, 0])],
    [_generation([2, other, 2, 2], [1, 1])],
    settings,
  )
  assert outcome.verdict == verdict
  assert outcome.near_ties == (verdict == check.OK)
  noted = '1 of 1 rows part at a near tie: two logits closer than 0.01'
  assert (noted in outcome.note) == (verdict == check.OK)


@pytest.mark.parametrize(
  'tokens, verdict, words',
  [
    ([2, 2, 2, 2], check.OK, 'identical tokens: 1 of 1'),
    ([2, 3, 2, 2], check.DIFFERS, 'prompt 1 at new token 1: [3, 2, 2] for'),
  ],
)
def test_another_engines_tokens_are_compared(tokens, verdict, words):
  logits = np.full((VOCAB + 1, VOCAB, VOCAB), -9.0, np.float32)
  logits[..., 2] = 0.0
  params = {'table': jnp.asarray(logits), 'source': jnp.zeros((VOCAB, VOCAB))}
  target = markov('target', 0)._replace(params=params)
  settings = config(max_new_tokens=4)
  plain = cases.plain(target, settings, 0.0, 1)
  batches = cases.batches(
    [prompts.EncodedPrompt((0,))], target, settings, settings.sampling(0.0), 1
  )
  ours = [_generation([2, 2, 2, 2], [0, 0, 0, 0])]
  outcome = check.beside(plain, batches, ours, [[tokens]], settings)
  assert outcome.verdict == verdict and words in outcome.note


def test_not_a_number_fails():
  made = _generation([2, 2], [1])
  bad = made.replace(status=np.asarray([generate_lib.NAN]))
  target = markov('target', 0)
  case = lookup_case(target, config())
  outcome = check.check(case, [], [made], [bad], config())
  assert outcome.verdict == check.FAILED and 'finite' in outcome.note


def test_widths_used_weighs_rounds():
  target = markov('target', 0)
  case = lookup_case(target, config())
  recipe = case.recipe._replace(widths=(0, 3))
  case = case._replace(assembled=case.assembled._replace(recipe=recipe))
  made = _generation([2] * 7, [0, 3, 0, 1])
  assert parts.widths_used(case, [made]) == {1: 0.5, 4: 0.5}


def test_by_category(fake_models, monkeypatch):
  given = [
    prompts.EncodedPrompt((1, 2), category=c) for c in ('qa', 'rag', 'qa')
  ]
  monkeypatch.setattr(
    request_lib.prompts_lib, 'collect', lambda *_, **__: given
  )
  results = runner.run(request(config(), 'simulated:0.5'))
  found = results.rows[1]['by_category']
  assert set(found) == {'qa', 'rag'}
  assert found['qa']['block_efficiency'] > 1


def test_a_load_is_noted_once(tmp_path, capsys, caplog, monkeypatch):
  monkeypatch.setattr(waiting, 'SECONDS', 0)
  folder = tiny.save(tmp_path / 'target')
  flags = [f'--target={folder}', '--drafter=suffix', '--corpus=none']
  assert cli.call(benchmark.main, ['', *flags]) == 1
  captured = capsys.readouterr()
  assert 'There is no corpus file none' in captured.err
  noted = [*captured.err.splitlines(), *caplog.messages]
  wanted = f'Loading {folder}.'
  assert {line for line in noted if 'loading' in line.lower()} == {wanted}


def test_a_corpus_of_earlier_answers_is_read(tmp_path, capsys):
  folder = tiny.save(tmp_path / 'target')
  asked = tmp_path / 'prompts.txt'
  asked.write_text('the cat\na dog ran to the\n')
  path = tmp_path / 'answers.corpus'
  flags = [f'--target={folder}', f'--input={asked}', '--drafter=suffix']
  flags += ['--config.max_new_tokens=30', f'--corpus={path}']
  assert cli.call(benchmark.main, ['', *flags]) == 1
  assert f'There is no corpus file {path};' in capsys.readouterr().err
  decoding = ['', *flags, '--baseline=none', '--config.explain=false']
  assert cli.call(main.main, decoding) == 0
  before = path.read_bytes()

  def measured(corpus, *names):
    given = request_lib.BenchmarkRequest(
      folder, names, str(asked), (), config(max_new_tokens=30), corpus
    )
    return runner.run(given).rows[1:]

  (cold,), (warm,) = measured('', 'suffix'), measured(str(path), 'suffix')
  assert warm['num_target_calls'] < cold['num_target_calls']
  assert warm['check'] == check.OK and warm['num_tokens'] == cold['num_tokens']
  assert path.read_bytes() == before
  with pytest.raises(ValueError, match='such as suffix and hybrid:FOLDER'):
    measured(str(path), 'prompt_lookup')
  swapped = tiny.save(tmp_path / 'swapped', swap=('cat', 'dog'))
  folder = swapped
  with pytest.raises(ValueError, match='written with another tokenizer'):
    measured(str(path), 'suffix')


def test_plan_of_fakes(fake_models, monkeypatch):
  monkeypatch.setattr(plan, 'PROMPTS', 6)
  settings = config(max_draft=3, batch_size=(2,), temperature=(0.0,))
  text = plan.plan(request(settings, 'shape:draft', 'simulated:0.9'), print)
  assert 'shape:draft, greedy: best K' in text
  assert 'Temperature 0' in text


@pytest.mark.slow
def test_command_beside_transformers(torch):
  """The same weights give the same tokens in the other engine."""
  del torch
  made = command(
    '--target=shape:llama-tiny',
    '--drafter=shape:llama-tiny,prompt_lookup',
    '--peer=transformers',
    '--config=configs/bench.py:smoke',
    '--config.parts=false',
  )
  assert made.returncode == 0, made.stderr
  ratios = [x for x in made.stdout.splitlines() if x.startswith('ratio: ')]
  assert len(ratios) == 3
  assert 'specjax plain over transformers plain, shape:llama' in ratios[0]
  assert 'specjax speculative over transformers assisted' in ratios[1]
  notes = [x for x in made.stdout.splitlines() if 'identical tokens' in x]
  assert len(notes) == 3 and all('2 of 2' in note for note in notes)
