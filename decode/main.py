"""Decodes a file of prompts, speculatively where a drafter is given.

  python -m decode.main --target=FOLDER --drafter=FOLDER --input=prompts.txt
  python -m decode.main --demo --target=FOLDER --drafter=FOLDER

Standard output holds one line for each prompt; everything else goes to
standard error.
"""

import pathlib
import sys
from typing import Sequence

from absl import flags

from specjax.commands import cli
from specjax.commands import decode as decode_command
from specjax.commands import demo

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'decode.py'


def define_flags(values: flags.FlagValues) -> None:
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'The model that decides: a folder or a hub id.')
  text(
    'drafter',
    'none',
    'A folder or hub id, prompt_lookup, suffix, token_recycling, '
    'hybrid:FOLDER, or none.',
  )
  text('corpus', '', 'Earlier answers that suffix copies from; is extended.')
  text('input', None, 'Prompts: a text file, a .jsonl file, or -.')
  text('output', '-', 'Where answers go: a text file, a .jsonl file, or -.')
  text('stats', '', 'Writes the numbers of the run to this JSON file.')
  text(
    'demo',
    None,
    'Translates built-in sentences from English to German and measures; '
    '--demo=SENTENCE translates yours.',
  )
  cli.define_processes(values)
  flags.DEFINE_bool(
    'resume', False, 'Goes on with an interrupted output.', flag_values=values
  )
  flags.DEFINE_enum(
    'baseline',
    'first',
    decode_command.BASELINES,
    'Which part is decoded plainly too, to measure the ratio.',
    flag_values=values,
  )


def main(argv: Sequence[str]) -> None:
  cli.prepare_process()
  argv = ['--demo=' if arg in ('--demo', '-demo') else arg for arg in argv]
  values, config = cli.parse(
    argv, doc=__doc__, define=define_flags, default_config=CONFIG
  )
  if values.demo is not None:
    _check_demo(values)
    drafter = None if values['drafter'].using_default_value else values.drafter
    asked = any(arg.startswith('--config.dtype') for arg in argv)
    demo.run(
      values.demo,
      config,
      values.target,
      drafter,
      dtype=config.dtype if asked else None,
    )
    return
  for name in ('target', 'input'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')
  if values.resume and values.output == '-':
    raise flags.Error('--resume needs an --output file to go on with.')
  cli.join_processes(values, config)
  decode_command.decode_file(
    decode_command.Request(
      target=values.target,
      drafter=values.drafter,
      source=values.input,
      output=values.output,
      stats=values.stats,
      resume=values.resume,
      baseline=values.baseline,
      config=config,
      corpus=values.corpus,
    )
  )


def _check_demo(values: flags.FlagValues) -> None:
  for name in ('corpus', 'input', 'output', 'stats', 'resume', 'baseline'):
    if not values[name].using_default_value:
      raise flags.Error(
        f'--demo brings its own sentences and prints to standard output; '
        f'leave --{name} out.'
      )


def run() -> None:
  sys.exit(cli.call(main))


if __name__ == '__main__':
  run()
