"""Tokenizers that spell characters by bytes, and others, made in memory."""

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
import transformers

# '<|end|>' is special; '<|think|>' is added too, but is not.
SPECIAL = ('<unk>', '<s>', '</s>', '<|end|>')
TEXTS = ['Once upon a time 🙂 there was a dog. ', 'naïve café\nö ab aab 日本 !']


def byte_fallback(used=range(256)) -> transformers.PreTrainedTokenizerFast:
  """As SentencePiece with byte fallback: words, and a `<0xE2>` piece a byte.

  Args:
    used: bytes that have a piece.
  """
  words = ['▁', 'a', 'b', 'o', 'n', 'c', 'e', '▁a', '▁Once', '▁upon', 'on']
  words += ['ab', '▁b', 'ö', '日', '.', '▁.', "'", 'xö', '\ufffd']
  names = [*SPECIAL, *(f'<0x{i:02X}>' for i in used), *words]
  vocab = {name: i for i, name in enumerate(names)}
  made = tokenizers.Tokenizer(
    models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token='<unk>')
  )
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  return _wrapped(made)


def byte_level(size: int = 320) -> transformers.PreTrainedTokenizerFast:
  """As GPT-2, Llama 3 and Qwen: pairs of bytes, across characters too."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=list(SPECIAL),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  made.train_from_iterator(TEXTS * 3, trainer)
  made.decoder = decoders.ByteLevel()
  return _wrapped(made)


def word_piece() -> transformers.PreTrainedTokenizerFast:
  """As BERT: pieces begin with ## inside words, spaces are cleaned up."""
  names = [*SPECIAL, 'do', 'n', "'", 't', '.', ',', '##n', '##s', 'we', '!']
  made = tokenizers.Tokenizer(
    models.WordPiece(
      {name: i for i, name in enumerate(names)}, unk_token='<unk>'
    )
  )
  made.decoder = decoders.WordPiece()
  return _wrapped(made, clean_up_tokenization_spaces=True)


def _wrapped(made: tokenizers.Tokenizer, **settings):
  made.add_special_tokens(list(SPECIAL))
  made.add_tokens(['<|think|>'])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made,
    unk_token='<unk>',
    bos_token='<s>',
    eos_token='</s>',
    **{'clean_up_tokenization_spaces': False} | settings,
  )
