"""Trains a target, or distils a drafter from one.

  specjax-train --config=configs/demo_target.py --workdir=DIR
  specjax-train --config=configs/demo_drafter.py --workdir=DIR \\
      --config.teacher=TARGET/export

In a checkout, `python -m train.main` is the same. `:quick` behind a config, as
in --config=configs/demo_target.py:quick, is a run of minutes that shows the
mechanics; most configs of training have it.

`--init_from=FOLDER` begins with exported weights and fresh optimiser state.
The same command continues a run that was stopped, bit for bit. At the end
DIR/export is a model folder that `specjax.load`, `specjax-decode` and, for
families it knows, transformers read.
"""

from collections.abc import Sequence
import pathlib

from specjax.commands import cli
from specjax.commands import train

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'demo_target.py'


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return train.main(argv, __doc__, CONFIG)


def run() -> None:
  """Entry point of `specjax-train`."""
  cli.run(main)


if __name__ == '__main__':
  run()
