"""The benchmark's inputs, refusals and sums, without measurements."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.benchmark import cases
from specjax.benchmark import explorer
from specjax.benchmark import measure
from specjax.benchmark import memory
from specjax.benchmark import prompts
from specjax.benchmark import rows
from specjax.benchmark.peers import engines as peers
from specjax.decoding.controls import Sampling
from specjax.inference import random_models
from specjax.inference import sources
from specjax.inference import timing
from tests.helpers.benchmarks import CharacterTokenizer
from tests.helpers.benchmarks import command
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov


def test_origins_of_tokens():
  kinds, rounds = explorer.origins([3, 3, 0, 2], [3, 1, 0, 1], [4, 2, 1, 1], 7)
  first, second = ['accepted'] * 3 + ['bonus'], ['accepted', 'corrected']
  assert kinds == [*first, *second, 'plain']
  assert rounds == [0, 0, 0, 0, 1, 1, 2]
  # An end token inside a draft: the draft's tail is not emitted.
  assert explorer.origins([3], [2], [2], 2)[0] == ['accepted', 'accepted']


def test_pieces_join_to_the_text():
  tokens = [1, 2, 3] * 30
  assert ''.join(explorer.pieces(CharacterTokenizer(), tokens)) == 'bcd' * 30
  assert explorer.pieces(None, [5, 6]) == ['5 ', '6 ']


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


def test_turns_of_a_chat_are_one_sample():
  target = markov('m', 0)
  given = [
    prompts.EncodedPrompt((1,), question=q, turn=t)
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
  given = [prompts.EncodedPrompt((1,) * n) for n in (3, 4, 5)]
  made = cases.batches(given, target, config(), Sampling(), 2)
  assert [b.rows for b in made] == [(0, 1), (2, 0)]
  assert isinstance(made[0].prompt, base.Prompt)
  keys = jax.random.key_data(
    jnp.concatenate([b.controls.row_key for b in made])
  )
  assert len(np.unique(np.asarray(keys), axis=0)) == 4


def test_command_with_bad_input():
  for arguments, status, word in (
    ((), 2, '--target is needed'),
    (('--target=/no/such/folder',), 1, '/no/such/folder'),
    (('--target=shape:t5-tiny', '--config.batches=1'), 2, 'batch_size'),
    (('--target=shape:t5-tiny', '--plan', '--output=x'), 2, 'leave --output'),
  ):
    made = command(*arguments)
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
    with pytest.raises(ValueError, match='Unknown variant'):
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
