"""Decoding on meshes of simulated devices: the same tokens, and no more talk.

`conftest` simulates eight devices, so that nothing here needs a process of its
own.
"""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from decode import main
import specjax
from specjax import base
from specjax import models
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import safetensors
from specjax.commands import cli
from specjax.commands import label as label_command
from specjax.distributed import mesh as mesh_lib
from specjax.inference.config import DecodeConfig
from specjax.models import sharded
from tests.helpers import tiny

# Two key heads on up to eight devices: they have to be repeated.
DECODER = dataclasses.replace(
  tiny.DECODER, num_attention_heads=8, num_key_value_heads=2
)
T5 = dataclasses.replace(tiny.T5, num_heads=8, gated=True)
PROMPTS = ['the cat sat', 'a dog ran to the red', 'one two', 'once upon'] * 2
BUDGET = 10


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('mesh')
  return {
    name: tiny.save(root / name, config, seed=seed)
    for name, config, seed in (
      ('decoder', DECODER, 0),
      ('decoder_draft', tiny.DECODER, 1),
      ('t5', T5, 2),
      ('t5_draft', tiny.T5, 3),
    )
  }


def layout_of(*shape, **settings):
  return mesh_lib.make_layout(mesh_lib.MeshConfig(shape, **settings))


def generate(folders, kind, drafter, layout=None, **settings):
  target = loading.load(folders[kind], layout=layout)
  if drafter == 'model':
    drafter = loading.load(folders[f'{kind}_draft'])
  elif drafter == 'hybrid':
    drafter = specjax.Hybrid(loading.load(folders[f'{kind}_draft']))
  made = specjax.generate(
    target,
    PROMPTS,
    drafter=drafter,
    max_new_tokens=BUDGET,
    batch_size=8,
    num_draft=3,
    **settings,
  )
  return [answer.tokens for answer in made]


CASES = [
  ((1, 8), 'model', {}),
  ((2, 4), 'model', {}),
  ((8, 1), 'prompt_lookup', {}),
  ((2, 4), 'suffix', {'temperature': 1.0, 'verifier': 'coupled', 'seed': 3}),
  ((1, 8), 'prompt_lookup', {}),
  ((1, 8), 'suffix', {}),
  ((2, 4), 'prompt_lookup', {}),
  ((8, 1), 'model', {}),
  ((8, 1), 'suffix', {}),
  ((1, 8), 'model', {'temperature': 1.0, 'verifier': 'coupled', 'seed': 3}),
  ((8, 1), 'model', {'temperature': 1.0, 'verifier': 'coupled', 'seed': 3}),
]
QUICK = {('decoder', 0), ('t5', 1), ('decoder', 3)}


@pytest.mark.parametrize(
  'kind, number',
  [
    pytest.param(
      kind, number, marks=() if (kind, number) in QUICK else pytest.mark.slow
    )
    for kind in ('decoder', 't5')
    for number in range(len(CASES))
  ],
)
def test_tokens_do_not_depend_on_the_mesh(folders, kind, number):
  shape, drafter, settings = CASES[number]
  # Exact rules: plain decoding on one device says what must come out.
  wanted = generate(folders, kind, None, **(settings | {'verifier': 'auto'}))
  got = generate(folders, kind, drafter, layout_of(*shape), **settings)
  assert got == wanted
  assert any(len(set(tokens)) > 2 for tokens in wanted)


@pytest.mark.parametrize(
  'kind, drafter, settings',
  [
    pytest.param('decoder', 'hybrid', {}, id='hybrid'),
    pytest.param(
      'decoder',
      'token_recycling',
      {'temperature': 1.0, 'verifier': 'match', 'seed': 3},
      id='token_recycling',
    ),
    pytest.param('decoder', None, {'num_beams': 3}, id='beams'),
    pytest.param('t5', 'hybrid', {}, id='t5-hybrid', marks=pytest.mark.slow),
    pytest.param(
      't5', 'token_recycling', {}, id='t5-recycling', marks=pytest.mark.slow
    ),
    pytest.param('t5', None, {'num_beams': 3}, id='t5-beams'),
  ],
)
def test_other_ways_to_decode_on_a_mesh(folders, kind, drafter, settings):
  alone = generate(folders, kind, drafter, **settings)
  got = generate(folders, kind, drafter, layout_of(2, 4), **settings)
  assert got == alone
  assert any(len(set(tokens)) > 2 for tokens in alone)


def collectives(function, *arguments):
  """Counts (kind, shape) of the messages in a compiled program."""
  text = jax.jit(function).lower(*arguments).compile().as_text()
  names = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter'
  found = re.findall(rf'= (\S+?)(?:{{\S*)? ({names})(?:-start)?\(', text)
  return collections.Counter((kind, shape) for shape, kind in found)


@pytest.mark.parametrize('kind, per_layer', [('decoder', 2), ('t5', 3)])
def test_a_step_sends_no_weights(folders, kind, per_layer):
  model = loading.load(folders[kind], layout=layout_of(2, 4))
  prompt = base.Prompt(
    jnp.ones((8, 4), jnp.int32), jnp.full((8,), 4, jnp.int32)
  )
  cache = model.lm.prefill(model.params, prompt, capacity=16).cache
  found = collectives(
    lambda params, cache, tokens: model.lm.extend(params, cache, tokens)[0],
    model.params,
    cache,
    jnp.ones((8, 5), jnp.int32),
  )
  # An encoder-decoder's layer has a third part, attention to the source. Four
  # rows of five slots lie on each part of the data axis.
  assert found == {
    ('all-reduce', 'f32[4,5,32]'): per_layer + 1,
    ('all-gather', 'f32[4,5,96]'): 1,
  }


def test_every_device_reads_its_part(folders, monkeypatch):
  plain = loading.load(folders['decoder'], prepare=False)
  read = collections.Counter()
  original = safetensors.read_range

  def counting(file, start, into):
    read[start] += 1
    read['bytes'] += into.size
    original(file, start, into)

  monkeypatch.setattr(safetensors, 'read_range', counting)
  layout = layout_of(2, 4)
  model = loading.load(folders['decoder'], layout=layout)
  size = sum(x.nbytes for x in jax.tree.leaves(plain.params))
  # Each byte once, although the data axis holds everything twice.
  assert read.pop('bytes') == size
  assert max(read.values()) == 1
  up = model.params['layers_0']['mlp']['up']['weight']
  assert up.sharding.spec == jax.P('model', None)
  assert {s.data.shape for s in up.addressable_shards} == {(12, 32)}
  # Four devices and two key heads: each head twice.
  key = np.asarray(model.params['layers_0']['attn']['k']['weight'])
  once = np.asarray(plain.params['layers_0']['attn']['k']['weight'])
  np.testing.assert_array_equal(
    key.reshape(2, 2, 8, 32), np.stack([once.reshape(2, 8, 32)] * 2, 1)
  )
  # What one device's part costs, as on a host with that device alone.
  read.clear()
  fetched = {}
  _, leaves, _ = folder_lib.open_folder(folders['decoder'], plain.config)
  shards = 0
  for path, leaf in leaves.items():
    node = model.params
    for name in path:
      node = node[name]
    if node.shape != leaf.shape:
      continue
    index = node.sharding.devices_indices_map(node.shape)[jax.devices()[5]]
    index = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, node.shape))
    fetched[path] = leaf.fetch(index)
    shards += fetched[path].nbytes
  assert read['bytes'] == shards < size / 2


def test_what_a_mesh_cannot_hold(folders):
  def complaint(function):
    with pytest.raises(ValueError) as caught:
      function()
    assert str(caught.value).endswith('.')
    return str(caught.value)

  text = complaint(lambda: layout_of(2, 3))
  assert '(2, 3)' in text and '8' in text and '(2, 4)' in text
  text = complaint(lambda: layout_of(2, 4, rules='heads=modle'))
  assert 'heads=modle' in text
  text = complaint(lambda: layout_of(2, 4, rules='embed=model'))
  assert 'vocab and embed' in text and 'both on model' in text
  text = complaint(
    lambda: sharded.fit(DECODER, layout_of(2, 4, rules='batch=model'))
  )
  assert 'batch and heads' in text and 'mesh.rules' in text
  layout = layout_of(2, 4)
  odd = dataclasses.replace(DECODER, num_attention_heads=6)
  text = complaint(lambda: sharded.fit(odd, layout))
  assert 'model axis of 4' in text and 'heads' in text and '(4, 2)' in text
  odd = dataclasses.replace(T5, d_ff=50)
  assert 'feed-forward' in complaint(lambda: sharded.fit(odd, layout))
  model = loading.load(folders['decoder'], layout=layout)
  text = complaint(
    lambda: specjax.generate(model, 'the cat', batch_size=3, max_new_tokens=4)
  )
  assert 'batch_size=3' in text and '2 devices' in text
  # A table whose rows do not fit is kept whole, a head of 8 devices is not.
  odd = dataclasses.replace(DECODER, vocab_size=97)
  assert sharded.fit(odd, layout).table()['vocab'] is None
  assert sharded.fit(DECODER, layout).table()['vocab'] == ('model',)


def test_the_command_is_the_same(folders, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  source = tmp_path / 'prompts.txt'
  source.write_text('the cat sat\na dog ran to\n\nonce upon\n')

  def decode(name, *more):
    status = cli.call(
      main.main,
      [
        'decode.main',
        f'--target={folders["decoder"]}',
        '--drafter=prompt_lookup',
        f'--input={source}',
        f'--output={tmp_path / name}',
        '--config.max_new_tokens=8',
        '--config.explain=false',
        '--baseline=none',
        *more,
      ],
    )
    return status, capsys.readouterr().err

  assert decode('one')[0] == 0
  assert decode('many', '--config.mesh.shape=(2, -1)')[0] == 0
  assert (tmp_path / 'one').read_text() == (tmp_path / 'many').read_text()
  status, err = decode('none', '--config.mesh.shape=(3, 3)')
  assert status == 1 and '(3, 3)' in err and len(err.splitlines()) == 1
  draft = f'--drafter={folders["decoder_draft"]}'
  mesh = ('--config.mesh.shape=(1, 8)', '--config.mesh.drafter=sharded')
  status, err = decode('none', draft, *mesh)
  assert status == 1 and 'With mesh.drafter=sharded, the model axis of 8' in err
  status, err = decode('none', '--process_id=1')
  assert status == 2 and '--coordinator' in err


def test_labels_are_the_same(folders, tmp_path):
  source = tmp_path / 'inputs.txt'
  source.write_text('the cat sat\na dog ran to\none two\n')
  written = []
  for name, shape in (('one', ()), ('many', (2, 4))):
    config = DecodeConfig(max_new_tokens=8, batch_size=4)
    config.mesh.shape = shape
    made = label_command.label(
      label_command.Request(
        target=folders['decoder'],
        drafter=folders['decoder_draft'],
        inputs=(str(source),),
        field='source',
        output=str(tmp_path / f'{name}.jsonl'),
        limit=0,
        config=config,
      )
    )
    assert made.answers == 3
    written.append((tmp_path / f'{name}.jsonl').read_text())
  assert written[0] == written[1]


TRUNK = dataclasses.replace(
  tiny.DECODER, num_attention_heads=2, num_key_value_heads=1, head_dim=16
)
NETWORKS = {
  'spec_drafter': (
    't5',
    models.SpecDrafterConfig(96, 16, 8, 32, 1, 1, 2, block=6, window=6),
  ),
  'eagle': (
    'decoder',
    models.ParallelConfig(
      TRUNK, 32, 1, kind='eagle', num_draft=3, feature='fuse'
    ),
  ),
  'medusa': (
    't5',
    models.ParallelConfig(
      TRUNK, 32, 1, kind='medusa', masks=False, num_draft=3,
      encoder_width=32, start_id=0,
    ),
  ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize('name', NETWORKS)
def test_networks_that_only_draft(folders, name, shape):
  kind, config = NETWORKS[name]
  drafter = loading.load(folders[kind])._replace(
    params=models.init_params(config, jax.random.key(5)),
    config=config,
    module=models.make_module(config),
    lm=None,
  )
  wanted = generate(folders, kind, None)
  assert generate(folders, kind, drafter, layout_of(*shape)) == wanted


@pytest.mark.parametrize('dtype', ['int8', 'w8a8'])
def test_a_model_in_eight_bits_moves_as_it_is(folders, dtype):
  """Key heads are repeated here, scales with them; rows are cut in four."""
  int8 = dtype == 'int8'
  model = loading.load(
    folders['decoder'], int8=int8, dtype=None if int8 else dtype
  )
  moved = model_lib.spread(model, layout_of(2, 4))
  assert jax.tree.structure(moved.params) == jax.tree.structure(model.params)
  for new, old in zip(
    jax.tree.leaves(moved.params), jax.tree.leaves(model.params), strict=True
  ):
    assert new.dtype == old.dtype
  kinds = {x.dtype.name for x in jax.tree.leaves(moved.params)}
  assert kinds == {'int8', 'float32'}

  def tokens(model):
    made = specjax.generate(
      model,
      PROMPTS,
      drafter='prompt_lookup',
      max_new_tokens=BUDGET,
      num_draft=3,
    )
    return [answer.tokens for answer in made]

  assert tokens(moved) == tokens(model)


def test_half_precision_is_kept(folders):
  layout = layout_of(2, 4)
  for kind in ('decoder', 't5'):
    model = loading.load(folders[kind], layout=layout, dtype='bfloat16')
    made = jax.eval_shape(
      lambda params, prompt, model=model: model.lm.prefill(
        params, prompt, capacity=16
      ),
      model.params,
      base.Prompt(jnp.ones((8, 4), jnp.int32), jnp.full((8,), 4, jnp.int32)),
    )
    scored = jax.eval_shape(
      lambda params, cache, tokens, model=model: model.lm.extend(
        params, cache, tokens
      )[0],
      model.params,
      made.cache,
      jnp.ones((8, 3), jnp.int32),
    )
    assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {'bfloat16'}
    assert {x.dtype.name for x in made.cache.keys} == {'bfloat16'}
    assert made.cache.keys[0].dtype == made.cache.values[0].dtype
    assert scored.logits.dtype == jnp.float32
