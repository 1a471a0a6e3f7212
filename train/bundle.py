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

from specjax import bundle
from specjax import cli


def main(argv):
  cli.prepare_process()
  values = flags.FlagValues()
  for name, words in (
    ('target', 'Folder of the target.'),
    ('drafter', 'Folders of its drafters, with commas.'),
    ('report', 'results.json of a benchmark of them.'),
  ):
    flags.DEFINE_string(name, '', words, flag_values=values)
  if '--help' in argv[1:]:
    print(__doc__.strip(), '\n\nFlags:\n', values.get_help(), sep='')
    return
  extra = values(list(argv))[1:]
  if extra:
    raise flags.Error(f'Unexpected argument {extra[0]!r}.')
  for name in ('target', 'drafter', 'report'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed.')
  drafters = [name for name in values.drafter.split(',') if name]
  made = bundle.bundle(values.target, drafters, values.report)
  cli.note(
    f'Bundled; the demo drafts with {made["drafter"]}, '
    f'{made["num_draft"]} tokens a round.'
  )


if __name__ == '__main__':
  sys.exit(cli.call(main))
