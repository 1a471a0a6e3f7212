"""From a finished run to a model folder that anyone can load."""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import files
from specjax.checkpoints import hf
from specjax.checkpoints import orbax
from specjax.distributed import transfer
from specjax.training import build as build_lib
from specjax.training import model_card
from specjax.training import state as state_lib

FOLDER = 'export'


def average(trees: Sequence[base.PyTree]) -> base.PyTree:
  """Mean of several parameter trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def final_params(
  manager: Any,
  like: state_lib.TrainState,
  last: int,
  planned: Callable[[int], bool] = lambda step: True,
) -> base.PyTree:
  """Mean of the evaluated parameters of the newest `last` checkpoints.

  Args:
    manager: manager of `orbax.open_manager`.
    like: abstract state to restore into.
    last: number of checkpoints; fewer are taken where fewer are kept.
    planned: step -> whether it counts, as in `orbax.open_manager`. Where none
      does, the newest is taken.
  """
  steps = sorted(manager.all_steps())
  steps = [step for step in steps if planned(step)][-last:] or steps[-1:]
  states = (orbax.restore(str(manager.directory), step, like) for step in steps)
  return average([state_lib.best_params(state) for state in states])


def export(
  run: build_lib.Run,
  params: base.PyTree,
  folder: str,
  *,
  steps: int,
  metrics: Mapping[str, float],
  command: str,
  mean_of: Sequence[int] = (),
) -> str:
  """Writes weights, config, tokenizer and model card.

  Args:
    run: result of `build_lib.build`.
    params: parameters to write; cast to the config's `export_dtype`.
    folder: made if missing.
    steps: optimiser steps behind the weights.
    metrics: metrics of these weights, for the card; {} for none measured.
    command: command that made the model, for the card.
    mean_of: steps of the checkpoints whose mean the weights are, for the card.

  All processes take part, the first writes.

  Returns:
    `folder`.
  """
  dtype = jnp.dtype(run.config.export_dtype)
  params = jax.tree.map(
    lambda p: np.asarray(transfer.to_host(p)).astype(dtype), params
  )
  # Behind the gathering, in which every process has to take part.
  if jax.process_index():
    return folder
  os.makedirs(folder, exist_ok=True)
  # The weights come last: a folder that lacks them is refused when loaded, so
  # an export that was interrupted cannot be mistaken for a finished one.
  _save_tokenizer(run.tokenizer, folder)
  card = model_card.text(
    run,
    params,
    steps=steps,
    metrics=metrics,
    command=command,
    mean_of=mean_of,
  )
  path = os.path.join(folder, 'README.md')
  files.write_text(path, card)
  hf.save_hf(
    folder, params, run.config.family.measured(run.model_config, metrics)
  )
  return folder


def _save_tokenizer(tokenizer, folder):
  try:
    tokenizer.save_pretrained(folder)
  except Exception as error:  # `tokenizers` raises nothing more precise.
    words = getattr(error, 'strerror', None) or error
    raise OSError(f'Cannot write the tokenizer to {folder}: {words}.') from None
