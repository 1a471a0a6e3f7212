"""Trains a target, or distils a drafter from one.

  python -m train.main --config=configs/demo_target.py --workdir=DIR
  python -m train.main --config=configs/demo_drafter.py --workdir=DIR \\
      --config.teacher=TARGET/export

`--init_from=FOLDER` begins with exported weights and fresh optimiser state.
The same command continues a run that was stopped, bit for bit. At the end
DIR/export is a model folder that `specjax.load`, `decode.main` and, for
families it knows, transformers read.
"""

import pathlib
import shlex
import sys

from absl import flags

from specjax.commands import cli

_DEFAULT = pathlib.Path(__file__).parents[1] / 'configs' / 'demo_target.py'


def _define(values: flags.FlagValues):
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, metrics, export.',
    flag_values=values,
  )
  cli.define_processes(values)
  flags.DEFINE_bool(
    'export_only',
    False,
    'Train nothing; export the newest checkpoint of the run.',
    flag_values=values,
  )


def _command(argv):
  return shlex.join(['python', '-m', 'train.main', *argv[1:]])


def _long_form(argument):
  """`--init_from=X` is short for `--config.init_from=X`."""
  if argument.startswith('--init_from'):
    return '--config.' + argument[2:]
  return argument


def main(argv):
  cli.prepare_process()
  values, config = cli.parse(
    [_long_form(a) for a in argv],
    doc=__doc__,
    define=_define,
    default_config=_DEFAULT,
  )
  if not values.workdir:
    raise flags.Error('--workdir=DIR is needed: the folder of the run.')
  cli.join_processes(values, config)
  # Slow to import, and not needed to refuse a wrong command line.
  from specjax.commands import train as train_command

  outcome = train_command.run(
    config,
    values.workdir,
    command=_command(argv),
    export_only=values.export_only,
    report=cli.note,
  )
  if outcome.stopped and not values.export_only:
    cli.note(
      f'Stopped and saved at step {outcome.step} of {config.steps}. To '
      f'resume: {_command(argv)}'
    )


def run():
  """Entry point of `specjax-train`."""
  sys.exit(cli.call(main))


if __name__ == '__main__':
  run()
