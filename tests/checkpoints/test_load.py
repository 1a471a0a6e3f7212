"""From folders to models."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax import models
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from tests.helpers import hidden
from tests.helpers import shared
from tests.helpers import tiny
from tests.helpers.folders import assert_same
from tests.helpers.folders import change
from tests.helpers.folders import change_tensors
from tests.helpers.folders import complaint
from tests.helpers.folders import CONFIG
from tests.helpers.folders import shard
from tests.helpers.model_configs import CONFIGS


def test_loads_everything(folder, params):
  model = loading.load(folder)
  assert model.config == CONFIG
  assert_same(model.params, params)
  assert model.eos_ids == (2, 3)
  assert model.pad_id == 0
  assert model.name == str(folder)
  assert model.tokenizer('the cat').input_ids[0] == 1
  # Rows that only pad the table are cut off; the parameters keep them.
  assert model.lm.vocab_size == 96
  assert model.params['embed']['weight'].shape == (104, 16)
  assert model.lm is loading.load(folder).lm


def test_without_tokenizer(folder):
  for name in os.listdir(folder):
    if 'token' in name:
      os.remove(folder / name)
  model = loading.load(folder)
  assert model.tokenizer is None
  assert model.lm.vocab_size == 104


def test_bare_tokenizer_json(folder):
  ids = loading.load(folder).tokenizer('the dog').input_ids
  for name in os.listdir(folder):
    if 'token' in name and name != 'tokenizer.json':
      os.remove(folder / name)
  assert loading.load(folder).tokenizer('the dog').input_ids == ids


def test_ids_come_from_generation_config_first(folder):
  change(folder, 'generation_config.json', eos_token_id=5, pad_token_id=7)
  model = loading.load(folder)
  assert (model.eos_ids, model.pad_id) == ((5,), 7)
  os.remove(folder / 'generation_config.json')
  assert loading.load(folder).eos_ids == (2, 3)
  change(folder, 'config.json', eos_token_id=None)
  assert loading.load(folder).eos_ids == (2,)


def test_decoder_start_comes_from_generation_config(tmp_path):
  config = CONFIGS['t5']
  params = models.init_params(config, jax.random.key(0))
  hf.save_hf(str(tmp_path), params, config)
  assert loading.load(tmp_path).lm.start_id == 0
  change(tmp_path, 'generation_config.json', decoder_start_token_id=4)
  model = loading.load(tmp_path)
  assert model.lm.start_id == 4 and model.config.decoder_start_token_id == 4


def test_dtypes(folder, params):
  half = loading.load(folder, dtype='bfloat16')
  assert half.config.dtype == 'bfloat16'
  kinds = {x.dtype for x in jax.tree.leaves(half.params)}
  assert kinds == {jnp.dtype('bfloat16')}
  # Weights stored in bfloat16 stay so unless asked otherwise.
  hf.save_hf(str(folder), half.params, half.config)
  assert loading.load(folder).config.dtype == 'bfloat16'
  whole = loading.load(folder, dtype='float32')
  assert whole.params['norm']['weight'].dtype == jnp.float32
  with pytest.raises(ValueError, match='dtype must be'):
    loading.load(folder, dtype='int8')


@pytest.mark.parametrize(
  'stated, narrow, wanted',
  [
    # The tables' matrix comes first in the file and decides nothing.
    ({}, ('embed_tokens',), 'float32'),
    ({}, ('layers',), 'float32'),
    ({}, ('',), 'bfloat16'),
    ({'dtype': 'bfloat16'}, (), 'bfloat16'),
    ({'torch_dtype': 'torch.float32'}, ('',), 'float32'),
    ({'torch_dtype': 'float16'}, ('',), 'float32'),
    ({'dtype': 'float32', 'torch_dtype': 'bfloat16'}, ('',), 'float32'),
    ({'dtype': None, 'torch_dtype': 'bfloat16'}, (), 'bfloat16'),
  ],
)
def test_dtype_is_the_stated_one_else_the_widest(
  folder, stated, narrow, wanted
):
  def rounded(tensors):
    for name in tensors:
      if any(part in name for part in narrow):
        tensors[name] = tensors[name].astype(jnp.bfloat16)

  change_tensors(folder, rounded)
  path = folder / 'config.json'
  raw = json.loads(path.read_text())
  raw.pop('dtype')
  path.write_text(json.dumps(raw | stated))
  model = loading.load(folder)
  assert model.config.dtype == wanted
  assert {x.dtype.name for x in jax.tree.leaves(model.params)} == {wanted}
  assert folder_lib.describe(str(folder)).dtype == wanted


@pytest.mark.parametrize('stated', ['int8', 'auto', 7, {'': 'float32'}])
def test_a_strange_dtype_in_config_json(folder, stated):
  change(folder, 'config.json', dtype=stated)
  with pytest.raises(ValueError, match='dtype in config.json must be one of'):
    loading.load(folder)


def test_shards(folder, params):
  index, where = shard(folder)
  model = loading.load(folder)
  assert_same(model.params, params)
  name, file = next(iter(where.items()))
  wrong = where | {name: 'model-00002-of-00002.safetensors'}
  index.write_text(json.dumps({'weight_map': wrong}))
  text = complaint(folder)
  assert name in text and 'model-00002' in text
  index.write_text(json.dumps({'weight_map': where}))
  os.remove(folder / file)
  assert file in complaint(folder, FileNotFoundError)
  index.write_text('{}')
  assert 'weight_map' in complaint(folder)


def test_head_equal_to_the_table_is_tied(folder):
  def tie(tensors):
    tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'].copy()

  change_tensors(folder, tie)
  change(folder, 'config.json', tie_word_embeddings=True)
  model = loading.load(folder)
  assert model.config.tie_word_embeddings and 'head' not in model.params
  change_tensors(folder, lambda t: t['lm_head.weight'].__setitem__((0, 0), 9.0))
  assert not loading.load(folder).config.tie_word_embeddings


@pytest.mark.parametrize(
  'config, kept',
  [
    (tiny.T5, 'lm_head.weight'),
    (tiny.T5, 'decoder.embed_tokens.weight'),
    (
      dataclasses.replace(tiny.T5, tie_word_embeddings=False),
      'decoder.embed_tokens.weight',
    ),
    (
      dataclasses.replace(tiny.DECODER, tie_word_embeddings=True),
      'lm_head.weight',
    ),
  ],
)
def test_a_table_under_another_of_its_names(config, kept, tmp_path):
  """Exporters write a table that several names share under one of them."""
  params = models.init_params(config, jax.random.key(1))
  hf.save_hf(str(tmp_path), params, config)

  def rename(tensors):
    own = 'shared.weight'
    own = own if own in tensors else 'model.embed_tokens.weight'
    tensors[kept] = tensors.pop(own)

  change_tensors(tmp_path, rename)
  model = loading.load(tmp_path, prepare=False)
  assert model.config.tie_word_embeddings == config.tie_word_embeddings
  jax.tree.map(np.testing.assert_array_equal, model.params, params)


@pytest.mark.parametrize('ids', ['2', [1, None], [[1]], 1.0])
def test_end_tokens_that_are_no_ids(ids, folder):
  change(folder, 'generation_config.json', eos_token_id=ids, pad_token_id='0')
  assert 'eos_token_id must be a token id or a list' in complaint(folder)
  change(folder, 'generation_config.json', eos_token_id=[2])
  assert loading.load(folder).eos_ids == (2,)


@pytest.mark.parametrize('start', [-1, 96, '0'])
def test_a_start_token_outside_the_vocabulary(start, tmp_path):
  folder = pathlib.Path(tiny.save(tmp_path, tiny.T5))
  os.remove(folder / 'generation_config.json')
  change(folder, 'config.json', decoder_start_token_id=start)
  assert 'decoder_start_token_id must be' in complaint(folder)


def test_harmless_tensors_are_ignored(folder, params):
  extra = {'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4)}
  change_tensors(folder, lambda t: t.update(extra))
  model = loading.load(folder)
  assert_same(model.params, params)


def test_body_without_prefix(folder, params):
  def strip(tensors):
    for name in [n for n in tensors if n.startswith('model.')]:
      tensors[name.removeprefix('model.')] = tensors.pop(name)

  change_tensors(folder, strip)
  model = loading.load(folder)
  assert_same(model.params, params)


def test_written_weights_are_readable_like_any_file(params, tmp_path):
  (tmp_path / 'any').touch()
  hf.save_hf(str(tmp_path), params, CONFIG)
  modes = {
    (tmp_path / name).stat().st_mode
    for name in ('any', 'config.json', 'model.safetensors')
  }
  assert len(modes) == 1


def test_nothing_half_written(params, tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    pathlib.Path(args[1]).write_bytes(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(safetensors_numpy, 'save_file', fail)
  with pytest.raises(OSError, match='disk full'):
    hf.save_hf(str(tmp_path / 'new'), params, CONFIG)
  assert os.listdir(tmp_path / 'new') == []


SCRIPT = """
from specjax.checkpoints import load as loading
model = loading.load(sys.argv[2])
assert 'torch' not in sys.modules
text = 'once upon a time'
print(model.tokenizer.decode(model.tokenizer(text).input_ids))
"""


def test_needs_no_torch(folder):
  done = hidden.run(SCRIPT, ('torch', 'tensorflow'), str(folder))
  assert done.returncode == 0, done.stderr
  assert 'once upon a time' in done.stdout


@pytest.mark.parametrize('name', ['stories260K', 'llama2xs', 'bitllama3M'])
def test_real_folders(name):
  import tokenizers

  folder = shared.weights(name)
  model = loading.load(folder)
  assert model.eos_ids == (1, 2) and model.pad_id == 0
  assert model.lm.vocab_size == 512 and not model.lm.is_encoder_decoder
  raw = tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')
  text = 'Once upon a time, there  was a girl.\n"Hi," she said. \u00e9\u2603'
  assert model.tokenizer(text).input_ids == raw.encode(text).ids
