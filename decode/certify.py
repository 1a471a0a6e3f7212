"""Certifies that a drafter, a verifier and a warp are lossless for a target.

  python -m decode.certify --target=FOLDER --drafter=FOLDER \
      --input=prompts.txt --config.verify=sampling --config.temperature=0.8

The report goes to standard output and the verdict is its last line: LOSSLESS
(exit status 0), NOT LOSSLESS with the smallest counter-example (1), or
INCONCLUSIVE (3). Exit status 2 is bad usage or input.
"""

import pathlib
import sys
from typing import Sequence

from absl import flags

from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import subjects
from specjax.certify import runner
from specjax.commands import cli
from specjax.inference import drafting

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'certify.py'
BAD_INPUT = 2


def define_flags(values: flags.FlagValues) -> None:
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'A folder, a hub id, or shape:NAME (random weights).')
  text(
    'drafter',
    None,
    'A folder, prompt_lookup, suffix, token_recycling, hybrid:FOLDER or '
    'network:VARIANT.',
  )
  text('input', '', 'Prompts: a text file or a .jsonl file.')


def main(argv: Sequence[str]) -> int:
  cli.prepare_process()
  values, config = cli.parse(
    argv, doc=__doc__, define=define_flags, default_config=CONFIG
  )
  for name in ('target', 'drafter'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')
  if values.drafter == 'none':
    raise flags.Error('Without a drafter there is nothing to certify.')
  target, drafter, prompts = load(values, config)
  certificate = runner.certify(target, drafter, prompts, config, cli.note)
  print('\n'.join(certificate.lines + (certificate.last_line,)), flush=True)
  return certificate.status


def load(values, config):
  """The target, the drafter and the prompts' ids."""
  target = subjects.load(values.target, dtype=config.dtype, seed=config.seed)
  drafting.check_target(target)
  drafting.check_beta(target, config.beta)
  subject = subjects.drafter(values.drafter, target, config)
  drafter, networks = subject.drafter, [subject.model] * bool(subject.model)
  prompts = prompts_lib.collect(target, values.input, config)
  prompts = prompts_lib.fitting(
    prompts, target, config, config.num_draft, networks
  )
  return target, drafter, [prompt.tokens for prompt in prompts]


def run() -> None:
  statuses = []
  failed = cli.call(lambda argv: statuses.append(main(argv)))
  # A failure must not look like a verdict: 1 is NOT LOSSLESS here.
  sys.exit(BAD_INPUT if failed else statuses[0])


if __name__ == '__main__':
  run()
