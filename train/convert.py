"""Turns checkpoints of one format into another, bit for bit.

  specjax-convert --input=HF_FOLDER --output=FOLDER
  specjax-convert --input=HF_FOLDER --output=FOLDER --to=orbax
  specjax-convert --input=ORBAX_FOLDER --output=FOLDER
  specjax-convert --input=T5X_FOLDER --model=HF_FOLDER --output=FOLDER

In a checkout, `python -m train.convert` is the same.

The format of the input is detected. The output folder must not exist; it
appears when it is complete.
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
