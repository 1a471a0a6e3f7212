"""Resolves the drafter that a user gives to a `Source`.

A name is a folder, GGUF file or hub id, `FILE.py:NAME`, a registered drafter,
one of them with something behind a colon (`hybrid:FOLDER`, `simulated:0.8`), or
a model with random weights (`shape:NAME`, `network:NAME`). From Python, a
loaded model, a `DrafterEntry`, a `base.Drafter` or a `Source` will do as well.
"""

from collections.abc import Callable
import os
from typing import Any, NamedTuple

import jax

from specjax import user_files
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import load as loading
from specjax.checkpoints import model as model_lib
from specjax.decoding.drafters import registry
from specjax.decoding.drafters.custom import custom
from specjax.decoding.drafters.custom import is_drafter
from specjax.decoding.drafters.draft_model import ENTRY as DRAFT_MODEL
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import Source
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import transfer
from specjax.inference import random_models
from specjax.models import registry as families
from specjax.models import sharded


class Loading(NamedTuple):
  """Settings by which the model inside a drafter is loaded.

  Attributes:
    dtype: dtype of `load.load`; None for the checkpoint's own.
    int8: whether its matrices are kept in eight bits.
    layout: the mesh, or None for one device.
    num_draft: slots of a `network:`.
    seed: seed of random weights; must differ from the target's, or a `shape:`
      would always agree with it.
    load: `(name, target, how) -> Model`; None for `load_model`.
  """

  dtype: str | None = None
  int8: bool = False
  layout: mesh_lib.Layout | None = None
  num_draft: int = 8
  seed: int = 1
  load: Any = None


def load_target(
  name: str,
  *,
  dtype: str | None = None,
  layout: mesh_lib.Layout | None = None,
  int8: bool = False,
  seed: int = 0,
) -> model_lib.Model:
  """Loads a target: a folder, a hub id, or `shape:NAME`.

  Args:
    name: folder, hub id, or `shape:NAME`.
    dtype: precision, as `load.load` takes it.
    layout: devices, as `load.load` takes them.
    int8: whether matrices are kept in eight bits.
    seed: seed of random weights.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if random_models.is_shape(name):
    return random_models.load_shape(
      name, dtype=dtype or 'float32', seed=seed, layout=layout, int8=int8
    )
  return loading.load(name, dtype=dtype, layout=layout, int8=int8)


def config_of(name: Any) -> Any:
  """The config of a folder, a hub id or a `shape:`; a config is one already.

  Args:
    name: name of a model; only its metadata is read.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if not isinstance(name, (str, os.PathLike)):
    return name
  name = os.fspath(name)
  if random_models.is_shape(name):
    return random_models.shape_config(name)
  return folder_lib.describe(loading.folder_of(name))


def layout_for(
  name: Any, mesh: mesh_lib.MeshConfig, batch: int
) -> mesh_lib.Layout | None:
  """The layout that a target is decoded on; None for one device.

  Args:
    name: name of the target, or its config; no weights are read.
    mesh: the devices asked for.
    batch: rows decoded together.

  Raises:
    MeshError: the devices, the target or the batch cannot have this mesh; the
      shapes that are proposed suit all three.
  """

  def fits(shape):
    return sharded.fits(config_of(name), batch, shape)

  layout = mesh_lib.make_layout(mesh, fits=fits)
  # `fits` only steers what is proposed in the place of a wrong shape. A shape
  # that was asked for is checked here, in words.
  if mesh.shape and layout is not None:
    sharded.fit(config_of(name), layout, batch)
  return layout


def as_target(
  model: Any, load: Callable[[str], model_lib.Model]
) -> model_lib.Model:
  """The target that is meant by a model, or by its name.

  Args:
    model: loaded, or a folder or hub id.
    load: loads what is named.

  Raises:
    ValueError: it is neither.
  """
  if isinstance(model, model_lib.Model):
    return model
  if isinstance(model, (str, os.PathLike)):
    return load(os.fspath(model))
  raise ValueError(
    'The model must be a folder, a hub id, or what specjax.load or '
    f'specjax.Model.from_lm returns, not {type(model).__name__}.'
  )


def check_name(name: str) -> None:
  """Refuses what can be no drafter's name, before anything is loaded.

  Raises:
    FileNotFoundError: it is none of the forms above.
  """
  # A folder or a file may have a colon in its name too, so what stands before
  # one counts only if it is a registered name.
  # 'simulated:0.8': head 'simulated', rest '0.8'
  # 'a:b': no entry is called a, so the whole is looked for
  head, colon, rest = name.partition(':')
  entry = registry.find(head)
  if name == '' or user_files.is_reference(name) or (entry and not colon):
    return
  if entry is not None and entry.takes:
    if entry.wraps and rest:
      check_name(rest)
    return
  if random_models.is_shape(name) or random_models.is_network(name):
    return
  if loading.is_model(name):
    return
  raise FileNotFoundError(
    f'There is no drafter {name}: give {registry.names()}'
    f'{loading.suggestion(name)}.'
  )


def resolve(
  drafter: Any,
  target: model_lib.Model | None = None,
  how: Loading = Loading(),
) -> Source | None:
  """Resolves a drafter to its `Source`; None for plain decoding.

  Args:
    drafter: a value as above; None, '' and 'none' are plain decoding.
    target: the model it drafts for; needed by `network:` alone.
    how: settings for loading the model inside.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if drafter is None or drafter == '':
    return None
  if isinstance(drafter, Source):
    return drafter
  if isinstance(drafter, DrafterEntry):
    registry.check_name(drafter)
    return Source(drafter, drafter.name)
  if isinstance(drafter, model_lib.Model):
    return of_model(drafter)
  if is_drafter(drafter):
    return custom(drafter)
  if not isinstance(drafter, (str, os.PathLike)):
    raise ValueError(
      'drafter must be a name, a model of specjax.load, a DrafterEntry, a '
      'Drafter, or what specjax.drafters.custom returns, not '
      f'{type(drafter).__name__}.'
    )
  return _of_name(os.fspath(drafter), target, how)


def _of_name(name, target, how) -> Source | None:
  check_name(name)
  head, _, rest = name.partition(':')
  entry = registry.find(head)
  if user_files.is_reference(name) and entry is None:
    return _of_file(name, target, how)
  if entry is None:
    return of_model((how.load or load_model)(name, target, how), name)
  if entry.families:
    raise ValueError(
      f'{name} names a kind of drafter; give the folder or hub id of one.'
    )
  if entry.takes:
    model, given = entry.parse(rest, lambda inner: resolve(inner, target, how))
    return Source(entry, name, model, given)
  return Source(entry, name) if entry.drafts else None


def _of_file(name, target, how) -> Source | None:
  found = user_files.load(name)
  if not isinstance(found, (Source, DrafterEntry, model_lib.Model)):
    if not is_drafter(found):
      raise ValueError(
        f'{name} must be a DrafterEntry, a Drafter, or what '
        f'specjax.drafters.custom returns, not {type(found).__name__}.'
      )
  # Under the name that the user wrote, in messages and statistics.
  return resolve(found, target, how)._replace(name=name)


def load_model(name: str, target: Any, how: Loading) -> model_lib.Model:
  """Loads the model inside a drafter; see `resolve` for the arguments."""
  if random_models.is_network(name):
    if how.int8:
      raise ValueError(
        f'{name!r} is not made in int8; leave quantize at none or target.'
      )
    return random_models.load_network(
      name,
      target,
      dtype=how.dtype or 'float32',
      num_draft=how.num_draft,
      seed=how.seed,
    )
  return load_target(
    name, dtype=how.dtype, layout=how.layout, int8=how.int8, seed=how.seed
  )


def of_model(model: model_lib.Model, name: str = '') -> Source:
  """A loaded model as a drafter, by its family.

  Args:
    model: result of `specjax.load` or of `Model.from_lm`.
    name: name as the user wrote it; the model's own if ''.
  """
  # A model of a user's own has no family; as a drafter it can only be a
  # language model.
  entry = DRAFT_MODEL
  if model.config is not None:
    entry = registry.for_family(families.family_of(model.config))
  return Source(entry, name or model.name, model)


def to_layout(source: Source, layout: mesh_lib.Layout | None) -> Source:
  """The drafter on the target's mesh; a model inside it goes there whole."""
  model = source.model
  if model is None or layout is None or model.layout is not None:
    return source
  whole = mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
  # No rules place the parameters of a model of a user's own, so each device has
  # all of them.
  if model.config is None:
    params = jax.tree.map(lambda x: transfer.put(x, layout), model.params)
    return source._replace(model=model._replace(params=params))
  return source._replace(model=model_lib.spread(model, whole))


def drafter_layout(
  layout: mesh_lib.Layout | None, mesh: mesh_lib.MeshConfig
) -> mesh_lib.Layout | None:
  """Where the model inside a drafter goes, for a target's mesh."""
  if layout is None or mesh.drafter != 'replicated':
    return layout
  return mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
