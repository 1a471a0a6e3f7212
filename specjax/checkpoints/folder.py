"""The parameters of a model folder, described from metadata and read in parts.

Three kinds of folder: Hugging Face (config.json and safetensors), Orbax
(`params/` beside config.json) and T5X (arrays of tensorstore). No weight is
read before it is fetched, and then only the part that is asked for.
"""

import functools
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax import checkpoint as ocp

from specjax import models
from specjax.checkpoints import gguf
from specjax.checkpoints import hf
from specjax.checkpoints import placement
from specjax.checkpoints import safetensors
from specjax.checkpoints import t5x
from specjax.checkpoints import tensor_names
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry
from specjax.models import sharded
from specjax.models.family import StoredTensors

_PARAMS = 'params'
# Of a training run's folder: its settings, and the model that it exported.
_SETTINGS, _EXPORT = 'config.json', 'export'


def of_model(folder: str) -> str:
  """The folder itself; of a training run the model that it exported.

  Args:
    folder: folder of a model or of a run, or a GGUF file.

  Returns:
    A folder; of a GGUF file the one in the cache that it was turned into.

  Raises:
    OSError, ValueError: the run has exported nothing yet, or one sentence about
      the file.
  """
  if gguf.is_file(folder):
    return gguf.folder_of(folder)
  try:
    settings = hf.read_json(folder, _SETTINGS) or {}
  except ValueError:
    return folder  # The reader of the folder raises the error.
  if 'model_type' in settings or not {'task', 'steps'} <= set(settings):
    return folder
  exported = os.path.join(folder, _EXPORT)
  if not os.path.isfile(os.path.join(exported, _SETTINGS)):
    raise FileNotFoundError(
      f'{folder} is the folder of a training run that has exported no model '
      'yet; finish the run, or export its newest checkpoint with '
      'specjax-train --export_only.'
    )
  return exported


def open_folder(folder: str, config: Any) -> tuple[Any, dict, dict | None]:
  """Describes the parameters of a folder.

  Args:
    folder: a folder of one of the three kinds.
    config: config read from its config.json.

  Returns:
    (config, {path: `placement.Leaf`}, {Hugging Face name: (name in the folder,
    `safetensors.Stored`)} or None where the weights are not safetensors). The
    config has the head tied or not, as the weights have it.

  Raises:
    OSError, ValueError: one sentence.
  """
  if t5x.is_checkpoint(folder):
    config = t5x.settle(folder, config)
    return config, _from_t5x(folder, config), None
  if os.path.isdir(os.path.join(folder, _PARAMS)):
    return config, _from_orbax(folder, config), None
  return _from_safetensors(folder, config)


def _headers(folder):
  """Returns {name: `Stored`}, every name of the index being in its file."""
  where = hf.weight_files(folder)
  headers = {
    path: safetensors.read_header(path) for path in sorted(set(where.values()))
  }
  for name, path in where.items():
    if name not in headers[path]:
      raise ValueError(
        f'{path} lacks the tensor {name}, which the index places there.'
      )
  return {name: headers[path][name] for name, path in where.items()}


def _from_safetensors(folder, config):
  stored = _headers(folder)
  # First, because a tied head is no parameter and no tensor is wanted for it.
  config = _settled(stored, config)
  _check_layers(folder, stored, config)
  abstract = models.abstract_params(config)
  wanted = tensor_names.of_parameters(config, abstract)
  present = hf.respelled(wanted, stored, config)
  shapes = {
    path: tuple(leaf.shape) for path, leaf in tensor_names.flat(abstract)
  }
  expected = {
    source.name: tensor_names.stored_shape(source, shapes[path])
    for path, source in present.items()
  }
  hf.check_names(folder, stored, expected, config)
  for name, shape in expected.items():
    hf.check_shape(name, stored[name].path, stored[name].shape, shape)
  leaves = {
    path: placement.Leaf(
      shapes[path],
      functools.partial(_read_part, source, stored[source.name], shapes[path]),
      source.name,
      stored[source.name].dtype,
    )
    for path, source in present.items()
  }
  copies = {
    source.name: (present[path].name, stored[present[path].name])
    for path, source in wanted.items()
  }
  return config, leaves, copies


def _check_layers(folder, names, config):
  """Raises ValueError unless the tensors may have as many layers as config.

  Describing the parameters of a million layers would take minutes.
  """
  # model.layers.1.mlp.weight and model.layers.11.mlp.weight: 12 at most
  numbers = (int(n) for name in names for n in re.findall(r'\d+', name))
  most, facts = max(numbers, default=0) + 1, registry.facts(config)
  given = max(facts.layers, facts.encoder_layers)
  # Drafters that are heads alone count the layers of their target.
  if given > most and registry.family_of(config).is_target:
    raise ValueError(
      f'config.json of {folder} has {given} layers, but the names of its '
      f'tensors end at layer {most - 1}: both must be of the same model.'
    )


def _settled(headers, config):
  """The config with what the tensors decide; see `FileFormat.settle`."""

  def equal(one, other):
    return safetensors.equal(headers[one], headers[other])

  stored = StoredTensors(frozenset(headers), equal)
  return registry.family_of(config).files.settle(config, stored)


def _read_part(source, stored, shape, index):
  part = safetensors.read_slice(
    stored, tensor_names.stored_slice(source, index, shape)
  )
  # A parameter [2, 3] that is stored turned: its rows are columns of the file.
  return part.T if source.transpose else part


def _from_t5x(folder, config):
  abstract = models.abstract_params(config)
  shapes = {
    path: tuple(leaf.shape) for path, leaf in tensor_names.flat(abstract)
  }
  leaves = {}
  for path, array in t5x.find(config, abstract, folder).items():
    dtype = t5x.open_array(folder, array).dtype.numpy_dtype
    layer = '' if array.layer is None else f'[layer {array.layer}]'
    leaves[path] = placement.Leaf(
      shapes[path],
      functools.partial(t5x.read, folder, array, shapes[path]),
      array.name + layer,
      safetensors.dtype_name(dtype),
    )
  return leaves


def _from_orbax(folder, config):
  where = os.path.abspath(os.path.join(folder, _PARAMS))
  t5x.check_orbax(where)
  with ocp.StandardCheckpointer() as checkpointer:
    found = checkpointer.metadata(where).item_metadata
  if found is None:
    raise ValueError(
      f'{where} is not a whole Orbax checkpoint: copy the whole folder again.'
    )
  found = dict(tensor_names.flat(found.tree))
  expected = dict(tensor_names.flat(models.abstract_params(config)))
  for path in expected.keys() ^ found.keys():
    verb = 'lacks' if path in expected else 'holds'
    raise ValueError(
      f'{where} {verb} the parameter {"/".join(path)}, unlike the model of '
      'config.json.'
    )
  leaves = {}
  for path, leaf in expected.items():
    shape = tuple(found[path].shape)
    hf.check_shape('/'.join(path), where, shape, tuple(leaf.shape))
    leaves[path] = placement.Leaf(
      shape,
      functools.partial(_read_orbax, where, path, found[path]),
      f'{_PARAMS}/{"/".join(path)}',
      safetensors.dtype_name(found[path].dtype),
    )
  return leaves


def _read_orbax(where, path, leaf, index):
  """Reads a part of one parameter; the rest stays on disk.

  Tensorstore reads the chunks of the part. Where it does not open the array,
  Orbax reads the whole parameter.
  """
  shape = tuple(s.stop - s.start for s in index)
  try:
    if shape != tuple(leaf.shape):
      store = t5x.open_orbax(where, path)
      if store is not None:
        return np.asarray(store[index].read().result())
    return _restore_orbax(where, path, leaf)[index]
  except ValueError as error:
    raise t5x.damaged_orbax(where, error) from None


def _restore_orbax(where, path, leaf):
  """Reads one parameter whole."""
  like = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.restore(
      where,
      args=ocp.args.PyTreeRestore(
        item=tensor_names.unflat({path: like}),
        restore_args=tensor_names.unflat(
          {path: ocp.RestoreArgs(restore_type=np.ndarray)}
        ),
        partial_restore=True,
      ),
    )
  return dict(tensor_names.flat(tree))[path]


def _dtype(raw: dict, leaves: dict) -> str:
  """Compute dtype that config.json states, else that of the widest weights."""
  stated = hf.stated_dtype(raw)
  if stated is None:
    kinds = [safetensors.DTYPES[leaf.dtype] for leaf in leaves.values()]
    # One float32 tensor makes all of it float32: nothing of the others is lost.
    narrow = all(kind == jnp.bfloat16 for kind in kinds)
    stated = 'bfloat16' if narrow else 'float32'
  return stated


def describe(folder: str) -> Any:
  """The config that `load` gives with `dtype=None`, without the weights.

  A folder without weights has the config of its config.json.

  Args:
    folder: as for `load`.

  Raises:
    OSError, ValueError: as for `load`.
  """
  raw = hf.read_config(folder)
  config = hf.parse_config(raw)
  try:
    config, leaves, _ = open_folder(folder, config)
  except FileNotFoundError:
    return config
  return models.replace(config, dtype=_dtype(raw, leaves))


def load(
  folder: str,
  *,
  dtype: str | None = None,
  layout: mesh_lib.Layout | None = None,
  scale: str = '',
) -> tuple[Any, dict]:
  """Reads a model from a folder.

  Args:
    folder: holds config.json, and weights of one of the three kinds.
    dtype: dtype of parameters and computing, 'float32' or 'bfloat16'. None: the
      one that config.json states, else that of the widest weights.
    layout: devices of the parameters; the default device if None. A process
      reads what its devices hold.
    scale: name of the scales of matrices in eight bits; see `quantize`.

  Returns:
    (config, params): the config of its family, and the tree under
    'params', jax arrays.

  Raises:
    FileNotFoundError, ValueError: one sentence naming the file or tensor.
  """
  raw = hf.read_config(folder)
  config, leaves, _ = open_folder(folder, hf.parse_config(raw))
  for leaf in leaves.values():
    stored = safetensors.DTYPES[leaf.dtype]
    if not jnp.issubdtype(stored, jnp.floating):
      raise ValueError(
        f'the tensor {leaf.origin} in {folder} has type {stored}, but only '
        'floating-point weights are read.'
      )
  dtype = dtype or _dtype(raw, leaves)
  dtype = jnp.dtype(dtype).name
  config = models.replace(config, dtype=dtype)
  if layout is not None:
    layout = sharded.fit(config, layout)
  # Networks that only draft are small, and stay as they are.
  scale = scale if models.is_language_model(config) else ''
  params = placement.place(config, layout, leaves, dtype=dtype, scale=scale)
  return config, params
