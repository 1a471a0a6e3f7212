"""The README.md of an exported model: what it is and how it came to be."""

from collections.abc import Mapping, Sequence
import os

from specjax import base
from specjax.models import registry
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
  mean_of: Sequence[int] = (),
) -> str:
  """Markdown of a model card.

  Args:
    run: result of `build.build`.
    params: the exported weights.
    steps: optimiser steps behind them.
    metrics: metrics of these weights; {} for none measured.
    command: command that made the model.
    mean_of: steps of the checkpoints whose mean the weights are; () for the
      weights of the last step.
  """
  parts = (
    _head(run, params),
    _size(run),
    _data(run),
    _training(run, steps, command, mean_of),
    _metrics(run, metrics),
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


def _size(run):
  """The network as it is, whatever the settings of a new one would be."""
  facts = registry.facts(run.model_config)
  rows = {'width': facts.width, 'vocabulary': facts.vocab_size}
  if facts.has_layers:
    rows = {
      'layers': facts.layers,
      'encoder layers': facts.encoder_layers,
      'attention heads': facts.heads,
      'key heads': facts.kv_heads,
      'width of an attention head': facts.head_dim,
      'width of the feed-forward layer': facts.mlp,
    } | rows
  rows |= {
    'tokens that its output layer scores': len(facts.output_ids),
    'positions': facts.positions,
    'tokens drafted at once': facts.max_draft,
  }
  return [
    '## Size',
    '',
    '| quantity | value |',
    '|---|---|',
    *(f'| {name} | {value} |' for name, value in rows.items() if value),
  ]


def _data(run):
  config = run.config
  examples = sum(len(s.sides[0].offsets) - 1 for s in run.sources)
  lines = ['## Data', '', f'{examples} examples of {_file_names(run)}.']
  for source in run.sources:
    lines += [_without_folders(note, config) for note in source.notes]
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


def _training(run, steps, command, mean_of):
  config = run.config
  done = f'{steps}' if steps == config.steps else f'{steps} of {config.steps}'
  lines = [
    '## Training',
    '',
    _learning(run),
    f'{done} steps of {config.data.batch_rows} rows with '
    f'{config.optimizer.name}, peak learning rate '
    f'{config.optimizer.learning_rate:g} ({config.optimizer.schedule}), '
    f'seed {config.seed}.',
  ]
  if config.init_from:
    origin = _name(config.init_from)
    lines.append(f'Training began with the weights of `{origin}`.')
  if config.optimizer.ema:
    lines.append(
      'The weights are a moving average over the steps '
      f'(optimizer.ema={config.optimizer.ema:g}).'
    )
  if mean_of:
    listed = ', '.join(map(str, mean_of))
    lines.append(f'Exported is the mean of the checkpoints of steps {listed}.')
  return lines + ['', '```', command, '```']


def _name(path):
  """The last part of a path: folders mean nothing on other machines."""
  return os.path.basename(os.path.normpath(path))


def _metrics(run, metrics):
  lines = ['## Metrics on held-out data', '']
  if not metrics:
    return lines + ['Not measured.']
  names = _listed(sources_lib.files(run.config.data.valid))
  return lines + [
    f'Measured on {names} with the weights of this folder.',
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
  return _listed(sources_lib.used_files(run.config.data))


def _without_folders(note, config):
  """A note on the data, with the names of files alone."""
  paths = [*sources_lib.used_files(config.data), config.teacher]
  for path in filter(None, paths):
    note = note.replace(path, _name(path))
  return note


def _listed(files):
  return ', '.join(f'`{_name(f)}`' for f in files)


def _learning(run):
  """One sentence on what was minimised."""
  objective, settings = run.config.objective, run.config.data
  if run.teacher is None:
    text = 'Cross entropy on the tokens of the data'
    if objective.label_smoothing:
      text += f' (label smoothing {objective.label_smoothing:g})'
    return text + '.'
  teacher = _name(run.config.teacher)
  parts = [f'Distilled from `{teacher}` with the objective `{objective.name}`']
  if settings.labelled_share():
    parts.append(
      f'{settings.labelled_share():.0%} of the examples hold the answers of '
      'a target (labels)'
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
