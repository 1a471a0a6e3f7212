"""Shapes beside what the device allows: bytes, bandwidth, memory."""

import importlib
import json
import os

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.benchmark import limits
from specjax.benchmark import memory
from specjax.benchmark import report
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.benchmark import table
from specjax.distributed import mesh as mesh_lib
from specjax.inference import random_models
from specjax.inference import sources
from tests.helpers import benchmarks


@pytest.mark.parametrize('name', ['t5-tiny', 'llama-tiny'])
def test_step_bytes_are_the_arguments_of_a_step(name):
  """The compiler drops arguments that a step does not read."""
  model = sources.load_target(f'shape:{name}')
  prompt = base.Prompt(jnp.ones((2, 6), jnp.int32), jnp.full(2, 6))
  shapes = jax.eval_shape(
    lambda: model.lm.prefill(model.params, prompt, capacity=20)
  ).cache
  cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  tokens = jnp.ones((2, 1), jnp.int32)
  step = jax.jit(model.lm.extend).lower(model.params, cache, tokens).compile()
  read = step.memory_analysis().argument_size_in_bytes - tokens.nbytes
  # A few rows of it: what is multiplied by stands in another order.
  read -= model.params['embed']['weight'].nbytes
  assert limits.step_bytes(model, cache) == read


def test_shapes_are_measured_against_the_device(tmp_path):
  get_config = importlib.import_module('configs.bench_shapes').get_config
  settings = get_config('quick')
  settings.num_draft, settings.widths = (2,), (1, 4)
  settings.max_new_tokens, settings.dtype = 8, 'float32'
  settings.validate()
  results = runner.run(
    request_lib.BenchmarkRequest(
      'shape:t5-tiny', ('simulated:0.8',), '', (), settings
    )
  )
  assert not runner.failures(results.rows)
  for row in results.rows:
    widths = {'1', '3', '4'} if row['num_draft'] else {'1', '4'}
    assert set(row['block_ms_by_width']) == widths
    least = 1e3 * row['step_bytes'] / row['bytes_per_second']
    assert row['bandwidth_ms'] == pytest.approx(least)
    assert row['over_bandwidth'] == pytest.approx(row['step_ms'] / least)
    # What a pass needs meanwhile, which is a rough figure, is much of such a
    # small program; tests/inference/test_memory.py holds larger
    # ones to a tenth.
    assert 0.8 < row['estimate_over_memory'] < 1.25, row
  report.write(str(tmp_path), results, settings)
  stored = json.loads((tmp_path / 'results.json').read_text())
  assert [row['step_bytes'] for row in stored] == [
    row['step_bytes'] for row in results.rows
  ]
  text = (tmp_path / 'report.md').read_text()
  assert limits.markdown(results.rows) in text
  assert '| batch | 1 | 4 |' in text
  assert limits.markdown([{'num_draft': 0}]) == ''


def test_large_shapes_are_drawn_where_they_lie(monkeypatch):
  monkeypatch.setattr(random_models, '_LARGE', 1)
  layout = mesh_lib.make_layout(mesh_lib.MeshConfig((2, 4)))
  made = sources.load_target(
    'shape:llama-tiny', dtype='bfloat16', layout=layout
  )
  config = random_models.SHAPES['llama-tiny']
  host = models.init_params(config, jax.random.key(7))
  for path, array in jax.tree_util.tree_leaves_with_path(made.params):
    wanted = host
    for key in path:
      wanted = wanted[key.key]
    values = np.asarray(array, np.float32)
    assert array.dtype == jnp.bfloat16
    assert values.std() == pytest.approx(float(wanted.std()), rel=0.05)
    assert values.mean() == pytest.approx(float(wanted.mean()), abs=0.01)
  attention = made.params['layers_0']['attn']
  # Two key heads on four devices: each is there twice.
  keys = np.asarray(attention['k']['weight']).reshape(4, 16, 64)
  assert np.array_equal(keys[0], keys[1]) and np.array_equal(keys[2], keys[3])
  assert not np.array_equal(keys[0], keys[2])
  assert attention['q']['weight'].sharding.spec == PartitionSpec('model', None)
  assert not np.array_equal(attention['q']['weight'], attention['o']['weight'])


def test_quantize_is_swept(monkeypatch):
  """Each value loads its own models and is checked against its own target."""
  asked = []

  def load(name, *, int8, **_):
    asked.append((name, int8))
    # Eight bits are another target: other seeds stand for that here.
    seed = int(int8) if name == 'shape:target' else 0
    return benchmarks.markov(name, seed, 0.1 * (name == 'shape:draft'))

  monkeypatch.setattr(sources, 'load_target', load)
  settings = benchmarks.config(quantize=('none', 'drafter', 'target', 'both'))
  results = runner.run(benchmarks.request(settings, 'shape:draft'))
  assert asked == [
    (f'shape:{part}', name in (part.replace('draft', 'drafter'), 'both'))
    for name in settings.quantize
    for part in ('target', 'draft')
  ]
  assert not runner.failures(results.rows)
  rows = {r['quantize']: r for r in results.rows if r['num_draft']}
  assert list(rows) == list(settings.quantize)
  assert rows['none']['acceptance_rate'] == rows['drafter']['acceptance_rate']
  assert rows['none']['acceptance_rate'] > rows['target']['acceptance_rate']
  assert 'quantize' in table.text(results.rows).splitlines()[0]
  assert 'quantize' not in table.text(results.rows[:2]).splitlines()[0]
  with pytest.raises(ValueError, match='give one here'):
    request_lib.prepare(benchmarks.request(settings), print)
  with pytest.raises(ValueError, match='eight bits'):
    benchmarks.config(dtype='w8a8', quantize=('both',))
  monkeypatch.setattr(request_lib.peers_lib, 'check', lambda names: None)
  one = benchmarks.request(benchmarks.config(quantize=('both',)))
  with pytest.raises(ValueError, match='leave quantize at none'):
    request_lib.prepare(one._replace(peers=('transformers',)), print)


@pytest.mark.skipif(
  not os.path.exists('/proc/sys/vm/max_map_count'), reason='not Linux'
)
def test_programs_are_released_where_they_are_too_many():
  double = jax.jit(lambda x: 2 * x)
  double(1.0)
  memory.release_programs(1.0)
  assert double._cache_size() == 1
  memory.release_programs(0.0)
  assert double._cache_size() == 0
  assert double(2.0) == 4.0
