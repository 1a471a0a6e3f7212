"""Drafters in other projects' formats are named for what they are."""

import json
import re

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax.checkpoints import foreign
from specjax.checkpoints import load as loading
from tests.helpers import tiny

LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'num_hidden_layers': 1,
}


@pytest.mark.parametrize(
  'config, words',
  [
    (
      {'speculators_model_type': 'eagle3', 'architectures': ['Eagle3Draft']},
      "format of speculators (speculators_model_type='eagle3' in config.json)",
    ),
    (LLAMA | {'architectures': ['LlamaForCausalLMEagle3']}, 'of EAGLE-3 ('),
    (LLAMA | {'architectures': ['Eagle3LlamaForCausalLM']}, 'of EAGLE-3 ('),
    (LLAMA | {'draft_vocab_size': 32000}, '(draft_vocab_size in config.json)'),
    ({'model_type': 'eagle', 'architectures': ['EAGLEModel']}, 'of EAGLE ('),
    ({'medusa_num_heads': 5, 'medusa_num_layers': 1}, 'format of Medusa ('),
    ({'model_type': 'medusa', 'architectures': ['MedusaModel']}, 'of Medusa ('),
    ({'model_type': 'mlp_speculator'}, 'format of MLP speculators ('),
  ],
)
def test_by_config_json(config, words, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError) as error:
    loading.load(str(tmp_path))
  assert words in str(error.value)
  assert 'does not read yet' in str(error.value)


def test_by_files_and_tensors(tmp_path, torch):
  heads = tmp_path / 'heads'
  heads.mkdir()
  (heads / 'medusa_lm_head.safetensors').write_bytes(b'')
  with pytest.raises(ValueError, match='Medusa .the file medusa_lm_head'):
    loading.load(str(heads))
  # As EAGLE is published: a config.json of Llama, and the tensors alone differ.
  for name, write in (
    ('model.safetensors', safetensors_numpy.save_file),
    ('pytorch_model.bin', lambda x, path: torch.save(_torch(x, torch), path)),
  ):
    folder = tmp_path / name.partition('.')[2]
    folder.mkdir()
    (folder / 'config.json').write_text(json.dumps(LLAMA))
    tensors = {
      'fc.weight': np.zeros((2, 4), np.float32),
      'layers.0.mlp.up_proj.weight': np.zeros((2, 2), np.float32),
    }
    write(tensors, str(folder / name))
    with pytest.raises(ValueError, match='EAGLE .the tensor fc.weight'):
      loading.load(str(folder))


def _torch(tensors, torch):
  return {name: torch.tensor(value) for name, value in tensors.items()}


@pytest.mark.parametrize('how', ['old', 'shards', 'hub'])
def test_heads_in_files_of_pytorch_alone(how, tmp_path, torch):
  folder, words = tmp_path / 'heads', 'EAGLE (the tensor fc.weight)'
  if how == 'hub':
    # PyTorch's files are not fetched.
    folder = tmp_path / 'models--yuhuili--EAGLE3-Vicuna' / 'snapshots' / '0a1'
    words = 'EAGLE-3 (by the name yuhuili/EAGLE3-Vicuna, and without safeten'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(LLAMA))
  if how == 'old':
    torch.save(
      {'fc.weight': torch.zeros(2, 4)},
      folder / 'pytorch_model.bin',
      _use_new_zipfile_serialization=False,
    )
  elif how == 'shards':
    index = {'weight_map': {'fc.weight': 'pytorch_model-00001-of-00002.bin'}}
    name = 'pytorch_model.bin.index.json'
    (folder / name).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=re.escape(words)):
    loading.load(str(folder))


def test_a_target_may_be_named_after_a_bird(tmp_path):
  """With weights that are read the name of a folder shows nothing."""
  folder = tiny.save(tmp_path / 'EAGLE-target')
  config = (tmp_path / 'EAGLE-target' / 'config.json').read_text()
  foreign.refuse(folder, json.loads(config))


def test_models_are_no_drafters(tmp_path):
  folder = tiny.save(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  foreign.refuse(folder, config)
  foreign.refuse(folder, {'model_type': 'specjax_medusa', 'medusa_heads': 3})
  foreign.refuse(str(tmp_path / 'none'), None)


@pytest.mark.parametrize('eos', [96, -1, [2, 4096]])
def test_end_ids_out_of_range_are_refused(eos, tmp_path):
  folder = tiny.save(tmp_path)
  path = tmp_path / 'generation_config.json'
  path.write_text(json.dumps({'eos_token_id': eos}))
  with pytest.raises(ValueError, match='is none of the 96 ids of the model'):
    loading.load(folder)
