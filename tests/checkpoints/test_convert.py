"""Checkpoints in and out: every family, bit for bit, and what goes wrong."""

import json
import os
import pathlib

import ml_dtypes
import numpy as np
import pytest
import tensorstore

from specjax import models
from specjax.checkpoints import convert
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.checkpoints import safetensors
from specjax.commands import cli
from tests.helpers import disks
from tests.helpers import tiny
from tests.helpers import torch_reference
from tests.helpers.t5x_folders import drawn
from tests.helpers.t5x_folders import run
from tests.helpers.t5x_folders import save_t5x
from tests.helpers.t5x_folders import T5_GATED
from tests.helpers.t5x_folders import write
from train import convert as command


def tensors(folder):
  found = {}
  for path in sorted(pathlib.Path(folder).glob('*.safetensors')):
    for name, stored in safetensors.read_header(str(path)).items():
      found[name] = safetensors.read(stored)
  return found


def same(one, other):
  assert one.keys() == other.keys()
  for name, value in one.items():
    assert value.dtype == other[name].dtype, name
    assert value.tobytes() == other[name].tobytes(), name


@pytest.fixture(scope='module')
def torch():
  return pytest.importorskip('torch', reason='PyTorch is not installed.')


@pytest.mark.parametrize('name', torch_reference.FAMILIES)
def test_every_family_goes_through_orbax_and_back(name, torch, tmp_path):
  theirs = torch_reference.build(name, torch).to(torch.bfloat16)
  source = torch_reference.save(theirs, tmp_path / 'source')
  run(source=source, target=tmp_path / 'orbax', to='orbax')
  run(source=tmp_path / 'orbax', target=tmp_path / 'back')
  run(source=source, target=tmp_path / 'direct')
  written = tensors(tmp_path / 'back')
  same(written, tensors(tmp_path / 'direct'))
  before = tensors(source)
  same(written, {key: before[key] for key in written})
  again, info = type(theirs).from_pretrained(
    tmp_path / 'back', output_loading_info=True, dtype='auto'
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  assert again.dtype == torch.bfloat16
  for key, value in theirs.state_dict().items():
    assert torch.equal(again.state_dict()[key], value), key


def test_unprefixed_names_and_spare_tensors_are_normalised(tmp_path):
  source = tmp_path / 'source'
  tiny.save(source)
  whole = tensors(source)
  bare = {
    name.removeprefix('model.'): value for name, value in whole.items()
  } | {'layers.0.self_attn.rotary_emb.inv_freq': np.ones(4, np.float32)}
  write(source, bare)
  run(source=source, target=tmp_path / 'out')
  same(tensors(tmp_path / 'out'), whole)
  assert loading.load(tmp_path / 'out').tokenizer is not None


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('gated', [False, True])
def test_t5x(scanned, gated, tmp_path):
  config = T5_GATED if gated else tiny.T5
  dtype = ml_dtypes.bfloat16 if gated else np.float32
  params = drawn(config, dtype)
  hf.save_hf(str(tmp_path / 'wanted'), params, config)
  save_t5x(tmp_path / 't5x', config, params, scanned)
  run(
    source=tmp_path / 't5x', model=tmp_path / 'wanted', target=tmp_path / 'out'
  )
  same(tensors(tmp_path / 'out'), tensors(tmp_path / 'wanted'))
  assert loading.load(tmp_path / 'out').config.tie_word_embeddings != gated


def test_t5x_complaints(tmp_path):
  config = T5_GATED
  params = drawn(config)
  hf.save_hf(str(tmp_path / 'model'), params, config)
  folder = tmp_path / 't5x'
  save_t5x(folder, config, params, True)
  request = convert.Conversion(
    str(folder), str(tmp_path / 'out'), model=str(tmp_path / 'model')
  )
  with pytest.raises(ValueError, match='does not describe its model'):
    convert.plan(request._replace(model=''))
  name = 'target.encoder.encoder.relpos_bias.rel_embedding'
  where = {'driver': 'file', 'path': str(folder / name)}
  store = tensorstore.open({'driver': 'zarr', 'kvstore': where}).result()
  store[:, 1].write(7).result()
  with pytest.raises(ValueError, match='differs between layers'):
    convert.execute(convert.plan(request))
  assert sorted(os.listdir(tmp_path)) == ['model', 't5x']
  chunk = folder / 'target.token_embedder.embedding' / '0.0'
  data = chunk.read_bytes()
  chunk.unlink()
  with pytest.raises(ValueError, match=r'embedding/0\.0, a part of the array'):
    convert.plan(request)
  chunk.write_bytes(data)
  (folder / name / '.zarray').unlink()
  with pytest.raises(ValueError, match=r'rel_embedding/\.zarray, the metadata'):
    convert.plan(request)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'num_decoder_layers': 2}, 'holds 3 layers, but config.json gives the'),
    ({'num_layers': 5}, 'holds 2 layers, but config.json gives the encoder 5'),
    ({'d_ff': 14}, r'has shape \[12, 16\], but config.json makes it \[14, 16'),
    ({'vocab_size': 25}, 'token_embedder/embedding .* has shape'),
  ],
)
def test_t5x_arrays_of_another_config(fields, words, tmp_path):
  params = drawn(T5_GATED)
  hf.save_hf(str(tmp_path / 'model'), params, T5_GATED)
  save_t5x(tmp_path / 't5x', T5_GATED, params, True)
  change(tmp_path / 'model', fields)
  with pytest.raises(ValueError, match=words):
    run(
      source=tmp_path / 't5x', model=tmp_path / 'model', target=tmp_path / 'out'
    )
  assert not (tmp_path / 'out').exists()


def test_t5x_with_another_family(tmp_path):
  save_t5x(tmp_path / 't5x', T5_GATED, drawn(T5_GATED), False)
  model = tiny.save(tmp_path / 'model')
  with pytest.raises(
    ValueError, match='holds a T5, but config.json is of a ll'
  ):
    run(source=tmp_path / 't5x', model=model, target=tmp_path / 'out')


def change(folder, fields, without=()):
  path = pathlib.Path(folder) / 'config.json'
  made = json.loads(path.read_text()) | fields
  path.write_text(
    json.dumps({k: v for k, v in made.items() if k not in without})
  )


@pytest.mark.parametrize('kind', ['t5x', 'hf'])
def test_the_weights_decide_whether_a_head_is_tied(kind, tmp_path):
  """transformers 5 writes of every T5 that its head is tied."""
  params = drawn(T5_GATED)
  for name in ('wanted', 'hf', 't5x'):
    hf.save_hf(str(tmp_path / name), params, T5_GATED)
  tied = {'tie_word_embeddings': True}
  change(tmp_path / kind, tied, without=('scale_decoder_outputs',))
  options = {'source': tmp_path / 'hf'}
  # T5X scales what goes into a table, and nothing else.
  scaled = kind == 'hf'
  if kind == 't5x':
    options = {'source': tmp_path / 'arrays', 'model': tmp_path / 't5x'}
    save_t5x(tmp_path / 'arrays', T5_GATED, params, True)
  else:
    assert loading.load(tmp_path / 'hf').config.scale_decoder_outputs
  run(target=tmp_path / 'out', **options)
  same(tensors(tmp_path / 'out'), tensors(tmp_path / 'wanted'))
  made = loading.load(tmp_path / 'out').config
  assert not made.tie_word_embeddings
  assert made.scale_decoder_outputs == scaled


@pytest.mark.parametrize('kind', ['medusa', 'blockwise'])
def test_drafter_networks_go_through(kind, tmp_path):
  config = models.BlockwiseConfig(24, 16, 12, 4)
  if kind == 'medusa':
    config = models.ParallelConfig(
      tiny.DECODER, 32, 1, kind='medusa', masks=False, num_draft=3
    )
  hf.save_hf(str(tmp_path / 'source'), drawn(config), config)
  run(source=tmp_path / 'source', target=tmp_path / 'orbax', to='orbax')
  run(source=tmp_path / 'orbax', target=tmp_path / 'back')
  same(tensors(tmp_path / 'back'), tensors(tmp_path / 'source'))


def test_complaints(tmp_path):
  source = tmp_path / 'source'
  tiny.save(source)
  whole = tensors(source)
  write(source, whole, shard_bytes=4000)
  request = convert.Conversion(str(source), str(tmp_path / 'out'))
  shards = sorted(source.glob('model-*'))
  assert len(shards) > 2
  index = source / 'model.safetensors.index.json'
  text = index.read_text(encoding='utf-8')
  changed = json.loads(text)
  changed['weight_map']['model.norm.weight'] = shards[0].name
  index.write_text(json.dumps(changed), encoding='utf-8')
  with pytest.raises(ValueError, match='lacks the tensor model.norm.weight'):
    convert.plan(request)
  index.write_text(text, encoding='utf-8')
  kept = shards[1].read_bytes()
  shards[1].write_bytes(kept[:-8])
  with pytest.raises(ValueError, match='ends after the file'):
    convert.plan(request)
  shards[1].unlink()
  with pytest.raises(FileNotFoundError, match=f'shard {shards[1].name}'):
    convert.plan(request)
  shards[1].write_bytes(kept)
  run(source=source, target=tmp_path / 'out')
  same(tensors(tmp_path / 'out'), whole)
  with pytest.raises(FileExistsError, match='exists already'):
    convert.plan(request)


@pytest.mark.parametrize('to', convert.FORMATS)
def test_a_disk_that_takes_no_more(to, tmp_path):
  source = tiny.save(tmp_path / 'source')
  target = tmp_path / ('out.gguf' if to == 'gguf' else 'out')
  plan = convert.plan(convert.Conversion(source, str(target), to))
  words = r'^Cannot write .*: File too large.$'
  with disks.room_for(1000), pytest.raises(OSError, match=words):
    convert.execute(plan)
  assert os.listdir(tmp_path) == ['source']


def test_dry_run_prints_the_mapping_and_writes_nothing(tmp_path, capsys):
  source = tiny.save(tmp_path / 'source')
  options = [f'--input={source}', f'--output={tmp_path / "out"}']
  assert cli.call(command.main, ['convert', *options, '--dry_run']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert 'model.norm.weight -> model.norm.weight F32 [' in '\n'.join(lines)
  assert len(lines) == len(tensors(source))
  assert os.listdir(tmp_path) == ['source']
  assert cli.call(command.main, ['convert', *options, '--to=orbax']) == 0
  assert 'tensors written' in capsys.readouterr().err
  assert cli.call(command.main, ['convert', *options[:1]]) == 2
  assert '--output' in capsys.readouterr().err
