"""Writes the target's own outputs for a file of inputs.

  specjax-label --target=FOLDER --input=pairs.tsv --output=own.jsonl
  specjax-label --target=FOLDER --drafter=FOLDER --input=pairs.tsv \\
      --output=own.jsonl --config.temperature=1.0

In a checkout, `python -m train.label` is the same.

`--config.mesh.shape` spreads it over devices and `--coordinator` over hosts, as
for decoding. Called again, it continues where it was stopped. Training reads
the result with `--config.data.labelled=own.jsonl` and
`--config.data.labelled_fraction=1`.
"""

from collections.abc import Sequence
import pathlib

from specjax.commands import cli
from specjax.commands import label

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'decode.py'


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return label.main(argv, __doc__, CONFIG)


def run() -> None:
  """Entry point of `specjax-label`."""
  cli.run(main)


if __name__ == '__main__':
  run()
