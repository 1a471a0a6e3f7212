"""The target writes its own outputs for a file of inputs.

  python -m train.label --target=FOLDER --input=pairs.tsv --output=own.jsonl
  python -m train.label --target=FOLDER --drafter=FOLDER --input=pairs.tsv \\
      --output=own.jsonl --config.temperature=1.0

`--config.mesh.shape` spreads it over devices and `--coordinator` over hosts, as
for `decode.main`. Called again, it continues where it was stopped. `train.main`
reads the result with `--config.data.labelled=own.jsonl` and
`--config.data.labelled_fraction=1`.
"""

import pathlib
import sys

from absl import flags
import tqdm

from specjax.commands import cli
from specjax.commands import label as label_command

_DEFAULT = pathlib.Path(__file__).parents[1] / 'configs' / 'decode.py'


def _define(values: flags.FlagValues):
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('target', None, 'The model that writes: a folder or a hub id.')
  text(
    'drafter',
    '',
    'Makes it faster: a folder, a hub id, prompt_lookup, suffix, '
    'token_recycling or hybrid:FOLDER.',
  )
  text('field', 'source', 'Field of the inputs in JSON lines.')
  text('output', None, 'A .jsonl file; a begun one is continued.')
  cli.define_processes(values)
  flags.DEFINE_multi_string(
    'input',
    None,
    'First column of .tsv, a field of .jsonl, or lines of '
    'text. May be repeated.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'limit',
    0,
    'Use only the first inputs; 0 uses all.',
    lower_bound=0,
    flag_values=values,
  )


def main(argv):
  cli.prepare_process()
  values, config = cli.parse(
    argv, doc=__doc__, define=_define, default_config=_DEFAULT
  )
  for name in ('target', 'input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')
  cli.join_processes(values, config)
  request = label_command.Request(
    target=values.target,
    drafter=values.drafter,
    inputs=tuple(values.input),
    field=values.field,
    output=values.output,
    limit=values.limit,
    config=config,
  )
  # Shown when there is something to show: an error is one line alone.
  with tqdm.tqdm(
    unit='answer', file=cli.stderr(), dynamic_ncols=True, delay=1e-6
  ) as bar:

    def progress(done, total):
      bar.total = total
      bar.update(done - bar.n)

    try:
      made = label_command.label(request, progress)
    except KeyboardInterrupt:
      raise KeyboardInterrupt(
        f'interrupted after {int(bar.n)} answers; the same command continues.'
      ) from None
  counts = made.counts
  cli.note(
    f'{made.answers} answers written after {made.skipped} that were there: '
    f'{counts.num_tokens} tokens in {made.seconds:.1f} s'
    + (
      f', block efficiency {counts.block_efficiency:.2f}.'
      if counts.num_drafted
      else '.'
    )
  )


def run():
  """Entry point of `specjax-label`."""
  sys.exit(cli.call(main))


if __name__ == '__main__':
  run()
