"""Decoding on meshes of simulated devices: the same tokens.

`conftest` simulates eight devices, so that nothing here needs a process of its
own.
"""

import dataclasses
import re

import jax
import pytest

from decode import main
import specjax
from specjax import models
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.commands import cli
from specjax.commands import label as label_command
from specjax.inference.config import DecodeConfig
from tests.helpers import tiny
from tests.helpers.meshes import BUDGET
from tests.helpers.meshes import generate
from tests.helpers.meshes import layout_of
from tests.helpers.meshes import PROMPTS

# Lists of tokens lie on all devices, penalties with their rows.
_WARPED = {
  'temperature': 1.0,
  'verifier': 'coupled',
  'seed': 3,
  'suppress_tokens': [5, 7],
  'bad_words': [[9, 10]],
  'presence_penalty': 0.5,
  'min_new_tokens': 4,
}
CASES = [
  ((1, 8), 'model', {}),
  ((2, 4), 'model', {}),
  ((8, 1), 'prompt_lookup', {}),
  ((2, 4), 'suffix', _WARPED),
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
  # Exact rules: the result is that of plain decoding on one device.
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
  assert status == 2 and '(3, 3)' in err and len(err.splitlines()) == 1
  # What is proposed works, for this model and for the rows of a batch.
  shapes = re.findall(r'\(\d, \d\)', err.partition('shapes that do:')[2])
  assert shapes == ['(8, 1)', '(4, 2)', '(2, 4)', '(1, 8)']
  few = '--config.batch_size=2'
  status, err = decode('none', '--config.mesh.shape=(3, 3)', few)
  assert status == 2 and 'shapes that do: (2, 4), (1, 8).' in err
  assert decode('few', '--config.mesh.shape=(2, 4)', few)[0] == 0
  assert (tmp_path / 'one').read_text() == (tmp_path / 'few').read_text()
  status, err = decode('none', '--config.mesh.shape=(2, 2, 2)')
  assert status == 2 and 'decode with (data, model).' in err
  status, err = decode('none', '--config.mesh.shape=(8, 1)', few)
  assert status == 2 and 'cannot be divided by the 8 devices' in err
  draft = f'--drafter={folders["decoder_draft"]}'
  mesh = ('--config.mesh.shape=(1, 8)', '--config.mesh.drafter=sharded')
  status, err = decode('none', draft, *mesh)
  assert status == 2 and 'With mesh.drafter=sharded, the model axis of 8' in err
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
      label_command.LabelRequest(
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
      TRUNK,
      32,
      1,
      kind='medusa',
      masks=False,
      num_draft=3,
      encoder_width=32,
      start_id=0,
    ),
  ),
}


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
