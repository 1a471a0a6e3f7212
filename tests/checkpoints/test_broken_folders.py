"""Each kind of bad folder gets one clear sentence."""

import json
import os

import numpy as np
import pytest

from specjax.checkpoints import load as loading
from tests.helpers.folders import change
from tests.helpers.folders import change_tensors
from tests.helpers.folders import complaint


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


DEEP = '{"a": ' + '[' * 100_000 + ']' * 100_000 + '}'


@pytest.mark.parametrize('text', ['{', '[]', '\x00', DEEP])
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
    ({'model_type': None}, 'names no model_type, such as "llama", but None'),
    ({'architectures': 7}, 'architectures in config.json must be a list'),
    ({'architectures': [7]}, '["LlamaForCausalLM"], not [7].'),
    ({'architectures': {}}, 'architectures in config.json must be a list'),
    ({'num_hidden_layers': 9_999}, 'has 9999 layers, but the names of its'),
    ({'num_hidden_layers': 10**9}, 'num_hidden_layers must be at most 10000'),
    ({'hidden_size': 2**28}, 'has shape [104, 16], but config.json'),
    ({'vocab_size': 2**40}, 'has shape [104, 16], but config.json'),
    ({'rope_parameters': 3}, 'rope_parameters must be an object'),
    ({'layer_types': 3}, 'layer_types must be a list, not 3.'),
    ({'num_hidden_layers': None}, 'num_hidden_layers must be a positive'),
    ({'num_key_value_heads': []}, 'num_key_value_heads must be a whole'),
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


@pytest.mark.parametrize('field', ['shape', 'dtype', 'data_offsets', None])
def test_a_header_with_fields_of_another_kind(folder, field):
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  entry = header['model.norm.weight']
  for value in (None, True, 7, 1.5, 'x', {}, ['a'], [[1]], [10**30], [1e400]):
    changed = value if field is None else entry | {field: value}
    text = json.dumps(header | {'model.norm.weight': changed}).encode()
    path.write_bytes(
      len(text).to_bytes(8, 'little') + text + data[8 + length :]
    )
    assert 'is not a whole safetensors file' in complaint(folder), value


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


@pytest.mark.parametrize(
  'name, words',
  [
    ('generation_config.json', 'readable JSON: it is nested more than 128'),
    ('tokenizer_config.json', 'readable JSON: it is nested more than 128'),
    ('tokenizer.json', 'the tokenizer files in'),
    ('model.safetensors.index.json', 'is nested more than 128 levels deep'),
  ],
)
def test_json_that_is_nested_too_deep(folder, name, words):
  (folder / name).write_text(DEEP)
  text = complaint(folder)
  assert words in text and str(folder) in text


def test_a_header_that_is_nested_too_deep(folder):
  data = DEEP.encode()
  path = folder / 'model.safetensors'
  path.write_bytes(len(data).to_bytes(8, 'little') + data)
  assert 'safetensors file (it is nested more than 128' in complaint(folder)


@pytest.mark.parametrize('name', ['FancyTokenizer', 7, 'BertModel'])
def test_a_tokenizer_class_that_there_is_not(folder, name):
  change(folder, 'tokenizer_config.json', tokenizer_class=name)
  with pytest.warns(UserWarning, match='transformers does not have') as told:
    made = loading.load(folder).tokenizer
  assert repr(name) in str(told[0].message) and len(told) == 1
  assert made('the cat').input_ids


def test_broken_tokenizer(folder):
  (folder / 'tokenizer.json').write_text('{"model": 3}')
  assert 'tokenizer' in complaint(folder)
