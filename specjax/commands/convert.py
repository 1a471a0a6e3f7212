"""The command `train.convert`: checkpoints of one format into another."""

from collections.abc import Sequence
import sys

from absl import flags
import tqdm

from specjax.checkpoints import convert
from specjax.commands import cli
from specjax.commands import parsing


def _define(values: flags.FlagValues):
  def text(name, default, words):
    flags.DEFINE_string(name, default, words, flag_values=values)

  text(
    'input',
    None,
    'Folder to read, in Hugging Face, Orbax or T5X format; or GGUF file.',
  )
  text('output', None, 'Folder to make; or file, with --to=gguf.')
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
  flags.DEFINE_enum(
    'gguf_type',
    'F16',
    list(convert.GGUF_TYPES),
    'Type of the matrices of a GGUF file.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'shard_megabytes',
    5000,
    'Most megabytes of a safetensors file.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'dry_run',
    False,
    'Whether the place of each tensor is printed and nothing written.',
    flag_values=values,
  )


def main(argv: Sequence[str], doc: str) -> None:
  """Converts.

  Args:
    argv: arguments, the program's name first.
    doc: description of the command, for --help.
  """
  cli.prepare_process()
  values = parsing.read_flags(argv, doc, _define)
  for name in ('input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')
  plan = convert.plan(
    convert.Conversion(
      source=values.input,
      target=values.output,
      to=values.to,
      model=values.model,
      shard_bytes=values.shard_megabytes * 1_000_000,
      gguf_type=values.gguf_type,
    )
  )
  for note in plan.notes:
    cli.note(note)
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
