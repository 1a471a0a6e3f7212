"""A model ready to decode: parameters, networks and tokenizer together."""

from collections.abc import Mapping, Sequence
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from specjax import models
from specjax import validation
from specjax.base import CachedLM
from specjax.checkpoints import placement
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry
from specjax.models import sharded
from specjax.models.common import cpu_layout


class Model(NamedTuple):
  """A loaded model, or one of the user's own (`from_lm`).

  Attributes:
    params: the parameter tree, without the 'params' level; see `prepare` of
      `load` for the layout of its matrices.
    config: settings of its network; its dtype is the compute dtype. None for a
      model of the user's own.
    module: the Flax module: `module.apply({'params': params}, ...)`. (On a
      mesh that repeats key heads, the module that has them all.) None likewise.
    tokenizer: a transformers tokenizer, or None if the folder has none.
    lm: `CachedLM`; call its functions with `params`. None for a network that
      only drafts for a language model, such as a Spec-Drafter.
    eos_ids: tuple of int, ids that end a text; empty if none is known.
    pad_id: int, a harmless id for padding.
    name: the folder or hub id as given.
    layout: the mesh that the parameters lie on, with rules that fit the
      model; None for one device.
    bos_id: int, token from which an empty prompt is continued; None if none is
      known.
    generation_config: contents of its generation_config.json, or None.
  """

  params: Any
  config: Any
  module: Any
  tokenizer: Any
  lm: CachedLM | None
  eos_ids: tuple
  pad_id: int
  name: str
  layout: mesh_lib.Layout | None = None
  bos_id: int | None = None
  generation_config: Mapping[str, Any] | None = None

  def __repr__(self) -> str:
    """One line: name and sizes, not the arrays."""
    # What a NamedTuple shows by default would hold every weight.
    kind = 'custom' if self.config is None else type(self.config).__name__
    leaves = jax.tree.leaves(self.params)
    count = sum(math.prod(np.shape(leaf)) for leaf in leaves)
    return f'<specjax.Model {self.name}: {kind}, {count:,} parameters>'

  @property
  def vocab_size(self) -> int:
    """V of its logits."""
    if self.lm is not None:
      return self.lm.vocab_size
    return vocabulary_size(self.config, self.tokenizer)

  @classmethod
  def from_lm(
    cls,
    lm: CachedLM,
    params: Any,
    tokenizer: Any = None,
    eos_ids: Sequence[int] = (),
    pad_id: int = 0,
    name: str = 'custom',
    *,
    bos_id: int | None = None,
  ) -> 'Model':
    """A model of your own as a target, or as a draft model.

    Args:
      lm: pure functions over an explicit cache; see `base.CachedLM`.
      params: pytree given to them.
      tokenizer: a tokenizer of transformers, or an object with the same
        `__call__`, `decode` and `get_vocab`; None where prompts are token ids.
      eos_ids: ids that end a text.
      pad_id: a harmless id for padding.
      name: for messages and statistics.
      bos_id: token from which an empty prompt is continued, or None.

    Raises:
      ValueError: one sentence about a field of `lm` or an id that cannot be.
    """
    _check_lm(lm)
    eos_ids = _checked_ids('eos_ids', eos_ids, lm.vocab_size)
    if bos_id is not None:
      (bos_id,) = _checked_ids('bos_id', [bos_id], lm.vocab_size)
    if tokenizer is not None and not callable(tokenizer):
      raise ValueError(
        'tokenizer must be a tokenizer or None, not '
        f'{type(tokenizer).__name__}.'
      )
    return cls(
      params=params,
      config=None,
      module=None,
      tokenizer=tokenizer,
      lm=lm,
      eos_ids=eos_ids,
      pad_id=pad_id,
      name=name,
      bos_id=bos_id,
    )


def _check_lm(lm: Any) -> None:
  """Raises ValueError for functions and sizes that make no model."""
  if not isinstance(lm, CachedLM):
    raise ValueError(
      'Model.from_lm takes a specjax.CachedLM of pure functions, not '
      f'{type(lm).__name__}.'
    )
  for name in ('prefill', 'extend', 'commit'):
    if not callable(getattr(lm, name)):
      raise ValueError(
        f'CachedLM.{name} must be a function, not {getattr(lm, name)!r}.'
      )
  validation.hashable('The CachedLM', lm)
  if type(lm.vocab_size) is not int or lm.vocab_size < 1:
    raise ValueError(
      'CachedLM.vocab_size must be a whole number, 1 or more, not '
      f'{lm.vocab_size!r}.'
    )
  if lm.is_encoder_decoder and type(lm.start_id) is not int:
    raise ValueError(
      'CachedLM.start_id must be the start token of an encoder-decoder, not '
      f'{lm.start_id!r}.'
    )


def _checked_ids(name: str, ids: Any, vocab_size: int) -> tuple[int, ...]:
  """`ids`, one or several, as a tuple, if they are ids."""
  # 1: (1,); [1, int64(2)]: (1, 2)
  given = [ids] if np.ndim(ids) == 0 else list(ids)
  for token in given:
    whole = isinstance(token, (int, np.integer))
    if not whole or not 0 <= token < vocab_size:
      raise ValueError(
        f'{name} must be token ids from 0 to {vocab_size - 1}, not {token!r}.'
      )
  return tuple(int(token) for token in given)


def spread(model: Model, layout: mesh_lib.Layout) -> Model:
  """A model of one device, moved onto a mesh.

  Args:
    model: model of one device, the same on every host.
    layout: mesh and rules for it.

  Raises:
    ValueError: the mesh does not divide the model.
  """
  layout = sharded.fit(model.config, layout)
  # Rules of a mesh cut matrices as they are stored, [out, in].
  params = cpu_layout.stored(model.params)
  return on_mesh(model, layout, placement.move(model.config, layout, params))


def on_mesh(model: Model, layout: mesh_lib.Layout, params: Any) -> Model:
  """A model of one device with its parameters on a mesh.

  Args:
    model: model of one device; its own parameters are not read.
    layout: layout of `sharded.fit`.
    params: its parameters on the mesh, as `placement` puts them there.
  """
  vocab_size = model.lm.vocab_size if model.lm else None
  return model._replace(
    params=params,
    module=models.make_module(sharded.expanded(model.config, layout)),
    lm=lm_of(model.config, layout, vocab_size=vocab_size),
    layout=layout,
  )


def make_lm(
  model: Model,
  *,
  vocab_size: int | None = None,
  hidden_layers: tuple = (),
) -> CachedLM:
  """Another `CachedLM` of a model, for the same parameters.

  Args:
    model: a language model.
    vocab_size: V of the logits; as before if None.
    hidden_layers: states to return; see `models.make_lm`.
  """
  return lm_of(
    model.config,
    model.layout,
    vocab_size=vocab_size or model.lm.vocab_size,
    hidden_layers=tuple(hidden_layers),
  )


def lm_of(config: Any, layout: Any, **settings: Any) -> CachedLM | None:
  if not models.is_language_model(config):
    return None
  if layout is None:
    return models.make_lm(config, **settings)
  return sharded.make_lm(config, layout, **settings)


def no_target(name: str) -> ValueError:
  """The error of a drafter network that is named as a target."""
  return ValueError(
    f'{name} is a drafter network and cannot be the target; pass it as '
    '--drafter of the model it was trained for.'
  )


def vocabulary_size(config: Any, tokenizer: Any) -> int:
  """V of a model's logits: ids that its table and its tokenizer have.

  Args:
    config: config of the model.
    tokenizer: its tokenizer; None takes all rows of the table.
  """
  size = registry.facts(config).vocab_size
  if tokenizer is None:
    return size
  # The largest id, not the number of ids: numbering may have holes.
  return min(size, max(tokenizer.get_vocab().values()) + 1)


def check_target(model: Model) -> None:
  """Raises ValueError for a drafter network, which cannot be a target."""
  if model.lm is None:
    raise no_target(model.name)
