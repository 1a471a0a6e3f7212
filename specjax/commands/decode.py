"""The command `decode.main`: prompts in, answers out."""

from collections.abc import Sequence

from absl import flags

from specjax.commands import decode_file
from specjax.commands import demo
from specjax.commands import parsing
from specjax.decoding.drafters import registry

# Flags that a request takes as they are.
_GIVEN = (
  'target', 'drafter', 'output', 'stats', 'resume', 'baseline', 'corpus',
)  # fmt: skip


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


def _run(values: flags.FlagValues, config) -> None:
  """Decodes a file, or runs the demo."""
  if values.demo is not None:
    _check_demo(values)
    drafter = None if values['drafter'].using_default_value else values.drafter
    demo.run(
      values.demo,
      config,
      values.target,
      drafter,
      # Only overrides have a flag.
      dtype=config.dtype if 'config.dtype' in values else None,
    )
    return
  parsing.require(values, 'target', 'input')
  if values.resume and values.output == '-':
    raise flags.Error('--resume needs an --output file to go on with.')
  parsing.join_processes(values, config)
  decode_file.decode_file(
    decode_file.DecodeRequest(
      source=values.input,
      config=config,
      **{name: values[name].value for name in _GIVEN},
    )
  )


def _bare_demo(argv: Sequence[str]) -> list[str]:
  """`--demo` alone is short for `--demo=`."""
  return ['--demo=' if arg in ('--demo', '-demo') else arg for arg in argv]


def _check_demo(values: flags.FlagValues) -> None:
  for name in ('corpus', 'input', 'output', 'stats', 'resume', 'baseline'):
    if not values[name].using_default_value:
      raise flags.Error(
        f'--demo brings its own sentences and prints to standard output; '
        f'leave --{name} out.'
      )


main = parsing.command(define_flags, _run, rewrite=_bare_demo)
