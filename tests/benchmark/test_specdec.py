"""SpecDec's experiment: measurements, judgements and conclusions."""

import itertools
import json
import types

import jax
import numpy as np
import pytest

from decode import benchmark
from specjax import models
from specjax.benchmark import quality
from specjax.benchmark import runner
from specjax.benchmark import specdec
from specjax.benchmark import specdec_tables
from specjax.benchmark.specdec import SpecDecConfig
from specjax.checkpoints import hf
from specjax.inference import sources
from tests.helpers import recipes
from tests.helpers import tiny


def test_distances_and_shares():
  for left, right, edits in (
    ('kitten', 'sitting', 3),
    ('', 'abc', 3),
    ('abc', '', 3),
    ('flaw', 'lawn', 2),
    ('same', 'same', 0),
  ):
    rows = [[ord(c) for c in text] for text in (left, right)]
    assert quality.edit_distance(*rows) == edits
  found = quality.compare(
    [[1, 2], [3]], ['a b', 'c'], [[1, 2], [4, 5]], ['a b', 'd e'], ['', '']
  )
  assert found['exact_match'] == 0.5 and found['edit_distance'] == 0.5
  assert found['bleu'] is None


def test_bleu_is_sacrebleus():
  sacrebleu = pytest.importorskip('sacrebleu', reason='BLEU needs sacrebleu')
  texts = ['the cat sat on the mat', 'a dog ran home']
  wanted = ['the cat sat on a mat', 'a dog ran to the house']
  score = sacrebleu.corpus_bleu(texts, [wanted]).score
  assert quality.bleu(texts, wanted) == pytest.approx(score)
  assert quality.bleu(wanted, wanted) == pytest.approx(100)


LABELS = {'h': 'head-based', 's': 'small', 'm': 'full'}


def row(drafter, num_draft, seconds, tokens, batch=1, rule=(1, 0.0), **more):
  return {
    'engine': 'specjax',
    'drafter': drafter,
    'label': LABELS.get(drafter, drafter),
    'mode': 'speculative' if num_draft else 'plain',
    'verifier': 'greedy' if rule[0] == 1 else 'top_candidates',
    'beta': rule[0],
    'tau': rule[1],
    'num_draft': num_draft,
    'batch_size': batch,
    'num_prompts': 4,
    'seconds': seconds,
    'over_greedy': 2.0 / seconds,
    'over_beam': None,
    'block_efficiency': tokens,
    'draft_ms': 1.0,
    'block_ms': 3.0,
    'step_ms': 2.0,
    'predicted_speedup_from_counts': tokens / 2,
    'exact_match': 1.0,
  } | more


def results(rows):
  def source(name, size):
    model = types.SimpleNamespace(params={'weight': np.zeros(size)})
    return types.SimpleNamespace(name=name, model=model)

  setup = types.SimpleNamespace(
    sources=[source('m', 900), source('s', 300), source('h', 100)]
  )
  return runner.Results(rows, {}, [], setup, {'exact_match': 0.25})


def test_statements_say_what_the_tables_hold():
  config = SpecDecConfig(table_draft=10)
  rows = [
    row('none', 0, 2.0, 1.0),
    row('m', 10, 1.0, 4.0),
    row('m', 10, 0.8, 5.0, rule=(3, 1.0)),
    row('m', 5, 1.1, 3.0),
    row('s', 10, 1.2, 3.0),
    row('h', 10, 1.5, 1.5),
    row('none', 0, 2.0, 1.0, batch=8),
    row('m', 10, 2.5, 4.0, batch=8),
    row('m', 10, 1.9, 4.0, batch=8, rule=(3, 1.0)),
  ]
  tables = specdec_tables.prepared(results(rows), config)
  assert [r['num_draft'] for r in tables['Slots']] == [5, 10, 10]
  assert len(tables['Drafters']) == 4 and len(tables['Batches']) == 6
  said = '\n'.join(specdec_tables.statements(tables))
  for words in (
    'beta, tau = 1, - greedy decoding overtakes at batch 8',
    'beta, tau = 3, 1 speculative decoding is faster than greedy at every',
    'head-based (1.50) < small (3.00) < full (4.00)',
    'below the full drafter) holds',
    'a round costs 2.00 plain steps, most of it the block (1.50)',
    'At beta = 1 100.0%',
    'of the drafter alone 25.0%',
  ):
    assert words in said, words
  rows[5]['block_efficiency'] = 3.5
  tables = specdec_tables.prepared(results(rows), config)
  million = {r['label']: r['million'] for r in tables['Drafters']}
  assert million == {'full': 9e-4, 'small': 3e-4, 'head-based': 1e-4}
  assert 'does not hold' in '\n'.join(specdec_tables.statements(tables))


def test_settings_in_one_sentence():
  for changes, words in (
    ({'relaxed': ((0, 1.0),)}, 'beta must be a whole number of at least 1'),
    ({'dial': (2, -1.0)}, 'tau must be 0 or more'),
    ({'relaxed': (3,)}, 'relaxed holds pairs'),
    ({'dial': (3,)}, 'dial is one pair'),
    ({'relaxed': ((3, None),)}, 'tau must be 0 or more, not None'),
    ({'table_draft': 0}, 'table_draft must be'),
    ({'temperature': (1.0,)}, 'decodes greedily'),
    ({'verifier': ('greedy',)}, 'sets the rules itself'),
  ):
    with pytest.raises(ValueError, match=words):
      SpecDecConfig(**changes).validate()


def test_slots_beyond_the_main_drafters():
  network = models.SpecDrafterConfig(9, 16, 8, 16, 1, 1, 2, block=8)
  main = recipes.network(network)._replace(name='main')
  specdec.check_slots(main, SpecDecConfig(num_draft=(4, 30), table_draft=8))
  for changes, words in (
    ({'num_draft': (9, 30), 'table_draft': 8}, 'num_draft is 9, but main'),
    ({'num_draft': (4,)}, 'table_draft is 10, but main was made .* most 8'),
  ):
    with pytest.raises(ValueError, match=words):
      specdec.check_slots(main, SpecDecConfig(**changes))
  # The search has no bound.
  free = sources.resolve('suffix')
  specdec.check_slots(free, SpecDecConfig(num_draft=(99,)))


QUICK = (
  '--config=configs/bench_specdec.py:quick --config.num_draft=(2,9) '
  '--config.table_draft=2 --config.relaxed=((1,0.0),(3,9.0)) '
  '--config.dial=(3,9.0) --config.batch_size=(1,) --config.join=1 '
  '--config.num_prompts=2 --config.max_prompt_tokens=12 '
  '--config.max_new_tokens=8 --config.repetitions=1 --config.parts=False'
).split()


@pytest.mark.slow
def test_from_models_to_a_report(tmp_path, capsys):
  """Random models: every figure is there, and beta = 1 is the target's own."""
  target = tiny.save(tmp_path / 'target', tiny.T5)
  config = models.SpecDrafterConfig(
    *(96, 16, 8, 16, 1, 1, 2),
    block=4,
    window=4,
    max_positions=40,
    max_source_positions=12,
    eos_token_id=(2,),
  )
  params = models.init_params(config, jax.random.key(1))
  hf.save_hf(str(tmp_path / 'drafter'), params, config)
  tiny.tokenizer('t5').save_pretrained(str(tmp_path / 'drafter'))
  lines = [f'{a} {b}\t{b} {a}' for a, b in itertools.pairwise(tiny.CORPUS)]
  lines += ['the cat\tcat the', 'a dog ran\tdog', 'the cat sat\tmat']
  (tmp_path / 'test.tsv').write_text('\n'.join(lines) + '\n')
  status = benchmark.main(
    [
      'benchmark',
      f'--target={target}',
      f'--drafter={tmp_path / "drafter"}',
      f'--input={tmp_path / "test.tsv"}',
      f'--output={tmp_path / "report"}',
      *QUICK,
    ]
  )
  assert not status
  shown = capsys.readouterr().out
  assert '## Batches' in shown and 'the drafter alone' in shown
  with open(tmp_path / 'report' / 'results.json', encoding='utf-8') as file:
    rows = json.load(file)
  ways = [
    (r['mode'], r['num_draft'], r['beta'] if r['num_draft'] else 0)
    for r in rows
  ]
  # Nine slots are more than the drafter has.
  assert ways == [
    ('plain', 0, 0),
    ('speculative', 2, 1),
    ('speculative', 2, 3),
    ('beam', 0, 0),
  ]
  assert rows[1]['exact_match'] == 1.0 and rows[1]['check'] == 'ok'
  assert rows[2]['check'] == 'lossy' and rows[2]['relative_bleu'] is not None
  assert all(r['over_beam'] > 0 for r in rows)
  assert (tmp_path / 'report' / 'specdec_slots.png').exists()
