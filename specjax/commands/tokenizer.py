"""The command `train.tokenizer`: learns a tokenizer from text."""

from collections.abc import Iterable, Sequence
import itertools
import json
import os

from absl import flags
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers import trainers

from specjax import files
from specjax import waiting
from specjax.commands import cli
from specjax.commands import parsing
from specjax.training.data import readers

# The ids 0, 1 and 2, as in T5, whose decoder begins with the padding token.
PAD, EOS, UNK = '<pad>', '</s>', '<unk>'
_BYTES = [f'<0x{i:02X}>' for i in range(256)]


def _define(values: flags.FlagValues):
  flags.DEFINE_multi_string(
    'input',
    None,
    'Text to learn from: .tsv (every column), .jsonl (every '
    'string field) or plain text, one example a line. May be repeated.',
    flag_values=values,
  )
  flags.DEFINE_string('output', None, 'Folder to write.', flag_values=values)
  flags.DEFINE_integer(
    'vocab_size',
    8192,
    'Number of pieces, special ones and bytes included.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'kind',
    'unigram',
    ['unigram', 'bpe'],
    'Algorithm that chooses the pieces.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'append_eos', True, 'Whether encoding appends </s>.', flag_values=values
  )


def train_tokenizer(
  lines: Iterable[str],
  vocab_size: int,
  kind: str = 'unigram',
  append_eos: bool = True,
) -> tokenizers.Tokenizer:
  """Learns a tokenizer.

  Args:
    lines: lines of text.
    vocab_size: number of ids, at least 320.
    kind: 'unigram' or 'bpe'.
    append_eos: whether encoding ends with `</s>`.

  Returns:
    `tokenizers.Tokenizer`. It may have fewer ids than asked for when the text
    is too small to fill them.

  Raises:
    ValueError: for a vocabulary too small or an unknown kind.
  """
  if kind not in ('unigram', 'bpe'):
    raise ValueError(f"kind must be 'unigram' or 'bpe', not {kind!r}.")
  if vocab_size < 320:
    raise ValueError(
      f'vocab_size must be at least 320 (3 special and 256 byte pieces '
      f'come first), not {vocab_size}.'
    )
  special = [PAD, EOS, UNK]
  space = pre_tokenizers.Metaspace(prepend_scheme='always')
  model = models.Unigram() if kind == 'unigram' else models.BPE(unk_token=UNK)
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = space
  shared = dict(
    vocab_size=vocab_size - len(_BYTES),
    special_tokens=special,
    show_progress=False,
  )
  trainer = (
    trainers.UnigramTrainer(unk_token=UNK, **shared)
    if kind == 'unigram'
    else trainers.BpeTrainer(min_frequency=2, **shared)
  )
  with waiting.noted('Training the tokenizer.'):
    tokenizer.train_from_iterator(lines, trainer)
  tokenizer = _with_bytes(tokenizer, special)
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.ByteFallback(),
      decoders.Metaspace(prepend_scheme='always'),
    ]
  )
  if append_eos:
    tokenizer.post_processor = processors.TemplateProcessing(
      single=f'$A {EOS}',
      pair=f'$A {EOS} $B {EOS}',
      special_tokens=[(EOS, special.index(EOS))],
    )
  return tokenizer


def _with_bytes(tokenizer, special):
  """Inserts the byte pieces after the special ones and switches them on.

  With them every text has tokens: a letter that no piece covers, such as ẞ, is
  spelled <0xE1> <0xBA> <0x9E> in place of an unknown token.
  """
  spec = json.loads(tokenizer.to_str())
  model = spec['model']
  model['byte_fallback'] = True
  if model['type'] == 'Unigram':
    pieces = [p for p in model['vocab'] if p[0] not in special]
    # A byte piece is spelled, never matched as text: its score is not used.
    first = [[s, 0.0] for s in special] + [[b, -20.0] for b in _BYTES]
    model['vocab'] = first + pieces
    model['unk_id'] = special.index(UNK)
  else:
    ordered = sorted(model['vocab'], key=model['vocab'].get)
    ordered = special + _BYTES + [p for p in ordered if p not in special]
    model['vocab'] = {piece: i for i, piece in enumerate(ordered)}
  return tokenizers.Tokenizer.from_str(json.dumps(spec))


def save(tokenizer: tokenizers.Tokenizer, folder: str) -> None:
  """Writes `tokenizer.json` and `tokenizer_config.json` into `folder`."""
  os.makedirs(folder, exist_ok=True)
  settings = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'pad_token': PAD,
    'eos_token': EOS,
    'unk_token': UNK,
    'clean_up_tokenization_spaces': False,
    'padding_side': 'right',
    'model_max_length': 1000000,
  }
  for name, text in (
    ('tokenizer.json', tokenizer.to_str(pretty=True)),
    ('tokenizer_config.json', json.dumps(settings, indent=2) + '\n'),
  ):
    files.write_text(os.path.join(folder, name), text)


def main(argv: Sequence[str], doc: str) -> None:
  """Trains a tokenizer and saves it.

  Args:
    argv: arguments, the program's name first.
    doc: description of the command, for --help.
  """
  values = parsing.read_flags(argv, doc, _define)
  if not values.input or not values.output:
    raise flags.Error('--input=FILE and --output=DIR are needed.')
  if os.path.isfile(values.output):
    raise NotADirectoryError(f'--output={values.output} is a file, no folder.')
  lines = readers.read_text(values.input)
  # Looked at before training and then put back: the lines can be read only
  # once, and files without text are an error of the user's.
  first = next((line for line in lines if line.strip()), None)
  if first is None:
    raise ValueError(f'No text in {", ".join(values.input)}.')
  tokenizer = train_tokenizer(
    itertools.chain([first], lines),
    values.vocab_size,
    values.kind,
    values.append_eos,
  )
  save(tokenizer, values.output)
  cli.note(f'{tokenizer.get_vocab_size()} pieces written to {values.output}.')
