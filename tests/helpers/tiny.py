"""A tiny tokenizer and tiny models for tests; nothing is downloaded."""

import json

import jax
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import processors
from tokenizers import trainers
import transformers

from specjax import models as models_lib
from specjax.checkpoints import hf

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


# Vocabulary, width, feed-forward, layers, heads, key heads, width of a head and
# positions; of a T5 vocabulary, width, width of a head, feed-forward, layers of
# encoder and decoder, heads.
DECODER = models_lib.DecoderConfig(
  96, 32, 48, 1, 4, 2, 8, 128, eos_token_id=(2,), bos_token_id=1, pad_token_id=0
)
T5 = models_lib.T5Config(96, 32, 8, 48, 1, 1, 4, eos_token_id=(2,))


def save(folder, config=DECODER, *, seed: int = 0, swap=None) -> str:
  """Writes a randomly initialised model with its tokenizer.

  Args:
    folder: place of the files.
    config: `DECODER`, `T5` or a variation of them.
    seed: seed of the weights; they are enlarged, so that the likeliest token is
      clearly so.
    swap: see `tokenizer`.

  Returns:
    The folder, as a string.
  """
  params = models_lib.init_params(config, jax.random.key(seed))
  params = jax.tree.map(lambda x: x * (4 if x.ndim > 1 else 1), params)
  hf.save_hf(str(folder), params, config)
  kind = 't5' if isinstance(config, models_lib.T5Config) else 'decoder'
  tokenizer(kind, swap).save_pretrained(str(folder))
  return str(folder)
