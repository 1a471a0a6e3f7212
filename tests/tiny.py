"""A tiny tokenizer for tests; built here, so that nothing is downloaded."""

import json

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers import trainers
import transformers

CORPUS = (
  'the cat sat on the mat',
  'a dog ran to the red house',
  'the dog and the cat ran and ran and sat',
  'one two three four five six seven eight nine ten',
  'once upon a time there was a little girl',
)
SPECIAL = ('<pad>', '<s>', '</s>', '<unk>')


def tokenizer(kind: str = 'decoder', swap=None, size: int = 96):
  """A byte-pair tokenizer with `size` entries.

  Args:
    kind: 'decoder' puts <s> (id 1) in front, 't5' </s> (id 2) behind.
    swap: two words that exchange their ids.
    size: number of entries, specials included.
  """
  made = tokenizers.Tokenizer(models.BPE(unk_token='<unk>'))
  made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='never')
  trainer = trainers.BpeTrainer(
    vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
  )
  made.train_from_iterator(CORPUS * 3, trainer)
  if swap:
    state = json.loads(made.to_str())
    vocab = state['model']['vocab']
    first, second = ('▁' + word for word in swap)
    vocab[first], vocab[second] = vocab[second], vocab[first]
    made = tokenizers.Tokenizer.from_str(json.dumps(state))
  made.decoder = decoders.Metaspace(prepend_scheme='never')
  template = {'decoder': '<s> $A', 't5': '$A </s>'}[kind]
  made.post_processor = processors.TemplateProcessing(
    single=template, special_tokens=[('<s>', 1), ('</s>', 2)]
  )
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made,
    pad_token='<pad>',
    bos_token='<s>',
    eos_token='</s>',
    unk_token='<unk>',
  )
