"""The command `decode.main`: prompts in, answers out."""

from collections.abc import Sequence
import pathlib

from absl import flags

from specjax.commands import cli
from specjax.commands import decode_file
from specjax.commands import demo
from specjax.commands import parsing
from specjax.decoding.drafters import registry


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'The model that decides: a folder or a hub id.')
  text('drafter', 'none', f'One of: {registry.names()}.')
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
  parsing.define_processes(values)
  flags.DEFINE_bool(
    'resume', False, 'Goes on with an interrupted output.', flag_values=values
  )
  flags.DEFINE_enum(
    'baseline',
    'first',
    decode_file.BASELINES,
    'Which part is decoded plainly too, to measure the ratio.',
    flag_values=values,
  )


def main(argv: Sequence[str], doc: str, config_file: pathlib.Path) -> None:
  """Decodes a file, or runs the demo.

  Args:
    argv: arguments, the program's name first.
    doc: of the command, for --help.
    config_file: used without --config.
  """
  cli.prepare_process()
  argv = ['--demo=' if arg in ('--demo', '-demo') else arg for arg in argv]
  values, config = parsing.parse(
    argv, doc=doc, define=define_flags, default_config=config_file
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
  parsing.join_processes(values, config)
  decode_file.decode_file(
    decode_file.Request(
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
