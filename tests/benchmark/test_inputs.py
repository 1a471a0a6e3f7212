"""What the benchmark reads, refuses and computes without measuring."""

import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax import theory
from specjax.benchmark import cases
from specjax.benchmark import explorer
from specjax.benchmark import measure
from specjax.benchmark import memory
from specjax.benchmark import plan
from specjax.benchmark import prompts
from specjax.benchmark import rows
from specjax.benchmark.peers import engines as peers
from specjax.decoding.controls import Sampling
from specjax.inference import random_models
from specjax.inference import sources
from specjax.inference import timing
from specjax.models import SpecDrafterConfig
from tests.helpers import fakes
from tests.helpers import recipes
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import VOCAB

SPEC_BENCH = (
  ('writing', 2), ('translation', 1), ('summarization', 1), ('qa', 1),
  ('math_reasoning', 1), ('rag', 1), ('coding', 2),
)  # fmt: skip


class _Tokenizer:
  """A character a token; stands in for a tokenizer without a template."""

  chat_template = None

  def __call__(self, text, **_):
    class Encoded:
      input_ids = [ord(c) % VOCAB for c in text]

    return Encoded

  def decode(self, tokens, **_):
    return ''.join(chr(97 + t) for t in tokens)


def test_spec_bench_has_six_categories_and_two_turns(tmp_path):
  path = tmp_path / 'question.jsonl'
  path.write_text(
    '\n'.join(
      json.dumps(
        {'question_id': i, 'category': name, 'turns': ['first', 'second'][:n]}
      )
      for i, (name, n) in enumerate(SPEC_BENCH)
    )
  )
  target = markov('folder', 0)._replace(tokenizer=_Tokenizer())
  asked = []

  def answer(firsts):
    asked.extend(firsts)
    return [[1, 2]] * len(firsts)

  made = prompts.collect(target, str(path), config(num_prompts=0), answer)
  assert len({p.category for p in made}) == 6
  assert [p.turn for p in made] == [0] * 7 + [1] * 2
  assert [p.question for p in made] == [*range(7), 0, 6]
  assert len(asked) == 2
  # The second turn stands behind the first and the target's own reply.
  text = 'first\n\nbc\n\nsecond'
  assert made[-1].tokens == tuple(ord(c) % VOCAB for c in text)
  # Where the first turn does not fit there is no reply, and no second turn.
  short = target._replace(lm=target.lm._replace(max_positions=24))
  asked.clear()
  settings = config(num_prompts=0, max_new_tokens=20)
  made = prompts.collect(short, str(path), settings, answer)
  assert not asked and [p.turn for p in made] == [0] * 7
  few = prompts.balanced(prompts.read_spec_bench(str(path)), 6)
  assert len({q.category for q in few}) == 6


def test_origins_of_tokens():
  kinds, rounds = explorer.origins([3, 3, 0, 2], [3, 1, 0, 1], [4, 2, 1, 1], 7)
  assert kinds == [
    'accepted', 'accepted', 'accepted', 'bonus', 'accepted', 'corrected',
    'plain',
  ]  # fmt: skip
  assert rounds == [0, 0, 0, 0, 1, 1, 2]
  # An end token inside a draft: the draft's tail is not emitted.
  assert explorer.origins([3], [2], [2], 2)[0] == ['accepted', 'accepted']


def test_pieces_join_to_the_text():
  tokens = [1, 2, 3] * 30
  assert ''.join(explorer.pieces(_Tokenizer(), tokens)) == 'bcd' * 30
  assert explorer.pieces(None, [5, 6]) == ['5 ', '6 ']


def test_plan_advises():
  rates = {
    ('good', 'greedy'): plan.Accepted([0.8] * 4),
    ('poor', 'greedy'): plan.Accepted([0.1] * 4),
  }
  cheap = plan.Costs(
    10.0, np.full(5, 10.0), {'good': np.zeros(5), 'poor': np.zeros(5)}
  )
  best, worst = plan.choices(rates, cheap, 1)
  assert best.drafter == 'good' and best.num_draft == 4
  assert best.factor == pytest.approx(theory.expected_tokens(0.8, 4))
  assert worst.factor < best.factor
  assert '--config.num_draft=4' in plan.advise(rates, cheap, 1)[-1]
  dear = cheap._replace(blocks=10.0 * np.arange(1, 6))
  assert 'will not help at batch 8' in plan.advise(rates, dear, 8)[-1]


def test_a_plan_keeps_to_what_drafters_were_made_for():
  told = []
  subject = recipes.network(SpecDrafterConfig(9, 16, 8, 16, 1, 1, 2, block=6))
  other = sources.resolve('suffix')
  assert plan._longest([other, subject], 8, told.append) == 6
  assert len(told) == 1 and 'max_draft is 8' in told[0]
  assert plan._longest([other, subject], 4, told.append) == 4
  assert plan._longest([other], 8, told.append) == 8 and len(told) == 1


def test_a_plan_counts_rounds_without_a_draft():
  """They cost a plain step where only drafts are verified as blocks."""
  costs = plan.Costs(1.0, np.array([1.0, 3.0]), {'found': np.zeros(2)})
  always = plan.Accepted([0.5], share=0.2)
  (dear,) = plan.choices({('found', 'greedy'): always}, costs, 1)
  assert dear.factor == pytest.approx(1.1 / 3)
  rates = {('found', 'greedy'): always._replace(adaptive=True)}
  (cheap,) = plan.choices(rates, costs, 1)
  assert cheap.factor == pytest.approx(1.1 / 1.4)
  # In a batch of two a round drafts where one of its rows does.
  (both,) = plan.choices(rates, costs, 2)
  assert both.factor == pytest.approx(1.1 / (1 + 2 * 0.36))


def test_shapes_have_the_sizes_they_are_named_after():
  def size(name):
    shapes = models.abstract_params(random_models.SHAPES[name])
    return sum(x.size for x in jax.tree.leaves(shapes)) / 1e6

  assert size('t5-small') == pytest.approx(60.5, abs=0.1)
  assert size('t5-base') == pytest.approx(222.9, abs=0.1)
  assert size('llama-160m') == pytest.approx(162.4, abs=0.2)
  assert size('llama-68m') == pytest.approx(68.0, abs=0.3)


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'num_draft': (0,)}, 'num_draft'),
    ({'num_draft': ()}, 'num_draft'),
    ({'verifier': ('best',)}, 'verifier'),
    ({'temperature': (float('nan'),)}, 'temperature'),
    ({'temperature': ()}, 'temperature'),
    ({'batch_size': (2.5,)}, 'batch_size'),
    ({'top_p': 0.0}, 'top_p'),
    ({'repetitions': 0}, 'repetitions'),
    ({'dtype': 'int8'}, 'dtype'),
  ],
)
def test_bad_settings(changes, word):
  with pytest.raises(ValueError, match=word):
    config(**changes)


@pytest.mark.parametrize(
  'call, word',
  [
    (lambda: sources.load_target('shape:t6'), 't6'),
    (lambda: peers.check(('vllm',)), 'vllm'),
    (lambda: sources.resolve('simulated:2'), 'acceptance rate'),
    (
      lambda: prompts.collect(markov('m', 0), 'file.txt', config()),
      'no tokenizer',
    ),
  ],
)
def test_bad_input(call, word):
  with pytest.raises(ValueError, match=word):
    call()


def test_a_drafter_that_does_not_exist():
  with pytest.raises(
    FileNotFoundError, match='no drafter magic: give .*suffix'
  ):
    sources.resolve('magic')


def test_a_missing_peer_is_named(monkeypatch):
  monkeypatch.setattr(peers.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match='pip install ctranslate2'):
    peers.check(('ctranslate2',))


@pytest.mark.parametrize('turns', ([], ['first', ' '], 'first', [1]))
def test_turns_that_are_none(tmp_path, turns):
  path = tmp_path / 'question.jsonl'
  good = {'category': 'qa', 'turns': ['what']}
  path.write_text('\n'.join(map(json.dumps, (good, good | {'turns': turns}))))
  with pytest.raises(ValueError, match='line 2: "turns" must be a list'):
    prompts.read_spec_bench(str(path))


@pytest.mark.parametrize(
  'line', ('{"turns": ["cut o', '{"prompt": "what"}', '3')
)
def test_a_line_that_is_no_question_is_named(tmp_path, line):
  path = tmp_path / 'question.jsonl'
  path.write_text(f'{{"turns": ["what"]}}\n\n{line}\n')
  with pytest.raises(ValueError, match='line 3 is no question of Spec-Bench'):
    prompts.read_spec_bench(str(path))


def test_questions_as_editors_write_them(tmp_path):
  path = tmp_path / 'question.jsonl'
  rows = [
    {'category': None, 'turns': ['a\u2028b\x85c']},
    {'category': 'writing', 'turns': ['d', 'e']},
  ]
  text = '\r\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
  path.write_bytes(f'\ufeff{text}\r\n'.encode())
  assert prompts.read_spec_bench(str(path)) == [
    prompts.Question('', ('a\u2028b\x85c',)),
    prompts.Question('mt_bench', ('d', 'e')),
  ]


def test_sources_that_a_drafter_does_not_know():
  target = markov('m', 0)
  short, long = prompts.Prompt((1,) * 6), prompts.Prompt((1,) * 12)

  def network(most):
    return target._replace(
      config=models.SpecDrafterConfig(
        VOCAB, 16, 8, 16, 1, 1, 2, max_source_positions=most
      )
    )

  networks = [target, network(99), network(8)]
  kept = prompts.fitting([short, long], target, config(), 3, networks)
  assert kept == [short]
  with pytest.raises(ValueError, match='longer than the drafters .*8 tokens'):
    prompts.fitting([long], target, config(), 3, networks)


def test_prompts_that_do_not_fit():
  lm = fakes.markov_lm(VOCAB)._replace(max_positions=30)
  target = markov('m', 0)._replace(lm=lm)
  short, long = prompts.Prompt((1,) * 6), prompts.Prompt((1,) * 12)
  assert prompts.fitting([short, long], target, config(), 3) == [short]
  with pytest.raises(ValueError, match='No prompt fits'):
    prompts.fitting([long], target, config(), 3)


def test_turns_of_a_chat_are_one_sample():
  target = markov('m', 0)
  given = [
    prompts.Prompt((1,), question=q, turn=t)
    for q, t in ((0, 0), (1, 0), (0, 1))
  ]
  batches = cases.batches(given, target, config(), Sampling(), 1)
  sample_of = rows.samples(given, batches)
  assert sample_of.tolist() == [0, 1, 0]
  # At batch 2 a batch is a sample, and so is each prompt of another file.
  pairs = cases.batches(given, target, config(), Sampling(), 2)
  assert rows.samples(given, pairs).tolist() == [0, 1]
  others = [prompt._replace(question=None) for prompt in given]
  assert rows.samples(others, batches).tolist() == [0, 1, 2]

  def measured(seconds):
    timings = np.array(seconds, float)[None, :, None].repeat(3, 2)
    engine = measure.Engine('', None, None, 0.0)
    results = [{'tokens': [[7] * n]} for n in (10, 20, 30)]
    return measure.Measured(engine, results, timings, memory.Peak(0, ''))

  found = rows.speed(measured([1, 1, 1]), measured([3, 2, 5]), sample_of)
  assert found['speedup'] == pytest.approx(10 / 3)
  # Question 0: 40 tokens in 2 s and in 8 s; question 1: 20 in 1 s and in 2 s.
  assert found['speedup_spec_bench'] == pytest.approx((20 + 20) / (5 + 10))
  assert found['speedup_mean_of_ratios'] == pytest.approx((4 + 2) / 2)


def test_batches_are_filled():
  target = markov('m', 0)
  given = [prompts.Prompt((1,) * n) for n in (3, 4, 5)]
  made = cases.batches(given, target, config(), Sampling(), 2)
  assert [b.rows for b in made] == [(0, 1), (2, 0)]
  assert isinstance(made[0].prompt, base.Prompt)
  keys = jax.random.key_data(
    jnp.concatenate([b.controls.row_key for b in made])
  )
  assert len(np.unique(np.asarray(keys), axis=0)) == 4


def _command(*arguments, **environment):
  return subprocess.run(
    [sys.executable, '-m', 'decode.benchmark', *arguments],
    capture_output=True,
    text=True,
    env=os.environ | environment,
  )


def test_command_with_bad_input():
  for arguments, status, word in (
    ((), 2, '--target is needed'),
    (('--target=/no/such/folder',), 1, '/no/such/folder'),
    (('--target=shape:t5-tiny', '--config.batches=1'), 2, 'batch_size'),
    (('--target=shape:t5-tiny', '--plan', '--output=x'), 2, 'leave --output'),
  ):
    made = _command(*arguments)
    assert made.returncode == status, made.stderr
    assert made.stdout == '' and word in made.stderr
    assert 'Traceback' not in made.stderr


def test_config_files_load():
  for name in ('bench', 'bench_leviathan', 'bench_speed', 'bench_spec_bench'):
    module = importlib.import_module(f'configs.{name}')
    for arg in ('', 'quick' if name != 'bench' else 'smoke'):
      made = module.get_config(arg)
      made.validate()
      assert dataclasses.is_dataclass(made)
    with pytest.raises(ValueError, match='no variant'):
      module.get_config('nonsense')


def test_a_random_spec_drafter_has_the_targets_width():
  target = sources.load_target('shape:t5-tiny')
  make = functools.partial(
    random_models.load_network, dtype='float32', num_draft=3, seed=1
  )
  made = make('network:spec_drafter', target).config
  assert (made.num_layers, made.num_decoder_layers, made.block) == (12, 2, 3)
  assert made.d_model == target.config.d_model
  with pytest.raises(ValueError, match='drafts for encoder-decoders'):
    make('network:spec_drafter', sources.load_target('shape:llama-tiny'))
  with pytest.raises(ValueError, match="'spec'; known are .*, spec_drafter"):
    make('network:spec', target)


def test_a_parts_time_leaves_out_what_every_call_costs():
  def timer(steps):
    return 0.5 + 0.01 * steps

  assert timing.interleaved([timer]) == pytest.approx([10.0])


def test_an_interrupted_call_does_not_shorten_the_samples():
  """One slow call at first must not leave too few steps to measure."""
  calls = []

  def timer(steps):
    calls.append(steps)
    return 1e-3 * steps + (0.5 if len(calls) == 1 else 0.0)

  assert timing.interleaved([timer]) == pytest.approx([1.0])
  assert max(calls) == pytest.approx(timing.SAMPLE_SECONDS / 1e-3, abs=1)
