"""Puts the demo's models into the package.

  python -m decode.benchmark --config=configs/bench_demo.py \\
      --target=TARGET/export --drafter=DRAFTER/export,SPEC/export \\
      --input=test.en-de.tsv --output=report
  python -m train.bundle --target=TARGET/export \\
      --drafter=DRAFTER/export,SPEC/export --report=report/results.json

The demo then takes the drafter that was the fastest exact one in the report.
"""

import sys

from absl import flags

from specjax.commands import bundle
from specjax.commands import cli


def _define(values: flags.FlagValues) -> None:
  def text(name, words):
    flags.DEFINE_string(name, '', words, flag_values=values)

  text('target', 'Folder of the target.')
  text('report', 'results.json of a benchmark of them.')
  flags.DEFINE_multi_string(
    'drafter',
    [],
    'Folders of its drafters, with commas or by repeating the flag.',
    flag_values=values,
  )


def main(argv):
  cli.prepare_process()
  values = cli.read_flags(argv, __doc__, _define)
  for name in ('target', 'drafter', 'report'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed.')
  drafters = [n for part in values.drafter for n in part.split(',') if n]
  made = bundle.bundle(values.target, drafters, values.report)
  cli.note(
    f'Bundled; the demo drafts with {made["drafter"]}, '
    f'{made["num_draft"]} tokens a round.'
  )


if __name__ == '__main__':
  sys.exit(cli.call(main))
