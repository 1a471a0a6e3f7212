"""Turns checkpoints of one format into another, bit for bit.

  python -m train.convert --input=HF_FOLDER --output=FOLDER
  python -m train.convert --input=HF_FOLDER --output=FOLDER --to=orbax
  python -m train.convert --input=ORBAX_FOLDER --output=FOLDER
  python -m train.convert --input=T5X_FOLDER --model=HF_FOLDER --output=FOLDER

The kind of the input is found out. The output, which must not exist, appears
when it is complete.
"""

import sys

from absl import flags
import tqdm

from specjax.checkpoints import convert
from specjax.commands import cli


def _define(values: flags.FlagValues):
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text('input', None, 'Folder in Hugging Face, Orbax or T5X format.')
  text('output', None, 'Folder to make.')
  text(
    'model',
    '',
    "Folder with the model's config.json and tokenizer; needed for T5X.",
  )
  flags.DEFINE_enum(
    'to',
    'safetensors',
    list(convert.FORMATS),
    'Format of the output; safetensors is a Hugging Face folder.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'shard_megabytes',
    5000,
    'The most that a safetensors file holds.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'dry_run',
    False,
    'Print where each tensor goes, and write nothing.',
    flag_values=values,
  )


def main(argv):
  cli.prepare_process()
  values = cli.read_flags(argv, __doc__, _define)
  for name in ('input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')
  plan = convert.plan(
    convert.Request(
      source=values.input,
      target=values.output,
      to=values.to,
      model=values.model,
      shard_bytes=values.shard_megabytes * 1_000_000,
    )
  )
  if values.dry_run:
    print('\n'.join(plan.lines))
    return
  with tqdm.tqdm(
    total=plan.size,
    unit='B',
    unit_scale=True,
    file=sys.stderr,
    dynamic_ncols=True,
  ) as bar:
    convert.execute(plan, bar.update)
  cli.note(f'{len(plan.lines)} tensors written to {values.output}.')


def run():
  """Entry point of `specjax-convert`."""
  sys.exit(cli.call(main))


if __name__ == '__main__':
  run()
