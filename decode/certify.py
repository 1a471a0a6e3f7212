"""Certifies that a drafter, a verifier and a warp are lossless for a target.

  specjax-certify --target=FOLDER --drafter=FOLDER --input=prompts.txt \\
      --config.verifier=sampling --config.temperature=0.8

In a checkout, `python -m decode.certify` is the same.

`--config.effort=quick` ends within 90 seconds for a small model.

  specjax-certify --target=FOLDER --check=bits --json=bits.json

compares the target's logits to the bit over block widths, batch sizes, prompt
widths and capacities, in every precision. XLA promises the same tokens in
float32 and no bits, so there differences are reported and the status is 0.

The report goes to standard output and the verdict is its last line: LOSSLESS
(exit status 0), NOT LOSSLESS with the smallest counter-example (1), or
INCONCLUSIVE (3). Exit status 2 is bad usage or input.
"""

from collections.abc import Sequence
import pathlib

from specjax.commands import certify
from specjax.commands import cli

CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'certify.py'
BAD_INPUT = 2


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return certify.main(argv, __doc__, CONFIG)


def run() -> None:
  """Entry point of `specjax-certify`."""
  # A failure must not look like a verdict: 1 is NOT LOSSLESS here.
  cli.run(main, failure=BAD_INPUT)


if __name__ == '__main__':
  run()
