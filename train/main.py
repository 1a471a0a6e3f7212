"""Trains a target, or distils a drafter from one.

  python -m train.main --config=configs/demo_target.py --workdir=DIR
  python -m train.main --config=configs/demo_drafter.py --workdir=DIR \\
      --config.teacher=TARGET/export

The same command continues a run that was stopped, bit for bit. At the end
DIR/export is a model folder that `specjax.load`, `decode.main` and, for
families it knows, transformers read.
"""

import pathlib
import shlex
import sys

from absl import flags

from specjax import cli

_DEFAULT = pathlib.Path(__file__).parents[1] / 'configs' / 'demo_target.py'


def _define(values: flags.FlagValues):
  flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, metrics, export.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'init_from',
    None,
    'Folder of exported weights to continue from, with fresh optimiser state.',
    flag_values=values,
  )


def _command(argv):
  return shlex.join(['python', '-m', 'train.main', *argv[1:]])


def main(argv):
  cli.prepare_process()
  values, config = cli.parse(
    argv, doc=__doc__, define=_define, default_config=_DEFAULT
  )
  if not values.workdir:
    raise flags.Error('--workdir=DIR is needed: the folder of the run.')
  if values.init_from:
    config.init_from = values.init_from
  # Slow to import, and not needed to refuse a wrong command line.
  from specjax import trainer

  outcome = trainer.run(
    config, values.workdir, command=_command(argv), report=cli.note
  )
  if outcome.stopped:
    cli.note(
      f'Stopped and saved at step {outcome.step} of {config.steps}. To '
      f'resume: {_command(argv)}'
    )


def run():
  """Entry point of `specjax-train`."""
  sys.exit(cli.call(main))


if __name__ == '__main__':
  run()
