"""The `CachedLM` that a recipe decodes with, made from a target."""

from specjax import base
from specjax.checkpoints import model as model_lib
from specjax.decoding import guard
from specjax.decoding import prefill
from specjax.decoding.drafters.entry import Target


def returning(target: Target, layers: tuple[int, ...]) -> base.CachedLM:
  """The target's `CachedLM`, with states of some layers and in pieces.

  Args:
    target: the target.
    layers: layers whose states the drafter reads.

  Raises:
    ValueError: states are asked of a model of the user's own.
  """
  if not layers:
    lm = guard.target(target.lm) if target.config is None else target.lm
  elif target.config is None:
    raise ValueError(
      f'The drafter reads states of the target, but {target.name} is a model '
      'of your own whose functions return none.'
    )
  else:
    lm = model_lib.lm_of(
      target.config,
      target.layout,
      vocab_size=target.lm.vocab_size,
      hidden_layers=layers,
    )
  return prefill.of_lm(lm, target.prefill_chunk)
