"""The command `decode.certify`: is this drafter and rule lossless here?"""

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
from specjax.distributed import mesh as mesh_lib
from specjax.inference import planning
from specjax.inference import sources


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'A folder, a hub id, or shape:NAME (random weights).')
  text('drafter', None, f'One of: {registry.names()}.')
  text('input', '', 'Prompts: a text file or a .jsonl file.')
  text(
    'corpus',
    '',
    'Earlier answers for suffix and hybrid:FOLDER: a file of decode.main '
    '--corpus. It is read only.',
  )


def _run(values: flags.FlagValues, config) -> int:
  """Certifies; returns the exit status of the verdict."""
  parsing.require(values, 'target', 'drafter')
  entry = registry.find(values.drafter)
  if entry is not None and not entry.drafts:
    raise flags.Error('Without a drafter there is nothing to certify.')
  target = sources.load_target(
    values.target,
    dtype=None if config.dtype == 'stored' else config.dtype,
    layout=mesh_lib.make_layout(config.mesh),
    int8=config.quantize in ('target', 'both'),
    seed=config.seed,
  )
  model_lib.check_target(target)
  (source,) = request.load_drafters(
    [values.drafter], target, config, config.quantize
  )
  certificate = runner.certify(
    target,
    source,
    _prompts(values.input, target, source, config),
    config,
    cli.note,
    _corpus(values.corpus, target, config),
  )
  print('\n'.join(certificate.lines + (certificate.last_line,)), flush=True)
  return certificate.status


def _prompts(path: str, target, source, config) -> list:
  """The prompts' ids, as far as they fit."""
  models = [source.model] * (source.model is not None)
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
