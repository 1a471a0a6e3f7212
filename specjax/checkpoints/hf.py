"""Hugging Face folders: config.json and safetensors, read and written.

Only numpy and the safetensors format are involved; neither PyTorch nor the
transformers library is needed. Every error is one sentence that names the file
or the tensor.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy
from safetensors import SafetensorError

from specjax import files
from specjax.checkpoints import foreign
from specjax.checkpoints import safetensors
from specjax.checkpoints import tensor_names
from specjax.models import registry
from specjax.models.common import cpu_layout

_WEIGHTS = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
# Spellings of config.json -> the dtype that is computed in: sixteen bits of
# float16 fit into float32 alone.
_STATED_DTYPES = {
  'bfloat16': 'bfloat16',
  'float32': 'float32',
  'float': 'float32',
  'float16': 'float32',
  'half': 'float32',
  'float64': 'float32',
  'double': 'float32',
}


def read_json(folder: str, name: str) -> dict | None:
  """Returns a parsed JSON object, or None if the file does not exist.

  Raises:
    ValueError: the file is no JSON object.
  """
  path = os.path.join(folder, name)
  if not os.path.isfile(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      made = files.parse_json(file.read())
  except (ValueError, OSError) as error:
    raise ValueError(f'{path} is not readable JSON: {error}.') from None
  if not isinstance(made, dict):
    raise ValueError(f'{path} must hold a JSON object.')
  return made


def read_config(folder: str) -> dict:
  """Returns the parsed config.json, its architecture being supported.

  Of a Gemma 3 with images it is that of the language model inside.

  Raises:
    FileNotFoundError: there is no folder or no config.json in it.
    ValueError: the file is broken or the architecture is not supported.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'there is no folder {folder}.')
  config = read_json(folder, 'config.json')
  foreign.refuse(folder, config)
  if config is None:
    raise FileNotFoundError(
      f'{folder} holds no config.json: give a folder in Hugging Face format.'
    )
  # A wrapper's config holds the language model's inside; each family unwraps
  # its own and leaves others as they are.
  for family in registry.families():
    config = family.files.inner(config)
  check_supported(config)
  return config


def check_supported(config: Mapping[str, Any]) -> None:
  """Raises ValueError unless config.json names a supported architecture."""
  # Such weights are packed in ways of their own; read as they are, they would
  # give a model that runs and answers nonsense.
  if config.get('quantization_config'):
    raise ValueError(
      f'this {config.get("model_type")} checkpoint is quantised '
      '(quantization_config in config.json), which is not supported; use '
      'float32 or bfloat16 weights.'
    )
  registry.of_json(config)


def parse_config(config: Mapping[str, Any]) -> Any:
  """Turns a parsed config.json into the config of its family.

  Raises:
    ValueError: not supported, or a setting is missing.
  """
  check_supported(config)
  try:
    return registry.of_json(config).files.from_json(config)
  except (TypeError, AttributeError, ArithmeticError, IndexError) as error:
    raise ValueError(
      f'config.json of this {config["model_type"]} model has a setting of a '
      f'kind that it must not have ({error}).'
    ) from None


def stated_dtype(config: Mapping[str, Any]) -> str | None:
  """The compute dtype that config.json asks for, or None if it states none.

  Args:
    config: parsed file; `dtype` goes before `torch_dtype`, the older spelling.

  Raises:
    ValueError: it is no dtype.
  """
  for name in ('dtype', 'torch_dtype'):
    given = config.get(name)
    if given is None:
      continue
    stated = given.removeprefix('torch.') if isinstance(given, str) else given
    if not isinstance(stated, str) or stated not in _STATED_DTYPES:
      raise ValueError(
        f'{name} in config.json must be one of '
        f'{", ".join(_STATED_DTYPES)}, not {given!r}.'
      )
    return _STATED_DTYPES[stated]
  return None


def weight_files(folder: str) -> dict:
  """Returns {tensor name: path of its file}, the files being there."""
  # Where both are there the single file counts, as in transformers.
  single = os.path.join(folder, _WEIGHTS)
  index = read_json(folder, _INDEX)
  if index is not None and not os.path.isfile(single):
    where = index.get('weight_map')
    if not isinstance(where, dict) or not where:
      raise ValueError(f'{os.path.join(folder, _INDEX)} has no weight_map.')
    for tensor, name in where.items():
      if not isinstance(name, str):
        raise ValueError(
          f'{os.path.join(folder, _INDEX)} must name the file of {tensor}, not '
          f'{name!r}.'
        )
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
  return dict.fromkeys(safetensors.read_header(single), single)


def respelled(wanted: dict, names: Iterable[str], config: Any) -> dict:
  """The tensors of parameters, under the names that a folder's files have.

  Args:
    wanted: {path: `TensorName`} with a family's usual names.
    names: names of the tensors in the files.
    config: config of the model.
  """
  return registry.family_of(config).files.respell(wanted, names, config)


def check_names(
  folder: str, present: Collection[str], expected: Collection[str], config: Any
) -> None:
  """Raises ValueError unless exactly the expected tensors are there."""
  for name in expected:
    if name not in present:
      raise ValueError(f'{folder} lacks the tensor {name}.')
  is_spare = registry.family_of(config).files.is_spare
  for name in present:
    if name in expected or is_spare(config, name):
      continue
    raise ValueError(
      f'{folder} holds the tensor {name}, which a {config.model_type} model '
      'with this config.json does not have.'
    )


def check_shape(
  name: str, path: str, shape: Sequence[int], expected: Sequence[int]
) -> None:
  """Raises ValueError unless a tensor has the shape that config.json gives."""
  if tuple(shape) != tuple(expected):
    raise ValueError(
      f'the tensor {name} in {path} has shape {list(shape)}, but config.json '
      f'makes it {list(expected)}.'
    )


def to_hf(params: Any, config: Any) -> dict:
  """Returns {Hugging Face name: numpy array} of a parameter tree.

  Args:
    params: the tree under 'params', prepared to decode or as it is stored.
    config: config of any family.
  """
  params = cpu_layout.stored(params)
  leaves = dict(tensor_names.flat(params))
  grouped = {}
  for path, source in tensor_names.of_parameters(config, params).items():
    array = np.asarray(jax.device_get(leaves[path]))
    grouped.setdefault(source.name, []).append((source, array))
  return {name: tensor_names.give(parts) for name, parts in grouped.items()}


def config_to_hf(config: Any) -> dict:
  """Returns the config.json of a config of any family."""
  return registry.family_of(config).files.to_json(config)


def save_hf(
  folder: str, params: Any, config: Any, *, generation: dict | None = None
) -> None:
  """Writes a folder that `load` and transformers read.

  Each file appears whole or not at all; config.json, without which a folder is
  no model, comes last.

  Args:
    folder: made if missing.
    params: the tree under 'params'; its dtype is kept.
    config: config of any family.
    generation: contents of generation_config.json; by default the ids that
      `config` has.
  """
  os.makedirs(folder, exist_ok=True)
  tensors = to_hf(params, config)
  made = config_to_hf(config)
  made['dtype'] = jnp.result_type(*tensors.values()).name
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
  write_whole(
    os.path.join(folder, _WEIGHTS),
    lambda path: safetensors_numpy.save_file(
      tensors, path, metadata={'format': 'pt'}
    ),
  )
  for name, data in (
    ('generation_config.json', generation),
    ('config.json', made),
  ):
    write_whole(
      os.path.join(folder, name),
      lambda path, data=data: _write_json(path, data),
    )


def _write_json(path, data):
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(data, file, indent=2, sort_keys=True)
    file.write('\n')


def write_whole(path: str, write: Callable[[str], None]) -> None:
  """As `files.write_whole`, for safetensors too.

  Args:
    path: path of the file.
    write: function that writes a file at the path it is given.

  Raises:
    OSError: in one sentence that names the file.
  """

  def written(part):
    try:
      write(part)
    except SafetensorError as error:
      raise OSError(str(error)) from None

  files.write_whole(path, written)
