"""From a finished run to a model folder that anyone can load."""

import dataclasses
import os
from typing import Any, Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.checkpoints import hf
from specjax.checkpoints import orbax
from specjax.distributed import transfer
from specjax.training import build as build_lib
from specjax.training import state as state_lib
from specjax.training.data import sources as sources_lib

FOLDER = 'export'
# Metrics of an evaluation: acceptance rate at depths 1, 2 and so on.
BY_DEPTH = 'accepted_at_'


def average(trees: Sequence[base.PyTree]) -> base.PyTree:
  """Mean of several parameter trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def final_params(
  manager: Any,
  like: state_lib.TrainState,
  last: int,
  planned: Callable[[int], bool] = lambda step: True,
) -> base.PyTree:
  """Mean over the newest `last` checkpoints of what each would evaluate.

  Args:
    manager: of `checkpoints.open_manager`.
    like: abstract state to restore into.
    last: how many; fewer are taken where fewer are kept.
    planned: which steps count, as of `checkpoints.open_manager`; the newest is
      taken where none does.
  """
  steps = sorted(manager.all_steps())
  steps = [step for step in steps if planned(step)][-last:] or steps[-1:]
  states = (orbax.restore(manager, step, like) for step in steps)
  return average([state_lib.best_params(state) for state in states])


def export(
  run: build_lib.Run,
  params: base.PyTree,
  folder: str,
  *,
  steps: int,
  metrics: Mapping[str, float],
  command: str,
) -> str:
  """Writes weights, config, tokenizer and model card.

  Args:
    run: of `build_lib.build`.
    params: what to write; cast to the config's `export_dtype`.
    folder: made if missing.
    steps: optimiser steps behind the weights.
    metrics: of the last evaluation, for the card.
    command: that made it, for the card.

  All processes take part, the first writes.

  Returns:
    `folder`.
  """
  dtype = jnp.dtype(run.config.export_dtype)
  params = jax.tree.map(
    lambda p: np.asarray(transfer.to_host(p)).astype(dtype), params
  )
  if jax.process_index():
    return folder
  os.makedirs(folder, exist_ok=True)
  _save_tokenizer(run.tokenizer, folder)
  card = model_card(run, params, steps=steps, metrics=metrics, command=command)
  path = os.path.join(folder, 'README.md')
  with open(path, 'w', encoding='utf-8') as f:
    f.write(card)
  hf.save_hf(folder, params, _with_acceptance(run.model_config, metrics))
  return folder


def _save_tokenizer(tokenizer, folder):
  try:
    tokenizer.save_pretrained(folder)
  except Exception as error:  # `tokenizers` raises nothing more precise.
    words = getattr(error, 'strerror', None) or error
    raise OSError(f'Cannot write the tokenizer to {folder}: {words}.') from None


def _with_acceptance(config, metrics):
  """The config with what was measured by depth, if it has room for it."""
  if not isinstance(config, models.ParallelConfig):
    return config
  rates = []
  while f'{BY_DEPTH}{len(rates) + 1}' in metrics:
    rates.append(round(float(metrics[f'{BY_DEPTH}{len(rates) + 1}']), 4))
  return dataclasses.replace(config, acceptance=tuple(rates))


def _file_names(run):
  """The files that were read."""
  settings, files = run.config.data, []
  if settings.labelled_fraction < 1:
    files += sources_lib.files(settings.train)
  if settings.labelled_fraction > 0:
    files += sources_lib.files(settings.labelled)
  return ', '.join(f'`{os.path.basename(f)}`' for f in files)


def _learning(run):
  """One sentence on what was minimised."""
  objective, settings = run.config.objective, run.config.data
  if run.teacher is None:
    text = 'Cross entropy on the tokens of the data'
    if objective.label_smoothing:
      text += f' (label smoothing {objective.label_smoothing:g})'
    return text + '.'
  teacher = os.path.basename(os.path.normpath(run.config.teacher))
  parts = [f'Distilled from `{teacher}` with the objective `{objective.name}`']
  if settings.labelled_fraction:
    parts.append(
      f'{settings.labelled_fraction:.0%} of the examples hold the '
      "target's own outputs"
    )
  if settings.on_policy_fraction:
    parts.append(
      f'{settings.on_policy_fraction:.0%} of the batches hold outputs that '
      'the drafter generated itself'
    )
  return '; '.join(parts) + '.'


def _usage(run):
  if run.teacher is None:
    return [
      "model = specjax.load('FOLDER')",
      "print(specjax.generate(model, ['...'])[0].text)",
    ]
  return [
    "target, drafter = specjax.load('TARGET'), specjax.load('FOLDER')",
    "print(specjax.generate(target, ['...'], drafter=drafter)[0].text)",
  ]


def model_card(
  run: build_lib.Run,
  params: base.PyTree,
  *,
  steps: int,
  metrics: Mapping[str, float],
  command: str,
) -> str:
  """Markdown that says what the model is and how it came to be."""
  config = run.config
  count = build_lib.num_parameters(params)
  lines = ['---', 'library_name: specjax']
  if config.licence:
    lines += [f'license: {config.licence.lower().replace(" ", "-")}']
  kind = 'target' if run.teacher is None else 'drafter'
  examples = sum(len(s.sides[0].offsets) - 1 for s in run.sources)
  lines += [
    '---',
    '',
    f'# {config.name}',
    '',
    f'A {run.model_config.model_type} {kind} of {count / 1e6:.2f} million '
    f'parameters, stored as {config.export_dtype}, trained with '
    'specjax.',
    '',
    '## Data',
    '',
    f'{examples} examples of {_file_names(run)}.',
  ]
  if config.data_note:
    lines.append(f'Source: {config.data_note}.')
  if config.licence:
    lines.append(f'Licence of the data: {config.licence}.')
  if config.data.kind == 'pairs' and config.data.joined_fraction:
    lines.append(
      f'{config.data.joined_fraction:.0%} of the pairs were joined to '
      f'passages of {config.data.join_min} to {config.data.join_max}.'
    )
  lines += [
    '',
    '## Training',
    '',
    _learning(run),
    f'{steps} steps of {config.data.batch_rows} rows with '
    f'{config.optimizer.name}, peak learning rate '
    f'{config.optimizer.learning_rate:g} ({config.optimizer.schedule}), '
    f'seed {config.seed}.',
    '',
    '```',
    command,
    '```',
    '',
  ]
  if metrics:
    lines += [
      '## Metrics on held-out data',
      '',
      '| metric | value |',
      '|---|---|',
    ]
    lines += [
      f'| {name.replace("_", " ")} | {value:.4g} |'
      for name, value in metrics.items()
    ]
    lines.append('')
  lines += [
    '## Use',
    '',
    '```python',
    'import specjax',
    '',
    *_usage(run),
    '```',
    '',
    '## Limits',
    '',
    'A small model, made to show speculative decoding and not to be relied '
    'on: it knows only the kind of text it was trained on.',
    '',
  ]
  return '\n'.join(lines)
