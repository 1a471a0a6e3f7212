"""The command `decode.certify`: tests whether a method is lossless."""

import os

from absl import flags

from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import request
from specjax.certify import runner
from specjax.checkpoints import model as model_lib
from specjax.commands import cli
from specjax.commands import parsing
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters import registry
from specjax.inference import planning


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text(
    'target',
    None,
    'Target: a folder, a hub id, or shape:NAME (random weights).',
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


def _run(values: flags.FlagValues, config) -> int:
  """Certifies; returns the exit status of the verdict."""
  parsing.require(values, 'target', 'drafter')
  entry = registry.find(values.drafter)
  if entry is not None and not entry.drafts:
    raise flags.Error('Without a drafter there is nothing to certify.')
  target = planning.load_target(values.target, config, config.seed)
  model_lib.check_target(target)
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
  return certificate.status


def _show(line: str) -> None:
  print(line, flush=True)


def _prompts(path: str, target, source, config) -> list:
  """The prompts' ids, as far as they fit."""
  models = [source.model] * (source.model is not None)
  path = request.named_or_bundled(target, path, cli.note)
  prompts = prompts_lib.collect(target, path, config)
  prompts = prompts_lib.fitting(
    prompts, target, config, config.num_draft, models
  )
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
