"""Writes a folder: results.json, report.md, plots and explorer.html."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any, Sequence

from specjax.benchmark import break_even
from specjax.benchmark import explorer
from specjax.benchmark import limits
from specjax.benchmark import plots
from specjax.benchmark import specdec_tables
from specjax.benchmark import table

SCHEMA = {
  'engine': 'specjax, or the peer',
  'mode': 'plain or speculative',
  'target': 'as given',
  'drafter': 'as given; none for plain decoding',
  'verifier': 'the rule that decided; own for a peer',
  'num_draft': 'K, drafted tokens a round; 0 for plain decoding',
  'beta': 'of the lossy rule top_candidates, with',
  'tau': 'the largest gap of log probabilities',
  'tree': 'of the drafts, as given; empty for chains, absent for a peer',
  'passes': 'of a drafter network a round: one, or K',
  'temperature': '0 is greedy',
  'batch_size': 'rows decoded together',
  'dtype': 'of weights and computing',
  'quantize': 'whose matrices are kept in int8: none, target, drafter or both',
  'exact': 'whether the rule keeps the law of the target; null for a peer',
  'num_prompts': 'prompts measured',
  'num_tokens': 'new tokens of a pass over all batches',
  'seconds': 'sum over batches of the median seconds, prefill included',
  'prefill_seconds': 'part of it before the first round; null if not known',
  'decode_seconds': 'part of it in the loop; null if not known',
  'compile_seconds': 'spent before timing: compiling, or loading a peer',
  'repetition_seconds': 'seconds of each repetition',
  'tokens_per_second': 'num_tokens / seconds',
  'ms_per_token': '1000 seconds / num_tokens',
  'ms_per_step': 'milliseconds of a round of the loop, as round_ms',
  'speedup': 'tokens_per_second over that of our plain decoding',
  'speedup_spec_bench': (
    'mean over samples (batches; at batch 1 the turns of a chat together) of '
    'their tokens a second, over the same mean of plain decoding'
  ),
  'speedup_mean_of_ratios': 'mean over samples of their own speed-ups',
  'decode_speedup': 'as speedup, prefill left out',
  'num_rounds': 'target calls of the batches, prefill not counted',
  'num_target_calls': 'target calls of the rows while they were live',
  'num_drafted': 'proposed tokens',
  'num_accepted': 'emitted tokens that were drafted',
  'num_tested': 'accepted ones and first refusals',
  'block_efficiency': 'tokens a target call, a row at a time',
  'acceptance_rate': 'num_accepted / num_tested',
  'draft_acceptance_rate': 'num_accepted / num_drafted',
  'mean_acceptance_length': '1 + accepted tokens a drafting round (vLLM)',
  'acceptance_by_position': 'accepted / tested for each draft slot',
  'acceptance_histogram': 'drafting rounds by number of accepted tokens',
  'step_ms': 'the target alone over one token a row, milliseconds',
  'draft_ms': 'proposing once',
  'verify_ms': 'the target alone over the blocks that were run',
  'verify_ms_by_width': 'the target alone by tokens in the block',
  'round_ms': 'decode_seconds a round',
  'overhead_ms': 'round_ms - draft_ms - verify_ms',
  'loop_efficiency': '(draft_ms + verify_ms) / round_ms',
  'c': 'draft_ms / num_draft / step_ms',
  'verify_cost': 'verify_ms / step_ms',
  'predicted_theorem': 'Leviathan 2023, theorem 3.8, of acceptance_rate and c',
  'predicted': (
    'the same with the block costing verify_cost, and a round without a draft '
    'yielding one token'
  ),
  'drafting_share': 'rounds in which something was drafted',
  'predicted_from_counts': 'the same with the measured tokens a round',
  'measured_over_predicted': 'decode_speedup / predicted',
  'best_num_draft': (
    'K of the largest factor by these costs; 0 for none, absent for trees'
  ),
  'best_predicted': 'that factor',
  'operations_factor': (
    'arithmetic a token over that of plain decoding, theorem 3.11'
  ),
  'peak_memory_bytes': 'most memory in use',
  'peak_memory_kind': 'device, process, or process, ever',
  'program_bytes': 'temporary memory of the compiled loop',
  'program_total_bytes': (
    'of a device: parameters, and results and temporaries of the program that '
    'needs most'
  ),
  'estimated_bytes': 'what specjax.estimate_memory foresees of that',
  'estimate_over_memory': (
    "the estimate over the device's own peak, else over program_total_bytes"
  ),
  'step_bytes': 'weights and caches that a device reads for a step',
  'bytes_per_second': 'measured: reading a large array',
  'bandwidth_ms': '1000 step_bytes / bytes_per_second, the least for a step',
  'over_bandwidth': 'step_ms / bandwidth_ms',
  'label': 'what the drafter is',
  'over_greedy': "plain decoding's seconds over these, prefill included",
  'over_beam': "the beam search's seconds over these",
  'bleu': 'corpus BLEU against the references (sacrebleu)',
  'relative_bleu': "the same against the target's greedy outputs",
  'exact_match': "share of outputs equal to the target's greedy ones",
  'edit_distance': "edits a token of the target's greedy outputs",
  'by_category': 'speed-up and counts for each Spec-Bench category',
  'check': (
    'ok, FAILED, INCONCLUSIVE, lossy, of a peer ok or differs; null where '
    'nothing is checked'
  ),
  'check_note': 'why',
  'environment': 'device, processor, versions, flags, command, time',
  'config': 'all settings',
}


def check_folder(folder: str) -> None:
  """Makes the folder; raises OSError with a sentence if that fails."""
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
    folder: made if missing.
    results: `runner.Results`.
    config: `BenchmarkConfig`.

  Returns:
    Names of the files written. Without matplotlib there are no plots.
  """
  check_folder(folder)
  path = pathlib.Path(folder)
  settings = dataclasses.asdict(config)
  rows = [dict(row) | {'config': settings} for row in results.rows]
  stored = plain({'schema': SCHEMA, 'rows': rows})
  images = plots.draw(plots.PLOTS, results.rows, path)
  files = {
    'results.json': json.dumps(stored, indent=1, ensure_ascii=False) + '\n',
    'report.md': markdown(results, config, images),
    'explorer.html': explorer.page(results, config),
  }
  tables = specdec_tables.prepared(results, config)
  if tables:
    of_tables = plots.draw(specdec_tables.PLOTS, tables, path)
    files[specdec_tables.NAME] = specdec_tables.markdown(
      results, config, of_tables
    )
    images += of_tables
  for name, words in files.items():
    _write(path / name, words)
  return [*files, *images]


def text(results: Any, config: Any) -> str:
  """What the command prints: a table, and what was measured of the device."""
  of_paper = specdec_tables.markdown(results, config)
  parts = (table.text(results.rows), limits.markdown(results.rows))
  return of_paper or '\n\n'.join(filter(None, parts))


def _write(path: pathlib.Path, text: str) -> None:
  """Whole or not at all."""
  partial = path.with_name(path.name + '.part')
  partial.write_text(text, encoding='utf-8')
  partial.replace(path)


def plain(value: Any) -> Any:
  """As JSON knows it: numpy numbers unpacked, no NaN and no infinity."""
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(v) for v in value]
  if hasattr(value, 'item'):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def markdown(results, config, images: Sequence[str]) -> str:
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
    _table(results.rows, table.COLUMNS),
  ]
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
    'numbers, with a description of each field: [results.json](results.json).',
    '## What the columns mean',
    '\n'.join(f'* `{k}`: {v}' for k, v in SCHEMA.items()),
  ]
  return '\n\n'.join(parts) + '\n'


_ACCEPTANCE = (
  ('drafter', 'drafter', '{}'), ('verifier', 'verify', '{}'),
  ('num_draft', 'K', '{}'), ('temperature', 'T', '{:g}'),
  ('batch_size', 'batch', '{}'), ('quantize', 'int8', '{}'),
  ('acceptance_rate', 'accept', '{:.3f}'),
  ('mean_acceptance_length', 'mean length', '{:.2f}'),
  ('positions', 'by position', '{}'),
  ('histogram', 'rounds by accepted', '{}'),
)  # fmt: skip


def _accepting(rows: Sequence[dict]) -> list[dict]:
  """Speculative rows with their lists by slot as text."""
  return [
    row
    | {
      'positions': ' '.join(
        '-' if rate is None else f'{rate:.2f}'
        for rate in row['acceptance_by_position']
      ),
      'histogram': ' '.join(map(str, row['acceptance_histogram'])),
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
  columns = [
    ('who', 'drafter', '{}'), ('num_draft', 'K', '{}'),
    ('temperature', 'T', '{:g}'), ('batch_size', 'batch', '{}'),
    *((name, name, '{:.2f}') for name in names),
  ]  # fmt: skip
  shown = []
  for row in rows:
    gains = {n: g['speedup'] for n, g in (row.get('by_category') or {}).items()}
    who = row['drafter'] if row['engine'] == 'specjax' else row['engine']
    shown.append(row | gains | {'who': who})
  return table.markdown(table.cells_of(shown, columns))
