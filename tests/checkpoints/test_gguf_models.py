"""Networks read from GGUF compute what their sources do; both converters."""

import copy

import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import models
from specjax.checkpoints import convert
from specjax.checkpoints import load as loading
from tests.helpers import ggufs
from tests.helpers import torch_reference

torch = pytest.importorskip('torch')

TOKENS = np.array([[5, 9, 31, 7, 22, 50, 3, 14, 8, 41, 2, 6]])


def ours(path, name):
  """Logits of all positions, teacher-forced."""
  model = loading.load(path, dtype='float32', prepare=False)
  variables = {'params': model.params}
  if name in torch_reference.T5S:
    return model.module.apply(variables, TOKENS, TOKENS > 0, TOKENS[:, :5])
  return model.module.apply(variables, jnp.asarray(TOKENS))


def of_torch(model, name):
  with torch.no_grad():
    ids = torch.tensor(TOKENS)
    if name in torch_reference.T5S:
      return model(ids, decoder_input_ids=ids[:, :5]).logits.numpy()
    return model(ids).logits.numpy()


def as_read_by_transformers(path, source):
  """The model of a file, as transformers reads it."""
  from transformers import modeling_gguf_pytorch_utils as reading

  # transformers 5 ties every T5, as `torch_reference` notes.
  empty = copy.deepcopy(source)
  found = reading.load_gguf_checkpoint(
    path, return_tensors=True, model_to_load=empty
  )
  with torch.no_grad():
    for value in empty.parameters():
      value.fill_(np.nan)  # What is not read again has no number.
  empty.load_state_dict(found['tensors'], strict=False)
  return empty


@pytest.mark.parametrize('name', ggufs.SETTINGS)
def test_logits_of_a_converted_model(name, tmp_path, monkeypatch):
  source = ggufs.build(name, torch)
  folder = tmp_path / 'source'
  torch_reference.save(source, folder)
  path = ggufs.by_llama_cpp(folder, tmp_path / 'theirs.gguf', monkeypatch)
  logits = np.asarray(ours(path, name))
  np.testing.assert_allclose(logits, of_torch(source, name), atol=1e-4)
  if name == 'gemma':
    with pytest.raises(ValueError, match='gemma is not supported yet'):
      as_read_by_transformers(path, source)
  elif name != 'llama3_rope':  # Of its scaling transformers reads no factors.
    again = as_read_by_transformers(path, source)
    np.testing.assert_allclose(logits, of_torch(again, name), atol=1e-4)
  # Ours of the folder that it became.
  (folder / 'tokenizer.json').unlink()
  mine = ggufs.by_us(folder, tmp_path / 'ours.gguf')
  np.testing.assert_allclose(np.asarray(ours(mine, name)), logits, atol=1e-5)


@pytest.mark.parametrize(
  'gguf_type, most', [('F32', 1e-6), ('F16', 5e-3), ('BF16', 4e-2)]
)
def test_types_that_are_written(gguf_type, most, tmp_path):
  source = ggufs.build('llama', torch)
  torch_reference.save(source, tmp_path / 'source')
  path = ggufs.by_us(tmp_path / 'source', tmp_path / 'a.gguf', gguf_type)
  there, back = (
    loading.load(x, dtype='float32').params for x in (tmp_path / 'source', path)
  )
  one, other = (np.asarray(x['embed']['weight']) for x in (there, back))
  np.testing.assert_allclose(one, other, atol=most)
  assert gguf_type == 'F32' or np.abs(one - other).max() > 0


def test_q8_0_and_back_to_a_folder(tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  plan = convert.plan(convert.Conversion(path, str(tmp_path / 'folder')))
  convert.execute(plan)
  small = ggufs.by_us(tmp_path / 'folder', tmp_path / 'b.gguf', 'Q8_0')
  one = loading.load(tmp_path / 'folder')
  other = loading.load(small)
  assert one.config == other.config and other.eos_ids == (2,)
  a, b = (np.asarray(x.params['embed']['weight']) for x in (one, other))
  scale = np.abs(a).reshape(-1, 32).max(1) / 127
  assert 0 < np.abs(a - b).max() <= 0.51 * scale.max()
  assert one.tokenizer('ABC12').input_ids == other.tokenizer('ABC12').input_ids
  with pytest.raises(ValueError, match='must end in .gguf'):
    ggufs.by_us(tmp_path / 'folder', tmp_path / 'c.bin')
  with pytest.raises(FileExistsError, match='b.gguf exists'):
    ggufs.by_us(tmp_path / 'folder', tmp_path / 'b.gguf')


@pytest.mark.parametrize(
  'name, changes, words',
  [
    ('mistral', {}, 'sliding_window=5'),
    ('gemma2', {}, 'query_pre_attn_scalar=12'),
    ('bitnet', {}, 'a bitnet model cannot be written as GGUF'),
    ('t5_tied', {}, 'relative_attention_max_distance=12'),
    ('gpt2', {'activation_function': 'relu'}, "hidden_act='relu'"),
  ],
)
def test_what_gguf_cannot_hold(name, changes, words, tmp_path):
  source = torch_reference.build(name, torch, **changes)
  torch_reference.save(source, tmp_path / 'source')
  with pytest.raises(ValueError, match=words):
    ggufs.by_us(tmp_path / 'source', tmp_path / 'a.gguf')
  assert not (tmp_path / 'a.gguf').exists()


def test_a_target_and_a_drafter(tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  plain, drafted = (
    specjax.generate(
      path, ['ABAB', 'CD'], drafter=drafter, max_new_tokens=9, ignore_eos=True
    )
    for drafter in (None, path)
  )
  assert [a.tokens for a in plain] == [a.tokens for a in drafted]
  assert specjax.estimate_memory(path) and models.is_language_model(
    specjax.load(path).config
  )
