"""Turns checkpoints of one format into another, bit for bit.

  python -m train.convert --input=HF_FOLDER --output=FOLDER
  python -m train.convert --input=HF_FOLDER --output=FOLDER --to=orbax
  python -m train.convert --input=ORBAX_FOLDER --output=FOLDER
  python -m train.convert --input=T5X_FOLDER --model=HF_FOLDER --output=FOLDER

The kind of the input is found out. The output, which must not exist, appears
when it is complete.
"""

from collections.abc import Sequence

from specjax.commands import cli
from specjax.commands import convert


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return convert.main(argv, __doc__)


def run() -> None:
  """Entry point of `specjax-convert`."""
  cli.run(main)


if __name__ == '__main__':
  run()
