"""The command `decode.main`: prompts in, answers out."""

from absl import flags

from specjax.commands import cli
from specjax.commands import decode_file
from specjax.commands import demo
from specjax.commands import parsing
from specjax.commands import score_file
from specjax.decoding.drafters import registry
from specjax.inference import refusals

# Flags that a request takes as they are.
_GIVEN = (
  'target',
  'drafter',
  'output',
  'stats',
  'resume',
  'baseline',
  'corpus',
  'format',
  'shard',
  'on_error',
)


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags of the command."""

  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'Model that decides: a folder, a GGUF file or a hub id.')
  text('drafter', 'none', f'Drafter, one of: {registry.names()}.')
  text(
    'corpus',
    '',
    'File of earlier answers, which suffix reads and the run extends.',
  )
  text('output', '-', 'Answers: a text file, a .jsonl file, .gz, or -.')
  text('stats', '', 'JSON file for the statistics of the run.')
  text(
    'demo',
    None,
    'Translates bundled sentences from English to German, or a SENTENCE of '
    'yours, and measures.',
  )
  flags.DEFINE_bool(
    'score',
    False,
    'Whether each JSON line has a "completion", whose log probability under '
    'the target is written in place of an answer, as JSON lines.',
    flag_values=values,
  )
  _define_input(values)
  parsing.define_processes(values)
  flags.DEFINE_bool(
    'resume',
    False,
    'Whether an interrupted output is continued.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'baseline',
    'first',
    decode_file.BASELINES,
    'Part that is also decoded plainly, to measure the ratio.',
    flag_values=values,
  )


def _define_input(values: flags.FlagValues) -> None:
  """Defines the flags about prompts."""
  flags.DEFINE_multi_string(
    'input',
    None,
    'Prompts: a text file, a .jsonl file, either as .gz, or -. May be '
    'repeated.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'shard',
    '',
    'Part of the prompts, as 2/8 for the second of eight runs of neighbours. '
    'The outputs of all, joined in order, are the output of one run.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'format',
    decode_file.LINES,
    decode_file.FORMATS,
    'Form of input and output: openai_batch reads and writes lines as batches '
    'of the OpenAI API have them.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'on_error',
    refusals.STOP,
    refusals.ON_ERROR,
    'Prompts that cannot be answered: stop refuses the run before anything is '
    'decoded; skip writes an error in their place and ends with status 1.',
    flag_values=values,
  )


def _run(values: flags.FlagValues, config) -> int:
  """Decodes a file, or runs the demo; returns the exit status."""
  cli.check_one_drafter(values.drafter)
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
    return 0
  parsing.require(values, 'target', 'input')
  if values.score:
    _score(values, config)
    return 0
  if values.resume and values.output == '-':
    raise flags.Error('--resume needs an --output file to go on with.')
  parsing.join_processes(values, config)
  failed = decode_file.decode_file(
    decode_file.DecodeRequest(
      source=tuple(values.input),
      config=config,
      **{name: values[name].value for name in _GIVEN},
    )
  )
  return int(failed > 0)


def _score(values: flags.FlagValues, config) -> None:
  """Scores the completions of a file."""
  for name in _GIVEN:
    if name in ('target', 'output', 'stats'):
      continue
    if not values[name].using_default_value:
      raise flags.Error(
        f'--score asks the target alone and writes a new file; leave --{name} '
        'out.'
      )
  parsing.join_processes(values, config)
  score_file.score_file(
    score_file.ScoreRequest(
      target=values.target,
      inputs=tuple(values.input),
      output=values.output,
      stats=values.stats,
      config=config,
    )
  )


def _check_demo(values: flags.FlagValues) -> None:
  for name in (*_GIVEN, 'input', 'score'):
    if name in ('target', 'drafter'):
      continue
    if not values[name].using_default_value:
      raise flags.Error(
        f'--demo brings its own sentences and prints to standard output; '
        f'leave --{name} out.'
      )


main = parsing.command(define_flags, _run, bare={'demo': 'SENTENCE'})
