"""The command `decode.certify`: tests whether a method is lossless."""

import dataclasses
import json
import os

from absl import flags

from specjax import files
from specjax import validation
from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import request
from specjax.certify import equal_bits
from specjax.certify import runner
from specjax.checkpoints import model as model_lib
from specjax.commands import cli
from specjax.commands import parsing
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters import registry
from specjax.inference import bits
from specjax.inference import paths
from specjax.inference import planning
from specjax.inference import sources

LOSSLESS, BITS = CHECKS = ('lossless', 'bits')


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text(
    'target',
    None,
    'Target: a folder, GGUF file, hub id or shape:NAME (random weights).',
  )
  text('drafter', None, f'Drafter, one of: {registry.names()}.')
  text(
    'input', '', 'Prompts: text or JSON lines; without it bundled sentences.'
  )
  text(
    'corpus',
    '',
    'File of earlier answers, which suffix and hybrid read: decode.main '
    '--corpus writes one.',
  )
  flags.DEFINE_enum(
    'check',
    LOSSLESS,
    CHECKS,
    'lossless: tests that tokens and distributions are those of plain '
    'decoding. bits: compares logits of the target alone, to the bit, over '
    'block widths, batch sizes, prompt widths and capacities; a path that '
    'promises no bits is reported and passes.',
    flag_values=values,
  )
  flags.DEFINE_list(
    'precision',
    [],
    'Precisions that are checked one after another, of '
    f'{", ".join(paths.NAMES)} (int8: the weights alone). By default those of '
    '--config, and for --check=bits all of them.',
    flag_values=values,
  )
  text('json', '', 'JSON file for the result.')


def _run(values: flags.FlagValues, config) -> int:
  """Certifies; returns the exit status of the verdict."""
  try:
    for name in values.precision:
      validation.one_of('--precision', name, paths.NAMES, str)
  except ValueError as error:
    raise flags.ValidationError(str(error)) from None
  if values.json:
    files.check_writable(values.json)
  if values.check == BITS:
    parsing.require(values, 'target')
    found, status = _bits(values, config)
  else:
    parsing.require(values, 'target', 'drafter')
    cli.check_one_drafter(values.drafter)
    found, status = _lossless(values, config)
  if values.json:
    files.write_text(values.json, json.dumps(found, indent=1) + '\n')
  return status


def _bits(values: flags.FlagValues, config) -> tuple[dict, int]:
  """(result of --check=bits, exit status)."""
  config.validate()
  config = dataclasses.replace(config, num_prompts=bits.PROMPTS)

  def load(one: paths.Precision):
    target = sources.load_target(
      values.target, dtype=one.dtype, int8=one.int8, seed=config.seed
    )
    model_lib.check_target(target)
    path = request.named_or_bundled(target, values.input, cli.note)
    prompts = prompts_lib.collect(target, path, config)
    return target, [prompt.tokens for prompt in prompts]

  made = equal_bits.certify(
    load,
    values.precision or paths.XLA.precisions,
    whole=config.effort != 'quick',
    matmul_precision=config.matmul_precision,
    progress=cli.note,
    report=_show,
  )
  _show(made.last_line)
  return {'target': values.target} | made.as_dict(), made.status


def _lossless(values: flags.FlagValues, config) -> tuple[dict, int]:
  """(result of --check=lossless, exit status); the worst of the precisions."""
  found = []
  for one in paths.PRECISIONS:
    if one.name in values.precision:
      int8 = 'target' if one.int8 else 'none'
      own = dataclasses.replace(config, dtype=one.dtype, quantize=int8)
      _show(f'Precision {one.name}:')
      found.append({'precision': one.name, **_certified(values, own)})
  if not values.precision:
    found.append(_certified(values, config))
  statuses = [one['status'] for one in found]
  # A counter-example outweighs tests that show nothing.
  worst = 1 if 1 in statuses else max(statuses)
  return {'target': values.target, 'certificates': found}, worst


def _certified(values: flags.FlagValues, config) -> dict:
  """Certifies in one precision and prints the report."""
  entry = registry.find(values.drafter)
  if entry is not None and not entry.drafts:
    raise flags.Error('Without a drafter there is nothing to certify.')
  target = planning.load_target(values.target, config, config.seed)
  model_lib.check_target(target)
  note = paths.XLA.note(paths.precision_of(target.params))
  if note:
    cli.note(note)
  (source,) = request.load_drafters(
    [values.drafter], target, config, config.quantize
  )
  prompts = _prompts(values.input, target, source, config)
  corpus = _corpus(values.corpus, target, config)
  try:
    certificate = runner.certify(
      target, source, prompts, config, cli.note, corpus, report=_show
    )
  except KeyboardInterrupt:
    # The report is printed line by line, so finished tests are not lost.
    raise KeyboardInterrupt(
      'interrupted, so there is no verdict; standard output has the tests that '
      'are finished.'
    ) from None
  _show(certificate.last_line)
  return certificate._asdict() | {
    'status': certificate.status,
    'from_generation_config': dict(certificate.from_generation_config),
  }


def _show(line: str) -> None:
  print(line, flush=True)


def _prompts(path: str, target, source, config) -> list:
  """The prompts' ids, as far as they fit."""
  models = [source.model] * (source.model is not None)
  path = request.named_or_bundled(target, path, cli.note)
  prompts = prompts_lib.collect(target, path, config)
  prompts = prompts_lib.fitting(prompts, target, config, models)
  return [prompt.tokens for prompt in prompts]


def _corpus(path: str, target, config):
  """The index of a corpus file, or None."""
  if not path:
    return None
  if not os.path.isfile(path):
    raise FileNotFoundError(f'There is no corpus file {path}.')
  found = planning.open_corpus(path, target.tokenizer, config.corpus_tokens)
  return corpus_lib.index(found)


main = parsing.command(define_flags, _run)
