"""Ids of texts are those of llama.cpp, which made the fixture once."""

import json
import pathlib

import numpy as np
import pytest

from specjax.checkpoints import gguf_pre
from specjax.checkpoints import gguf_tokenizer
from specjax.checkpoints import gguf_vocab
from specjax.checkpoints.gguf_metadata import Metadata
from tests.helpers import tiny
from tests.helpers import tokenizers_of_bytes

FIXTURE = json.loads(
  pathlib.Path(__file__).with_name('llama_cpp_ids.json').read_text('utf-8')
)
SPLITS = gguf_pre.splits()


def metadata(**values):
  return Metadata('a.gguf', 'llama', values, {})


def byte_level(pre):
  given = FIXTURE['vocabularies']['bpe']
  types = np.where(np.arange(len(given['tokens'])) < 3, 3, 1)
  return {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': pre,
    'tokenizer.ggml.tokens': given['tokens'],
    'tokenizer.ggml.token_type': types,
    'tokenizer.ggml.merges': given['merges'],
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
  }


def scored(model, vocabulary, unknown, **flags):
  given = FIXTURE['vocabularies'][vocabulary]
  return {
    'tokenizer.ggml.model': model,
    'tokenizer.ggml.tokens': given['tokens'],
    'tokenizer.ggml.token_type': np.array(given['types']),
    'tokenizer.ggml.scores': np.array(given['scores'], np.float32),
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2 if model == 'llama' else 1,
    'tokenizer.ggml.unknown_token_id': unknown,
    **{f'tokenizer.ggml.{key}': value for key, value in flags.items()},
  }


MERGED = {'add_space_prefix': True, 'remove_extra_whitespaces': True}
OTHERS = {
  'spm': scored('llama', 'spm', 0),
  'spm_plain': scored('llama', 'spm', 0, add_space_prefix=False),
  'ugm': scored('t5', 'ugm', 2, **MERGED),
  'ugm_plain': scored('t5', 'ugm', 2, add_space_prefix=True),
}


@pytest.mark.parametrize('name', [*SPLITS.values(), *OTHERS])
def test_ids_are_those_of_llama_cpp(name):
  values = OTHERS[name] if name in OTHERS else byte_level(name)
  made = gguf_tokenizer.make(metadata(**values))
  pairs = zip(FIXTURE['texts'], FIXTURE['ids'][name], strict=True)
  for text, ids in pairs:
    assert made.encode(text).ids == ids, text


def test_the_fixture_tells_pre_tokenizers_apart():
  ids = {json.dumps(FIXTURE['ids'][name]) for name in SPLITS.values()}
  assert len(ids) >= len({split.expressions for split in SPLITS})
  parts = {
    json.dumps(gguf_vocab._parts(gguf_tokenizer.splitting(split)))
    for split in SPLITS
  }
  assert len(parts) == len({split.expressions for split in SPLITS})


@pytest.mark.parametrize('pre', ['smollm', 'qwen2', 'tekken'])
def test_there_and_back(pre):
  import transformers

  values = byte_level(pre)
  made = transformers.PreTrainedTokenizerFast(
    tokenizer_object=gguf_tokenizer.make(metadata(**values)),
    bos_token='<|im_start|>',
    eos_token='<|im_end|>',
    chat_template={'default': 'a', 'tool': 'b'},
  )
  fields, note = gguf_vocab.fields(made, len(made) + 3)
  assert fields['tokenizer.ggml.pre'] == pre and not note
  assert fields['tokenizer.ggml.tokens'][-1] == f'[PAD{len(made) + 2}]'
  read = metadata(**gguf_vocab.plain(fields | {'llama.context_length': 9}))
  again = gguf_tokenizer.make(read)
  assert again.get_vocab_size() == len(made)
  for text in FIXTURE['texts']:
    assert again.encode(text).ids == made(text).input_ids
  templates = gguf_tokenizer.settings(read)['chat_template']
  assert [one['template'] for one in templates] == ['a', 'b']


@pytest.mark.parametrize(
  'make', [tokenizers_of_bytes.byte_fallback, tiny.tokenizer]
)
def test_a_tokenizer_without_an_equal_is_kept_whole(make):
  made = make()
  fields, note = gguf_vocab.fields(made, len(made))
  assert 'tokenizer.huggingface.json' in fields and 'llama.cpp' in note
  again = gguf_tokenizer.make(metadata(**gguf_vocab.plain(fields)))
  for text in FIXTURE['texts']:
    assert again.encode(text).ids == made(text).input_ids
  with pytest.raises(ValueError, match='WordPiece cannot be written'):
    gguf_vocab.fields(tokenizers_of_bytes.word_piece(), 99)


def test_ends_of_turns():
  values = OTHERS['spm'] | {'tokenizer.chat_template': '{{ x }}<end_of_turn>'}
  values['tokenizer.ggml.tokens'] = [
    *values['tokenizer.ggml.tokens'][:-1],
    '<end_of_turn>',
  ]
  last = len(values['tokenizer.ggml.tokens']) - 1
  assert gguf_tokenizer.end_ids(metadata(**values)) == [2, last]
  values['tokenizer.ggml.eot_token_id'] = 5
  assert gguf_tokenizer.end_ids(metadata(**values)) == [2, 5, last]
