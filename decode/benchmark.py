"""Measures speculative decoding on your models, prompts and machine.

  python -m decode.benchmark --target=FOLDER --drafter=FOLDER,prompt_lookup \
      --input=prompts.txt --output=report

Standard output holds the table; everything else goes to standard error. With
--output, a folder is filled with results.json, report.md, plots and
explorer.html. The exit status is 1 if some row's tokens are not what they must
be.
"""

from collections.abc import Sequence
import pathlib

from specjax.commands import benchmark
from specjax.commands import cli

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'bench.py'


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return benchmark.main(argv, __doc__, CONFIG)


def run() -> None:
  """Entry point of `specjax-benchmark`."""
  cli.run(main)


if __name__ == '__main__':
  run()
