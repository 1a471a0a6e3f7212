"""Quantised blocks, parts of files, and each kind of bad file."""

import os
import pathlib
import struct

import gguf
from gguf import quants
import numpy as np
import pytest

from specjax.checkpoints import convert
from specjax.checkpoints import digests
from specjax.checkpoints import gguf_file
from specjax.checkpoints import load as loading
from specjax.inference import sources
from tests.helpers import ggufs

KINDS = sorted(gguf_file.readable(), key=lambda kind: kind.name)
CLIP, LORA = {'general.type': 'mmproj'}, {'general.type': 'adapter'}


def blocks(kind):
  """Random bytes of a matrix [3, 512]."""
  block, width = gguf.GGML_QUANT_SIZES[kind]
  rng = np.random.default_rng(int(kind))
  return rng.integers(0, 256, (3, 512 // block * width), np.uint8)


def test_26_types_are_read():
  assert len(KINDS) == 26


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.name)
def test_blocks_of_random_bytes(kind, tmp_path):
  data = blocks(kind)
  path = ggufs.write(tmp_path / 'a.gguf', {}, {'x': (data, kind)})
  stored = gguf_file.read([path]).tensors['x']
  assert stored.shape == (3, 512) and stored.kind == kind
  with np.errstate(all='ignore'):
    # Of the package's own reader and of its table of types.
    theirs = quants.dequantize(gguf.GGUFReader(path).tensors[0].data, kind)
  ours = gguf_file.array(stored).astype(np.float32)
  np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def test_a_quantised_model_has_the_values_of_its_blocks(tmp_path):
  arrays = ggufs.tensors()
  kind = gguf.GGMLQuantizationType.Q4_1
  name = 'blk.0.ffn_up.weight'
  arrays[name] = quants.quantize(arrays[name], kind), kind
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), arrays)
  model = loading.load(path, prepare=False)
  weights = model.params['layers_0']['mlp']['up']['weight']
  np.testing.assert_array_equal(weights, quants.dequantize(*arrays[name]))


def test_rows_that_pad_the_table(tmp_path):
  tokens, _ = ggufs.letters()
  values = ggufs.fields()
  values['tokenizer.ggml.tokens'] = [*tokens[:-2], '[PAD58]', '[PAD59]']
  values['tokenizer.ggml.merges'] = ['! "']
  values['tokenizer.ggml.tokens'][5] = '!"'
  values['tokenizer.ggml.token_type'] = [1] * 58 + [5, 5]
  model = loading.load(
    ggufs.write(tmp_path / 'a.gguf', values, ggufs.tensors())
  )
  assert model.vocab_size == 58 and model.config.vocab_size == 60


def test_a_head_that_repeats_the_table_is_the_table(tmp_path):
  arrays = ggufs.tensors()
  arrays['output.weight'] = arrays['token_embd.weight']
  one = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), arrays)
  arrays['output.weight'] = arrays['token_embd.weight'] + 1
  two = ggufs.write(tmp_path / 'b.gguf', ggufs.fields(), arrays)
  assert loading.load(one).config.tie_word_embeddings
  assert not loading.load(two).config.tie_word_embeddings


def parts(tmp_path):
  """A model in three files."""
  arrays, paths = ggufs.tensors(), []
  names = [list(arrays)[i::3] for i in range(3)]
  for i, some in enumerate(names):
    values = ggufs.fields() if i == 0 else {}
    values = values | {'split.no': i, 'split.count': 3}
    values['split.tensors.count'] = len(arrays)
    path = tmp_path / f'm-{i + 1:05d}-of-00003.gguf'
    paths.append(ggufs.write(path, values, {n: arrays[n] for n in some}))
  return paths


def test_parts(tmp_path):
  paths = parts(tmp_path)
  whole = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  one = loading.load(whole, prepare=False).params
  for path in paths[::2]:
    other = loading.load(path, prepare=False).params
    np.testing.assert_array_equal(
      one['embed']['weight'], other['embed']['weight']
    )
  os.remove(paths[1])
  with pytest.raises(FileNotFoundError, match='m-00002-of-00003.gguf is miss'):
    loading.load(paths[0])


def test_names_of_files_and_folders(tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  sources.check_name(path)
  assert sources.config_of(path).hidden_size == ggufs.WIDTH
  folder = str(tmp_path / 'folder')
  convert.execute(convert.plan(convert.Conversion(path, folder)))
  assert sorted(os.listdir(folder)) == [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  # Labels of the file are labels of the folder.
  assert digests.of_target(path) == digests.of_target(folder)
  with pytest.raises(FileNotFoundError, match='there is no file a/b.gguf'):
    loading.load('a/b.gguf')
  # A folder is a folder, whatever its name.
  named = os.path.join(tmp_path, 'folder.gguf')
  os.rename(folder, named)
  assert loading.folder_of(named) == named


def damaged(path, at, data):
  with open(path, 'r+b') as file:
    file.seek(at)
    file.write(data)


@pytest.mark.parametrize(
  'at, data, words',
  [
    (0, b'GGML', "is no GGUF file: it begins with b'GGML'"),
    (4, struct.pack('>I', 3), 'is a big-endian GGUF file'),
    (4, struct.pack('<I', 1), 'is of version 1 of GGUF'),
    (8, struct.pack('<Q', 1 << 60), 'is not a whole GGUF file'),
    (16, struct.pack('<Q', 1 << 60), 'is not a whole GGUF file'),
    (24, struct.pack('<Q', 1 << 60), 'is not a whole GGUF file'),
  ],
)
def test_heads_that_are_wrong(at, data, words, tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  damaged(path, at, data)
  with pytest.raises(ValueError, match=words):
    loading.load(path)
  assert not list((tmp_path / 'cache').rglob('config.json'))


@pytest.mark.parametrize('share', [0.0, 0.001, 0.02, 0.05, 0.3, 0.999])
def test_a_file_that_was_cut_off(share, tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  with open(path, 'r+b') as file:
    file.truncate(int(os.path.getsize(path) * share))
  with pytest.raises(ValueError, match='a.gguf is') as error:
    loading.load(path)
  assert '\n' not in str(error.value)


NEEDED = [key for key in ggufs.fields() if not key.endswith('eos_token_id')]


@pytest.mark.parametrize('key', NEEDED)
def test_metadata_that_is_missing_is_named(key, tmp_path):
  values = ggufs.fields(**{key: None})
  path = ggufs.write(tmp_path / 'a.gguf', values, ggufs.tensors())
  with pytest.raises(ValueError, match=f'lacks {key} in its metadata'):
    loading.load(path)


@pytest.mark.parametrize(
  'changes, arch, words',
  [
    ({}, 'rwkv7', "the architecture 'rwkv7', which is not supported; .*llama"),
    (CLIP, 'clip', 'is a vision projector'),
    (LORA, 'llama', 'holds no model, but a adapter'),
    ({'llama.expert_count': 8}, 'llama', 'with experts'),
    ({'llama.rope.dimension_count': 4}, 'llama', 'dimension_count=4'),
    ({'llama.rope.scaling.type': 'longrope'}, 'llama', "='longrope'"),
    ({'llama.block_count': 'x'}, 'llama', 'block_count .* a whole number'),
    ({'llama.block_count': 5000}, 'llama', 'block_count=5000'),
    ({'llama.attention.head_count': [1, 2]}, 'llama', 'differs by layer'),
    ({'llama.attention.head_count': 0}, 'llama', 'num_attention_heads'),
    ({'llama.attention.value_length': [8, 9]}, 'llama', r'length=\[8, 9\]'),
    ({'general.alignment': 'x'}, 'llama', 'alignment .* a whole number'),
    ({'general.type': 1}, 'llama', 'general.type .* a string'),
    ({'split.no': 'x'}, 'llama', 'split.no .* a whole number'),
    ({'llama.feed_forward_length': 32}, 'llama', 'ffn_down.weight .* shape'),
    ({'tokenizer.ggml.pre': 'smollm9'}, 'llama', "pre='smollm9' .*: .*|smollm"),
    ({'tokenizer.ggml.pre': 'kimi-k2'}, 'llama', "='kimi-k2' in .*supported"),
    ({'tokenizer.ggml.model': 'bert'}, 'llama', "model='bert'"),
    ({'tokenizer.ggml.merges': ['~ z']}, 'llama', 'tokenizer of .* damaged'),
    ({'tokenizer.ggml.eos_token_id': 99}, 'llama', 'eos_token_id=99'),
  ],
)
def test_settings_that_are_not_supported(changes, arch, words, tmp_path):
  values = ggufs.fields() | changes
  path = ggufs.write(tmp_path / 'a.gguf', values, ggufs.tensors(), arch)
  with pytest.raises(ValueError, match=words) as error:
    loading.load(path)
  assert '\n' not in str(error.value)


def test_types_that_are_not_supported(tmp_path):
  arrays = ggufs.tensors()
  kind = gguf.GGMLQuantizationType.Q8_1
  arrays['blk.0.ffn_up.weight'] = blocks(kind)[:, :40], kind
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), arrays)
  with pytest.raises(ValueError, match='ffn_up.weight .* type Q8_1, which is'):
    loading.load(path)
  name = b'blk.0.ffn_up.weight'
  data = pathlib.Path(path).read_bytes()
  # After the name: 4 bytes of axes, 8 for each, then the type.
  at = data.index(name) + len(name) + 20
  damaged(path, at, struct.pack('<I', 77))
  with pytest.raises(ValueError, match='type number 77'):
    loading.load(path)


def test_tensors_that_do_not_fit(tmp_path):
  arrays = ggufs.tensors()
  del arrays['blk.0.attn_q.weight']
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), arrays)
  with pytest.raises(ValueError, match='lacks the tensor blk.0.attn_q.weight'):
    loading.load(path)
  arrays = ggufs.tensors() | {'blk.0.ssm.weight': np.ones(4, np.float32)}
  path = ggufs.write(tmp_path / 'b.gguf', ggufs.fields(), arrays)
  with pytest.raises(ValueError, match='holds the tensor blk.0.ssm.weight'):
    loading.load(path)
