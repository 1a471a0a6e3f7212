"""From folders to models; each kind of bad folder gets one clear sentence."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax import loading
from specjax import models
from specjax.models import hf
from specjax.models import prepared
from tests import shared
from tests import tiny
from tests.models.test_cached import CONFIGS

CONFIG = dataclasses.replace(
  CONFIGS['decoder'], vocab_size=104, model_type='mistral', hidden_act='silu',
  sliding_layers=(True, True), eos_token_id=(2, 3),
)  # fmt: skip


@pytest.fixture(scope='module')
def params():
  return models.init_params(CONFIG, jax.random.key(0))


@pytest.fixture
def folder(params, tmp_path):
  """A whole tiny model with a tokenizer of 96 ids and a table of 104 rows."""
  path = tmp_path / 'model'
  hf.save_hf(str(path), params, CONFIG)
  tiny.tokenizer().save_pretrained(path)
  return path


def change(folder, name, **fields):
  path = folder / name
  data = json.loads(path.read_text()) | fields
  path.write_text(json.dumps({k: v for k, v in data.items() if v != 'gone'}))


def change_tensors(folder, edit):
  path = folder / 'model.safetensors'
  tensors = safetensors_numpy.load_file(path)
  edit(tensors)
  safetensors_numpy.save_file(tensors, path)


def complaint(folder, kind=ValueError):
  with pytest.raises(kind) as caught:
    loading.load(folder)
  text = str(caught.value)
  assert '\n' not in text and text.endswith('.')
  return text


def assert_same(params, stored):
  """What was loaded is what is stored, but for the order of matrices."""
  found = prepared.stored(params)
  jax.tree.map(np.testing.assert_array_equal, found, stored)


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


def shard(folder):
  """Splits the weights in two files and an index."""
  tensors = safetensors_numpy.load_file(folder / 'model.safetensors')
  os.remove(folder / 'model.safetensors')
  names = sorted(tensors)
  where = {}
  for part, keys in enumerate((names[:5], names[5:])):
    file = f'model-{part + 1:05}-of-00002.safetensors'
    safetensors_numpy.save_file({k: tensors[k] for k in keys}, folder / file)
    where |= dict.fromkeys(keys, file)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  return index, where


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


def test_missing_folder_and_hub(monkeypatch, tmp_path):
  text = complaint(tmp_path / 'absent', FileNotFoundError)
  assert 'there is no folder' in text and 'absent' in text
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  text = complaint('nobody-here/no-such-model', FileNotFoundError)
  assert 'nobody-here/no-such-model' in text and 'cannot be fetched' in text


def test_missing_files(folder):
  os.rename(folder / 'model.safetensors', folder / 'pytorch_model.bin')
  text = complaint(folder, FileNotFoundError)
  assert 'model.safetensors' in text and 'pytorch_model.bin' in text
  os.remove(folder / 'config.json')
  assert 'no config.json' in complaint(folder, FileNotFoundError)


@pytest.mark.parametrize('text', ['{', '[]', '\x00'])
def test_broken_config(folder, text):
  (folder / 'config.json').write_text(text)
  assert 'config.json' in complaint(folder)


def test_unsupported_architecture(folder):
  change(
    folder, 'config.json', model_type='bert', architectures=['BertForMaskedLM']
  )
  text = complaint(folder)
  assert 'BertForMaskedLM' in text
  assert 'LlamaForCausalLM' in text and 'T5ForConditionalGeneration' in text
  change(
    folder,
    'config.json',
    model_type='llama',
    architectures=['LlamaForSequenceClassification'],
  )
  assert 'LlamaForSequenceClassification' in complaint(folder)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'quantization_config': {'bits': 4}}, 'quantised'),
    ({'rope_parameters': {'rope_type': 'dynamic'}}, "rope type 'dynamic'"),
    ({'rope_parameters': {'rope_type': 'linear'}}, 'factor must be a number'),
    (
      {'rope_parameters': {'rope_type': 'yarn', 'factor': 4, 'beta_fast': '3'}},
      "beta_fast must be a number, not '3'",
    ),
    ({'hidden_act': 'mish'}, "activation 'mish'"),
    ({'hidden_size': 'gone'}, "lacks 'hidden_size'"),
    ({'num_attention_heads': 0}, 'num_attention_heads must be a positive'),
    ({'architectures': 'BertModel'}, "the architecture 'BertModel'"),
    ({'model_type': ['llama']}, 'model_type'),
    ({'rope_parameters': 3}, 'rope_parameters must be an object'),
    ({'layer_types': 3}, 'config.json of this mistral model has'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers'),
    ({'num_hidden_layers': 1}, 'model.layers.1.'),
    ({'intermediate_size': 17}, 'mlp.down_proj.weight'),
    ({'rms_norm_eps': None}, 'norm_eps must be a number, not None'),
    (
      {'tie_word_embeddings': 'no'},
      'tie_word_embeddings must be true or false',
    ),
    ({'sliding_window': '5'}, "sliding_window must be a whole number, not '5'"),
    ({'eos_token_id': [2, '3']}, 'eos_token_id must be a token id or a list'),
    ({'rope_parameters': {'rope_theta': -1}}, 'rope_theta must be a positive'),
    (
      {'rope_parameters': {'rope_type': 'linear', 'factor': 'x'}},
      "factor must be a number, not 'x'",
    ),
    (
      {
        'rope_parameters': {
          'rope_type': 'llama3',
          'factor': 8.0,
          'low_freq_factor': 4.0,
          'high_freq_factor': 4.0,
        }
      },
      'high_freq_factor must exceed low_freq_factor (4.0)',
    ),
  ],
)
def test_bad_settings(folder, fields, words):
  change(folder, 'config.json', **fields)
  assert words in complaint(folder)


@pytest.mark.parametrize('keep', [0, 5, 100, 0.5, 0.999])
def test_truncated_weights(folder, keep):
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  size = keep if isinstance(keep, int) else int(keep * len(data))
  path.write_bytes(data[:size])
  assert 'model.safetensors' in complaint(folder)


def test_corrupted_weights(folder):
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  path.write_bytes(data[:20] + b'\xff' * 20 + data[40:])
  assert 'model.safetensors' in complaint(folder)


@pytest.mark.parametrize(
  'offsets, words',
  [
    (lambda first: (-8, -8 + first), 'begins before the first tensor'),
    (lambda first: (4, 4 + first), 'begins inside'),
  ],
)
def test_tensors_that_share_bytes(folder, offsets, words):
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  begin, end = header['model.norm.weight']['data_offsets']
  header['model.norm.weight']['data_offsets'] = offsets(end - begin)
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, 'little') + text + data[8 + length :])
  assert words in complaint(folder)


def test_an_index_that_names_no_file(folder):
  (folder / 'model.safetensors').unlink()
  index = folder / 'model.safetensors.index.json'
  for where, words in (({}, 'weight_map'), ({'a': 3}, 'file of a, not 3')):
    index.write_text(json.dumps({'weight_map': where}))
    assert words in complaint(folder)


def test_missing_wrong_and_unknown_tensors(folder):
  name = 'model.layers.1.mlp.up_proj.weight'
  change_tensors(folder, lambda t: t.update({name: np.ones((3, 16), 'f4')}))
  text = complaint(folder)
  assert name in text and '[3, 16]' in text and '[16, 16]' in text
  change_tensors(folder, lambda t: t.update({name: np.ones((16, 16), 'i4')}))
  assert 'int32' in complaint(folder)
  change_tensors(folder, lambda t: t.pop(name) is None)
  assert f'lacks the tensor {name}' in complaint(folder)
  good = np.ones((16, 16), 'f4')
  change_tensors(folder, lambda t: t.update({name: good, 'other.w': good}))
  assert 'other.w' in complaint(folder)


def test_broken_tokenizer(folder):
  (folder / 'tokenizer.json').write_text('{"model": 3}')
  assert 'tokenizer' in complaint(folder)


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


BLOCKED = """
import sys

class Hide:
  def __init__(self, finder):
    self.finder = finder

  def __getattr__(self, name):
    return getattr(self.finder, name)

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('torch', 'tensorflow'):
      return None
    return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
import specjax
from specjax import loading
model = loading.load(sys.argv[1])
assert 'torch' not in sys.modules
text = 'once upon a time'
print(model.tokenizer.decode(model.tokenizer(text).input_ids))
"""


def run_without_torch(folder):
  root = pathlib.Path(loading.__file__).resolve().parents[1]
  return subprocess.run(
    [sys.executable, '-c', BLOCKED, str(folder)],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': str(root), 'JAX_PLATFORMS': 'cpu'},
    check=False,
  )


def test_needs_no_torch(folder):
  done = run_without_torch(folder)
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
