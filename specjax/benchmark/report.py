"""Writes a folder: results.json, details.json, report.md, plots, explorer.html.

results.json is a list of flat objects, one a row, with the fields of
`schema.ResultRow`: `pandas.read_json` makes a table of it. Its lists and tables
by slot, width or category are in details.json, beside the settings.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

from specjax import files
from specjax.benchmark import break_even
from specjax.benchmark import explorer
from specjax.benchmark import limits
from specjax.benchmark import plots
from specjax.benchmark import schema
from specjax.benchmark import specdec_tables
from specjax.benchmark import table

RESULTS, DETAILS = 'results.json', 'details.json'


def keep_rows(folder: str, rows: Sequence[dict]) -> None:
  """Writes results.json with the rows known so far.

  A run that is stopped keeps what it measured.

  Args:
    folder: folder of the report.
    rows: rows of `runner`, finished or not.
  """
  files.write_text(os.path.join(folder, RESULTS), flat_rows(rows))


def check_folder(folder: str) -> None:
  """Makes the folder and writes a probe; raises OSError in one sentence.

  Called first, because hours of measuring would be lost at the end.
  """
  try:
    os.makedirs(folder, exist_ok=True)
    probe = pathlib.Path(folder) / '.probe'
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise OSError(
      f'Cannot write to the folder {folder}: {error.strerror}.'
    ) from None


def write(folder: str, results: Any, config: Any) -> list[str]:
  """Writes all files.

  Args:
    folder: folder of the report; made if missing.
    results: `runner.Results`.
    config: `BenchmarkConfig`.

  Returns:
    Names of the files written. Without matplotlib there are no plots.
  """
  check_folder(folder)
  path = pathlib.Path(folder)
  # Before the texts, which name the images that there are.
  images = plots.draw(plots.PLOTS, results.rows, path)
  texts = {
    RESULTS: flat_rows(results.rows),
    DETAILS: _details(results, config),
    'report.md': markdown(results, config, images),
    'explorer.html': explorer.page(results, config),
  }
  tables = specdec_tables.prepared(results, config)
  if tables:
    of_tables = plots.draw(specdec_tables.PLOTS, tables, path)
    texts[specdec_tables.NAME] = specdec_tables.markdown(
      results, config, of_tables
    )
    images += of_tables
  for name, words in texts.items():
    files.write_text(str(path / name), words)
  return [*texts, *images]


def flat_rows(rows: Sequence[dict]) -> str:
  """The text of results.json."""
  return _json([schema.flat(row) for row in rows])


def _details(results: Any, config: Any) -> str:
  """The text of details.json; its rows stand as in results.json."""
  return _json(
    {
      'fields': schema.MEANINGS,
      'environment': results.environment,
      'config': dataclasses.asdict(config),
      'rows': [schema.nested(row) for row in results.rows],
    }
  )


def _json(value: Any) -> str:
  return json.dumps(plain(value), indent=1, ensure_ascii=False) + '\n'


def text(results: Any, config: Any) -> str:
  """Output of the command: a table of the rows, and limits of the device."""
  of_paper = specdec_tables.text(results, config)
  parts = (table.text(results.rows), limits.text(results.rows))
  return of_paper or '\n\n'.join(filter(None, parts))


def plain(value: Any) -> Any:
  """As JSON knows it: numpy numbers unpacked, no NaN and no infinity."""
  # In:  {1: nan, 'a': float32(.5)}
  # Out: {'1': None, 'a': .5}
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(v) for v in value]
  # Unpacked first: a float32 of numpy is no float, and its NaN would pass. NaN
  # is no JSON, though Python writes it.
  if hasattr(value, 'item'):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def markdown(results: Any, config: Any, images: Sequence[str]) -> str:
  """The report as a person reads it."""
  where = results.environment
  target = results.setup.target.name
  versions = ', '.join(f'{k} {v}' for k, v in where['versions'].items())
  parts = [
    f'# Speculative decoding of {table.brief(target)}',
    f'Measured {where["time"]} on {where["device"]} ({where["processor"]}, '
    f'{where["cores"]} cores), {config.dtype}. {versions}. Medians of '
    f'{config.repetitions} repetitions over {len(results.setup.prompts)} '
    f'prompts of up to {config.max_new_tokens} new tokens, engines taking '
    'turns, compilation not counted.',
    _table(results.rows, schema.COLUMNS),
  ]
  # Behind the table, as a sentence would make one column as wide as the page.
  notes = [f'* {table.note(row)}' for row in results.rows if table.note(row)]
  parts += ['\n'.join(notes)] if notes else []
  ratios = table.ratios(results.rows)
  if ratios:
    parts += ['## Beside other engines', '\n'.join(f'* {r}' for r in ratios)]
  categories = _categories(results.rows)
  if categories:
    parts += ['## By category', categories]
  parts += filter(
    None,
    (
      break_even.draft_times(results.rows),
      break_even.markdown(results.rows),
      limits.markdown(results.rows),
    ),
  )
  parts += ['## Acceptance', _table(_accepting(results.rows), _ACCEPTANCE)]
  parts += [f'![{name}]({name})' for name in images]
  parts += [
    'The generated texts, token by token: [explorer.html](explorer.html). All '
    'numbers: [results.json](results.json), and those by slot, width or '
    'category: [details.json](details.json).',
    '## What the fields mean',
    '\n'.join(schema.explanations()),
  ]
  return '\n\n'.join(parts) + '\n'


_CATEGORIES = table.columns(
  """
  who          drafter  {}
  num_draft    K        {}
  temperature  T        {:g}
  batch_size   batch    {}
  """
)
_WHAT = 'drafter verifier num_draft temperature batch_size quantize'.split()
_ACCEPTANCE = schema.columns(*_WHAT, 'acceptance_rate') + table.columns(
  """
  mean_acceptance_length  mean length         {:.2f}
  positions               by position         {}
  histogram               rounds by accepted  {}
  """
)


def _accepting(rows: Sequence[dict]) -> list[dict]:
  """Speculative rows with their lists by slot as text."""
  return [
    row
    | {
      'positions': ' '.join(
        '-' if rate is None else f'{rate:.2f}'
        for rate in row['acceptance_by_position']
      ),
      'histogram': ' '.join(map(str, row['accepted_histogram'])),
    }
    for row in rows
    if row['num_draft'] and 'acceptance_by_position' in row
  ]


def _table(rows: Sequence[dict], columns) -> str:
  return table.markdown(table.cells_of(rows, table.filled(rows, columns)))


def _categories(rows: Sequence[dict]) -> str:
  names = sorted({n for row in rows for n in row.get('by_category') or {}})
  if not names:
    return ''
  columns = [*_CATEGORIES, *((name, name, '{:.2f}') for name in names)]
  shown = []
  for row in rows:
    gains = {n: g['speedup'] for n, g in (row.get('by_category') or {}).items()}
    who = row['drafter'] if row['engine'] == 'specjax' else row['engine']
    shown.append(row | gains | {'who': who})
  return table.markdown(table.cells_of(shown, columns))
