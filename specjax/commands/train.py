"""The command `train.main`: trains a target, or distils a drafter from one."""

from collections.abc import Sequence
import pathlib
import shlex

from absl import flags

from specjax.commands import cli
from specjax.commands import parsing


def _define(values: flags.FlagValues):
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, metrics, export.',
    flag_values=values,
  )
  parsing.define_processes(values)
  flags.DEFINE_bool(
    'export_only',
    False,
    'Whether the newest checkpoint is exported without further training.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'resume_from',
    0,
    'Step of the checkpoint to go on from, or to export; the later ones are '
    'removed before training. 0 takes the newest.',
    lower_bound=0,
    flag_values=values,
  )


def _command(argv):
  """The command that goes on; it must not go back to a checkpoint again."""
  kept, skip = [], False
  for argument in argv[1:]:
    name, equals, _ = argument.lstrip('-').partition('=')
    if skip or name == 'resume_from':
      skip = not skip and not equals
      continue
    kept.append(argument)
  return shlex.join(['specjax-train', *kept])


def _long_form(argument):
  """`--init_from=X` is short for `--config.init_from=X`."""
  if argument.startswith('--init_from'):
    return '--config.' + argument[2:]
  return argument


def main(argv: Sequence[str], doc: str, config_file: pathlib.Path) -> int:
  """Trains; returns the exit status.

  Args:
    argv: arguments, the program's name first.
    doc: description of the command, for --help.
    config_file: config file used without --config.
  """
  cli.prepare_process()
  values, config = parsing.parse(
    [_long_form(a) for a in argv],
    doc=doc,
    define=_define,
    default_config=config_file,
  )
  if not values.workdir:
    raise flags.Error('--workdir=DIR is needed: the folder of the run.')
  parsing.join_processes(values, config)
  # Slow to import, and not needed to refuse a wrong command line.
  from specjax.commands import train_run

  outcome = train_run.run(
    config,
    values.workdir,
    command=_command(argv),
    export_only=values.export_only,
    resume_from=values.resume_from,
    log_fn=cli.note,
  )
  if outcome.stopped and not values.export_only:
    cli.note(
      f'Stopped and saved at step {outcome.step} of {config.steps}. To '
      f'resume: {_command(argv)}'
    )
    return cli.of_signal(outcome.signal)
  return 0
