"""The command `decode.benchmark`: measured speed beside predicted speed."""

from collections.abc import Sequence
import dataclasses

from absl import flags

from specjax.benchmark import plan
from specjax.benchmark import plots
from specjax.benchmark import report
from specjax.benchmark import request as request_lib
from specjax.benchmark import runner
from specjax.benchmark.peers import engines as peers
from specjax.commands import cli
from specjax.commands import parsing
from specjax.decoding.drafters import registry
from specjax.distributed import processes


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  def many(name, words):
    flags.DEFINE_multi_string(name, [], words, flag_values=values)

  text(
    'target',
    None,
    'Target: a folder, GGUF file, hub id or shape:NAME (random weights).',
  )
  many(
    'drafter',
    f'Drafters, with commas or by repeating the flag, of: {registry.names()}, '
    'shape:NAME, network:NAME.',
  )
  text(
    'input',
    '',
    "Prompts: text, JSON lines or Spec-Bench's question.jsonl; without it the "
    'bundled sentences, or random tokens where there is no tokenizer.',
  )
  many('peer', f'Other engines: {", ".join(peers.PEERS)}.')
  text('output', '', 'Folder for the report.')
  text(
    'corpus',
    '',
    'File of earlier answers, which suffix and hybrid read: decode.main '
    '--corpus writes one.',
  )
  parsing.define_processes(values)
  flags.DEFINE_bool(
    'plan',
    False,
    'Whether costs and acceptance are measured for advice, without a sweep.',
    flag_values=values,
  )


def split(values: Sequence[str]) -> tuple[str, ...]:
  """Values of a repeated flag, each of which may be several with commas."""
  return tuple(part for value in values for part in value.split(',') if part)


def _run(values: flags.FlagValues, config) -> None:
  """Measures, prints the table and writes the report."""
  parsing.require(values, 'target')
  if values.plan and (values.peer or values.output):
    raise flags.Error(
      '--plan prints advice, writes no report and runs no other engine; leave '
      '--output and --peer out.'
    )
  parsing.join_processes(values, config)
  # Every process computes; one prints and writes.
  first = processes.is_first()
  if values.output and first:
    report.check_folder(values.output)
  request = request_lib.BenchmarkRequest(
    target=values.target,
    drafters=split(values.drafter),
    source=values.input,
    peers=split(values.peer),
    config=config,
    corpus=values.corpus,
    # Only what was given on the command line has a flag.
    given=tuple(
      field.name
      for field in dataclasses.fields(config)
      if f'config.{field.name}' in values
    ),
  )
  if values.plan:
    advice = plan.plan(request, cli.note)
    if first:
      print(advice, flush=True)
    return
  results = _measured(request, values.output if first else '')
  if first:
    print(report.text(results, config), flush=True)
  if values.output and first:
    cli.note('writing the report')
    files = report.write(values.output, results, config)
    cli.note(f'wrote {", ".join(files)} in {values.output}')
    if not plots.available():
      cli.note('no plots: pip install matplotlib, or specjax[plots]')
  failed = runner.failures(results.rows)
  if failed:
    raise ValueError(f'{len(failed)} rows failed their check; see the notes.')


def _measured(request, folder: str) -> runner.Results:
  """Runs the benchmark, keeping the rows known so far in a folder."""
  kept = []

  def keep(rows):
    kept[:] = rows
    if folder:
      report.keep_rows(folder, rows)

  try:
    return runner.run(request, cli.note, keep)
  except KeyboardInterrupt:
    where = f'; {folder}/{report.RESULTS} has them' if folder else ''
    raise KeyboardInterrupt(
      f'interrupted with {len(kept)} rows measured{where}.'
    ) from None


main = parsing.command(define_flags, _run)
