"""Measures speculative decoding on your models, prompts and machine.

  specjax-benchmark --target=FOLDER --drafter=FOLDER,prompt_lookup \\
      --input=prompts.txt --output=report

In a checkout, `python -m decode.benchmark` is the same.

Standard output holds the table; everything else goes to standard error. With
--output, a folder is filled with results.json, details.json, report.md, plots
and explorer.html. `--config=configs/bench.py:smoke` is a run of seconds, and
the other configs/bench_*.py have a variant :quick. The exit status is 1 if
some row's tokens fail their check.
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
