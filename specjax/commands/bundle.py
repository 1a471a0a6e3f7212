"""Puts trained models into the package, and the choice of the demo's drafter.

Which drafter the demo takes is decided by a measurement that is kept beside
the models: the fastest exact row of a benchmark on a CPU at batch size 1.
"""

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any, Sequence

from specjax import models
from specjax import text
from specjax.checkpoints import load as loading
from specjax.commands import demo
from specjax.inference import drafting

LIMIT = 40 * 10**6
SPEC_DRAFTER = 'demo_spec_drafter'
PARALLEL_DRAFTER = 'demo_parallel_drafter'
# What a folder of ours needs; checkpoints, optimisers and the like stay out.
_FILES = (
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'README.md',
)


def bundle(
  target: str,
  drafters: Sequence[str],
  report: str,
  assets: pathlib.Path = demo.ASSETS,
) -> dict[str, Any]:
  """Copies export folders and writes the choice.

  Args:
    target: folder of the target.
    drafters: folders of drafters for it: a language model, a Spec-Drafter and
      a drafter network with masks or its host; one of each at most.
    report: `results.json` of a `decode.benchmark` of them, named as here.
    assets: where to.

  Returns:
    What was written to `demo_choice.json`.

  Raises:
    ValueError, OSError: one sentence; then nothing was changed.
  """
  places = {demo.TARGET.name: target}
  decides = loading.load(target)
  drafting.check_target(decides)
  for folder in drafters:
    model = loading.load(folder)
    text.check_same_vocabulary(decides.tokenizer, model.tokenizer)
    name = _name(model)
    if name in places:
      raise ValueError(f'{folder} and {places[name]} would both be {name}.')
    places[name] = folder
  made = choose({v: k for k, v in places.items()}, report)
  files = {
    name: [f for f in _FILES if os.path.isfile(os.path.join(folder, f))]
    for name, folder in places.items()
  }
  size = sum(
    os.path.getsize(os.path.join(places[name], f))
    for name, found in files.items()
    for f in found
  )
  if size > LIMIT:
    raise ValueError(
      f'The models take {size / 1e6:.1f} MB together, but {LIMIT / 1e6:.0f} MB '
      'is the most that is bundled; export smaller ones or leave one out.'
    )
  assets.mkdir(parents=True, exist_ok=True)
  # Beside what is there first: a folder named may be one of those replaced.
  with tempfile.TemporaryDirectory(dir=assets) as fresh:
    for name, found in files.items():
      (pathlib.Path(fresh) / name).mkdir()
      for file in found:
        shutil.copyfile(
          os.path.join(places[name], file), os.path.join(fresh, name, file)
        )
    # A drafter that stayed would be another target's.
    for name in (*places, demo.DRAFTER.name, SPEC_DRAFTER, PARALLEL_DRAFTER):
      shutil.rmtree(assets / name, ignore_errors=True)
    for name in files:
      os.rename(os.path.join(fresh, name), assets / name)
  choice = json.dumps(made, indent=2) + '\n'
  (assets / demo.CHOICE).write_text(choice, encoding='utf-8')
  return made


def _name(drafter: loading.Model) -> str:
  if drafter.lm is not None:
    return demo.DRAFTER.name
  is_parallel = isinstance(drafter.config, models.ParallelConfig)
  return PARALLEL_DRAFTER if is_parallel else SPEC_DRAFTER


def choose(names: dict[str, str], report: str) -> dict[str, Any]:
  """The fastest exact row of a report.

  Args:
    names: {folder as the report names it: name in the package}.
    report: `results.json`.

  Raises:
    ValueError: there is no such row, or it was not measured on a CPU.
  """
  try:
    with open(report, encoding='utf-8') as file:
      rows = [
        row
        for row in json.load(file)['rows']
        if row['num_draft'] and row['batch_size'] == 1 and row['check'] == 'ok'
      ]
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f'{report} is no results.json of decode.benchmark; measure the models '
      'with configs/bench_demo.py.'
    ) from None
  rows = [row for row in rows if row['drafter'] in names]
  if not rows:
    raise ValueError(
      f'{report} holds no exact row at batch size 1 of the drafters '
      f'{", ".join(names)}; measure them with configs/bench_demo.py.'
    )
  where = rows[0]['environment']
  if where['platform'] != 'cpu':
    raise ValueError(
      f'{report} was measured on {where["platform"]}, but the choice is for a '
      'CPU.'
    )
  fields = (
    'num_draft', 'dtype', 'speedup', 'tokens_per_second', 'block_efficiency',
    'acceptance_rate', 'draft_ms', 'verify_ms', 'step_ms',
  )  # fmt: skip
  measured = [
    {'drafter': names[row['drafter']]} | {f: row.get(f) for f in fields}
    for row in rows
  ]
  best = max(measured, key=lambda row: row['speedup'])
  return {
    'drafter': best['drafter'],
    'num_draft': best['num_draft'],
    'measured': measured,
    'where': {
      key: where[key] for key in ('processor', 'cores', 'versions', 'time')
    },
  }
