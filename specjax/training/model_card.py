"""The README.md of an exported model: what it is and how it came to be."""

from collections.abc import Mapping
import os

from specjax import base
from specjax.training import build as build_lib
from specjax.training import metrics as metrics_lib
from specjax.training.data import sources as sources_lib


def text(
  run: build_lib.Run,
  params: base.PyTree,
  *,
  steps: int,
  metrics: Mapping[str, float],
  command: str,
) -> str:
  """Markdown of a model card.

  Args:
    run: result of `build.build`.
    params: the exported weights.
    steps: optimiser steps behind them.
    metrics: metrics of the last evaluation.
    command: command that made the model.
  """
  parts = (
    _head(run, params),
    _data(run),
    _training(run, steps, command),
    _metrics(metrics),
    _usage(run),
  )
  return '\n\n'.join('\n'.join(part) for part in parts if part) + '\n'


def _head(run, params):
  config = run.config
  count = build_lib.num_parameters(params)
  lines = ['---', 'library_name: specjax']
  if config.licence:
    lines.append(f'license: {config.licence.lower().replace(" ", "-")}')
  kind = 'target' if run.teacher is None else 'drafter'
  return lines + [
    '---',
    '',
    f'# {config.name}',
    '',
    f'A {run.model_config.model_type} {kind} of {count / 1e6:.2f} million '
    f'parameters, stored as {config.export_dtype}, trained with specjax.',
  ]


def _data(run):
  config = run.config
  examples = sum(len(s.sides[0].offsets) - 1 for s in run.sources)
  lines = ['## Data', '', f'{examples} examples of {_file_names(run)}.']
  if config.data_note:
    lines.append(f'Source: {config.data_note}.')
  if config.licence:
    lines.append(f'Licence of the data: {config.licence}.')
  if config.data.kind == 'pairs' and config.data.joined_fraction:
    lines.append(
      f'{config.data.joined_fraction:.0%} of the pairs were joined to '
      f'passages of {config.data.join_min} to {config.data.join_max}.'
    )
  return lines


def _training(run, steps, command):
  config = run.config
  return [
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
  ]


def _metrics(metrics):
  if not metrics:
    return []
  return [
    '## Metrics on held-out data',
    '',
    '| metric | value |',
    '|---|---|',
    *(
      f'| {name.replace("_", " ")} | {metrics_lib.shown(value)} |'
      for name, value in metrics.items()
    ),
  ]


def _file_names(run):
  """The files that were read."""
  files = sources_lib.used_files(run.config.data)
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
  if settings.labelled_share():
    parts.append(
      f'{settings.labelled_share():.0%} of the examples hold the '
      "target's own outputs"
    )
  if settings.on_policy_fraction:
    parts.append(
      f'{settings.on_policy_fraction:.0%} of the batches hold outputs that '
      'the drafter generated itself'
    )
  return '; '.join(parts) + '.'


def _usage(run):
  lines = [
    "model = specjax.load('FOLDER')",
    "print(specjax.generate(model, ['...'])[0].text)",
  ]
  if run.teacher is not None:
    lines = [
      "target, drafter = specjax.load('TARGET'), specjax.load('FOLDER')",
      "print(specjax.generate(target, ['...'], drafter=drafter)[0].text)",
    ]
  return ['## Use', '', '```python', 'import specjax', '', *lines, '```']
