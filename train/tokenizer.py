"""Trains a tokenizer on text and saves it as a Hugging Face folder.

  specjax-tokenizer --input=pairs.tsv --output=DIR --vocab_size=8192

In a checkout, `python -m train.tokenizer` is the same.

Ids follow T5: 0 `<pad>`, 1 `</s>`, 2 `<unk>`; encoding appends `</s>`. Bytes
that no piece covers are spelled with 256 byte pieces, so that text survives
encoding and decoding, in Unicode's NFC and but for one space in front; only `▁`
and the names of special and byte pieces do not.

References:
  Kudo. Subword regularization. ACL 2018 (unigram).
  Sennrich, Haddow, Birch. Neural machine translation of rare words with
    subword units. ACL 2016 (BPE).
"""

from collections.abc import Sequence

from specjax.commands import cli
from specjax.commands import tokenizer


def main(argv: Sequence[str]):
  """Runs the command; `argv` begins with the program's name."""
  return tokenizer.main(argv, __doc__)


def run() -> None:
  """Entry point of `specjax-tokenizer`."""
  cli.run(main)


if __name__ == '__main__':
  run()
