"""Decodes a file of prompts, speculatively where a drafter is given.

  specjax-decode --target=FOLDER --drafter=FOLDER --input=prompts.txt
  specjax-decode --demo

In a checkout, `python -m decode.main` is the same.

Standard output holds one line for each prompt; everything else goes to
standard error. The same settings give the same texts on one machine with one
version of specjax and JAX, not between machines or versions: --stats has both,
and digests of weights, tokenizer and template.
"""

from collections.abc import Sequence
import pathlib

from specjax.commands import cli
from specjax.commands import decode

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'decode.py'


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return decode.main(argv, __doc__, CONFIG)


def run() -> None:
  """Entry point of `specjax-decode`."""
  cli.run(main)


if __name__ == '__main__':
  run()
