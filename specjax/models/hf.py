"""Hugging Face folders: config.json and safetensors, read and written.

Only numpy and the safetensors format are involved; neither PyTorch nor the
transformers library is needed. Every complaint is one sentence that names the
file or the tensor.
"""

import dataclasses
import json
import os
from typing import Any, Mapping, Optional

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from specjax.models import abstract_params
from specjax.models import decoder_hf
from specjax.models import names
from specjax.models import t5_config
from specjax.models.t5_config import T5Config

_WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'


def read_json(folder: str, name: str) -> Optional[dict]:
  """Returns a parsed JSON object, or None if the file does not exist.

  Raises:
    ValueError: the file is no JSON object.
  """
  path = os.path.join(folder, name)
  if not os.path.isfile(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      made = json.load(file)
  except (ValueError, OSError) as error:
    raise ValueError(f'{path} is not readable JSON: {error}.') from None
  if not isinstance(made, dict):
    raise ValueError(f'{path} must hold a JSON object.')
  return made


def read_config(folder: str) -> dict:
  """Returns the parsed config.json, its architecture being supported.

  Raises:
    FileNotFoundError: there is no folder or no config.json in it.
    ValueError: the file is broken or the architecture is not supported.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'there is no folder {folder}.')
  config = read_json(folder, 'config.json')
  if config is None:
    raise FileNotFoundError(
      f'{folder} holds no config.json: give a folder in Hugging Face format.'
    )
  check_supported(config)
  return config


def check_supported(config: Mapping[str, Any]):
  """Raises ValueError unless config.json names a supported architecture."""
  kind = config.get('model_type')
  if config.get('quantization_config'):
    raise ValueError(
      f'this {kind} checkpoint is quantised (quantization_config in '
      'config.json), which is not supported; use float32 or bfloat16 weights.'
    )
  known = t5_config.ARCHITECTURES | decoder_hf.ARCHITECTURES
  architecture = (config.get('architectures') or [known.get(kind)])[0]
  # Hub files of GPT-2 and some T5 spell the same language model otherwise.
  also = {'gpt2': 'GPT2Model', 't5': 'T5WithLMHeadModel'}
  if kind in known and architecture in (known[kind], also.get(kind)):
    return
  raise ValueError(
    f'the architecture {architecture or kind!r} (model_type {kind!r}) is not '
    f'supported; supported are {", ".join(known.values())}.'
  )


def parse_config(config: Mapping[str, Any]):
  """Turns a parsed config.json into `T5Config` or `DecoderConfig`.

  Raises:
    ValueError: not supported, or a setting is missing.
  """
  check_supported(config)
  if config['model_type'] in t5_config.ARCHITECTURES:
    return t5_config.from_hf(config)
  return decoder_hf.from_hf(config)


def weight_files(folder: str) -> dict:
  """Returns {tensor name: path of its file}, the files being there."""
  single = os.path.join(folder, _WEIGHTS)
  index = read_json(folder, _INDEX)
  if index is not None and not os.path.isfile(single):
    where = index.get('weight_map')
    if not isinstance(where, dict):
      raise ValueError(f'{os.path.join(folder, _INDEX)} has no weight_map.')
    for name in sorted(set(where.values())):
      if not os.path.isfile(os.path.join(folder, name)):
        raise FileNotFoundError(
          f'{os.path.join(folder, _INDEX)} names the shard {name}, which does '
          'not exist.'
        )
    return {k: os.path.join(folder, v) for k, v in where.items()}
  if not os.path.isfile(single):
    unread = ('.bin', '.h5', '.pt', '.msgpack')
    others = [n for n in sorted(os.listdir(folder)) if n.endswith(unread)]
    also = f' ({others[0]} is in a format that is not read)' if others else ''
    raise FileNotFoundError(
      f'{folder} holds neither {_WEIGHTS} nor {_INDEX}{also}.'
    )
  with _open(single) as file:
    return dict.fromkeys(file.keys(), single)


def _open(path):
  try:
    return safetensors.safe_open(path, framework='numpy')
  except Exception as error:  # safetensors raises several kinds of its own.
    raise ValueError(
      f'{path} is not a whole safetensors file ({error}): copy or export it '
      'again.'
    ) from None


def _read(path, wanted):
  """Returns {name: numpy array} of one file."""
  with _open(path) as file:
    inside = set(file.keys())
    for name in wanted:
      if name not in inside:
        raise ValueError(
          f'{path} lacks the tensor {name}, which the index places there.'
        )
    try:
      return {name: file.get_tensor(name) for name in wanted}
    except Exception as error:
      raise ValueError(f'{path} cannot be read: {error}.') from None


def _own_head(files, embed: str, tied: bool) -> bool:
  """Whether the weights hold a head that is not the embedding table."""
  if 'lm_head.weight' not in files:
    return not tied
  if not tied or embed not in files:
    return True
  head = _read(files['lm_head.weight'], ['lm_head.weight'])['lm_head.weight']
  table = _read(files[embed], [embed])[embed]
  return head.shape != table.shape or not np.array_equal(head, table)


def strip_prefix(files, sources):
  """Names without the language model's prefix, if the file has none."""
  for prefix in ('model.', 'transformer.'):
    if any(s.name.startswith(prefix) for s in sources.values()) and not any(
      name.startswith(prefix) for name in files
    ):
      return {
        path: s._replace(name=s.name.removeprefix(prefix))
        for path, s in sources.items()
      }
  return sources


def load(folder: str, *, dtype=None):
  """Reads a model from a Hugging Face folder.

  Args:
    folder: holds config.json and model.safetensors, or shards and an index.
    dtype: of the parameters and of computing, 'float32' or 'bfloat16'. None:
      bfloat16 if the embedding table is stored so, else float32.

  Returns:
    (config, params): `T5Config` or `DecoderConfig`, and the tree under
    'params', jax arrays of `dtype`.

  Raises:
    FileNotFoundError, ValueError: one sentence naming the file or tensor.
  """
  raw = read_config(folder)
  config = parse_config(raw)
  files = weight_files(folder)
  embed = names.sources(config, {'embed': {'weight': 0}})
  embed = strip_prefix(files, embed)['embed', 'weight'].name
  own = _own_head(files, embed, config.tie_word_embeddings)
  config = dataclasses.replace(config, tie_word_embeddings=not own)
  abstract = abstract_params(config)
  shapes = dict(names.flat(abstract))
  sources = strip_prefix(files, names.sources(config, abstract))
  tensors = _read_all(folder, files, sources, shapes, config)
  if dtype is None:
    stored = tensors[embed].dtype
    dtype = 'bfloat16' if stored == jnp.bfloat16 else 'float32'
  dtype = jnp.dtype(dtype).name
  params = {
    path: jnp.asarray(names.take(source, tensors[source.name]), dtype)
    for path, source in sources.items()
  }
  return dataclasses.replace(config, dtype=dtype), names.unflat(params)


def _read_all(folder, files, sources, shapes, config):
  """Reads and checks every tensor; returns {name: array}."""
  expected = {
    source.name: names.stored_shape(source, shapes[path].shape)
    for path, source in sources.items()
  }
  check_names(folder, files, expected, config)
  tensors = {}
  for path in sorted(set(files.values())):
    wanted = [n for n in expected if files[n] == path]
    tensors |= _read(path, wanted)
  for name, shape in expected.items():
    tensor = tensors[name]
    check_shape(name, files[name], tensor.shape, shape)
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
      raise ValueError(
        f'the tensor {name} in {files[name]} has type {tensor.dtype}, but only '
        'floating-point weights are read.'
      )
  return tensors


def check_names(folder, present, expected, config):
  """Raises ValueError unless exactly the expected tensors are there."""
  for name in expected:
    if name not in present:
      raise ValueError(f'{folder} lacks the tensor {name}.')
  for name in present:
    if name in expected or names.is_harmless(name):
      continue
    if name == 'lm_head.weight' and config.tie_word_embeddings:
      continue
    raise ValueError(
      f'{folder} holds the tensor {name}, which a {config.model_type} model '
      'with this config.json does not have.'
    )


def check_shape(name, path, shape, expected):
  """Raises ValueError unless a tensor has the shape that config.json says."""
  if tuple(shape) != tuple(expected):
    raise ValueError(
      f'the tensor {name} in {path} has shape {list(shape)}, but config.json '
      f'makes it {list(expected)}.'
    )


def to_hf(params, config) -> dict:
  """Returns {Hugging Face name: numpy array} of a parameter tree.

  Args:
    params: the tree under 'params'.
    config: `T5Config` or `DecoderConfig`.
  """
  leaves = dict(names.flat(params))
  grouped = {}
  for path, source in names.sources(config, params).items():
    array = np.asarray(jax.device_get(leaves[path]))
    grouped.setdefault(source.name, []).append((source, array))
  return {name: names.give(parts) for name, parts in grouped.items()}


def config_to_hf(config) -> dict:
  """Returns the config.json of `T5Config` or `DecoderConfig`."""
  if isinstance(config, T5Config):
    return t5_config.to_hf(config)
  return decoder_hf.to_hf(config)


def save_hf(folder: str, params, config, *, generation: Optional[dict] = None):
  """Writes a folder that `load` and transformers read.

  Each file appears whole or not at all; config.json, without which a folder is
  no model, comes last.

  Args:
    folder: made if missing.
    params: the tree under 'params'; its dtype is kept.
    config: `T5Config` or `DecoderConfig`.
    generation: contents of generation_config.json; by default the ids that
      `config` knows.
  """
  os.makedirs(folder, exist_ok=True)
  tensors = to_hf(params, config)
  made = config_to_hf(config)
  made['dtype'] = str(next(iter(tensors.values())).dtype)
  if generation is None:
    generation = {
      key: made[key]
      for key in (
        'bos_token_id',
        'eos_token_id',
        'pad_token_id',
        'decoder_start_token_id',
      )
      if made.get(key) is not None
    }
  _write_whole(
    os.path.join(folder, _WEIGHTS),
    lambda path: safetensors_numpy.save_file(
      tensors, path, metadata={'format': 'pt'}
    ),
  )
  for name, data in (('generation_config.json', generation),
                     ('config.json', made)):  # fmt: skip
    _write_whole(
      os.path.join(folder, name),
      lambda path, data=data: _write_json(path, data),
    )


def _write_json(path, data):
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(data, file, indent=2, sort_keys=True)
    file.write('\n')


def _write_whole(path, write):
  """Writes beside `path` and renames, so that no half file ever shows."""
  part = f'{path}.part{os.getpid()}'
  try:
    write(part)
    os.replace(part, path)
  finally:
    if os.path.exists(part):
      os.remove(part)
