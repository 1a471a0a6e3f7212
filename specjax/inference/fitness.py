"""Whether the model inside a drafter can draft for a target at all."""

from typing import Any
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from specjax import options as options_lib
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers import registry as verifier_registry

# Arrays that were looked at, by identity: a call with them costs nothing more.
_sound: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def check(target: model_lib.Model, source: Source) -> None:
  """Refuses a drafter with other tokens or with weights that are no numbers.

  Args:
    target: model that it drafts for.
    source: the drafter; without a model inside there is nothing to check.

  Raises:
    ValueError: one sentence that names the id or the weight.
  """
  if source.model is None:
    return
  _check_vocabulary(target, source)
  # Tables of a model of functions may hold log(0).
  if source.model.config is not None:
    _check_weights(source)


def _check_vocabulary(target, source) -> None:
  """Refuses other tokens; warns of a drafter without a tokenizer to compare."""
  tokenizer = source.model.tokenizer
  if target.tokenizer is not None and tokenizer is None:
    warnings.warn(
      f'The drafter {source.name} has no tokenizer, so its ids are taken for '
      'those of the target, unchecked; where they are not, hardly a draft will '
      'be accepted.',
      stacklevel=2,
    )
    return
  text_lib.check_same_vocabulary(target.tokenizer, tokenizer, may_lack=True)


def _check_weights(source) -> None:
  for path, leaf in jax.tree.leaves_with_path(source.model.params):
    if _sound.get(id(leaf)) is leaf or not _is_real(leaf):
      continue
    if not _is_finite(leaf):
      where = '/'.join(str(getattr(key, 'key', key)) for key in path)
      raise ValueError(
        f'The weight {where} of the drafter {source.name} holds values that '
        'are not finite (inf or NaN); take another checkpoint of it, or '
        'float32 weights.'
      )
    _sound[id(leaf)] = leaf


def _is_real(leaf: Any) -> bool:
  """Whether it is an array of floating-point numbers, and no mere shape."""
  is_array = isinstance(leaf, (jax.Array, np.ndarray))
  return is_array and jnp.issubdtype(leaf.dtype, jnp.floating)


def _is_finite(leaf: Any) -> bool:
  """Whether all values are finite; on the host where they are there anyway."""
  on_host = isinstance(leaf, np.ndarray) or (
    len(leaf.devices()) == 1 and jax.default_backend() == 'cpu'
  )
  if on_host:
    return bool(np.isfinite(np.asarray(leaf)).all())
  return bool(jnp.isfinite(leaf).all())


def check_options(config: Any, source: Source) -> None:
  """Refuses options of drafters and rules that there are not.

  Args:
    config: `DecodeConfig`.
    source: the drafter.

  Raises:
    ValueError: names the option.
  """
  for kind, registry, own in (
    ('drafters', drafter_registry, source.entry),
    ('verifiers', verifier_registry, config.rule()),
  ):
    # Refused where it is written: options are looked up by name later, and a
    # name that is misspelled would simply never be asked for.
    entries = {entry.name: entry for entry in registry.entries()}
    # An entry of a user's own is not registered, and yet its options are known.
    if own is not None:
      entries[own.name] = own
    options_lib.check_names(getattr(config, kind), entries.values(), kind)


def check_beams(
  model: model_lib.Model, source: Source | None, config: Any
) -> None:
  """Refuses a beam search with a drafter, or with a target that has none.

  Args:
    model: the target.
    source: the drafter, or None.
    config: `DecodeConfig`.

  Raises:
    ValueError: one sentence.
  """
  if source is not None:
    raise ValueError(
      f'A beam search (num_beams={config.num_beams}) is not speculative; leave '
      'the drafter out, or num_beams at 1.'
    )
  if model.lm.select is None:
    raise ValueError(
      f'A beam search gathers rows of the cache, but {model.name} has no '
      'select; leave num_beams at 1.'
    )
