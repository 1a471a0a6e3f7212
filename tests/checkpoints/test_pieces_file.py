"""Folders with a SentencePiece model alone: ids are SentencePiece's own."""

import json
import shutil
import warnings

import pytest
import sentencepiece

from specjax.checkpoints import load as loading
from specjax.checkpoints import pieces_file
from tests.helpers import tiny

TEXTS = (
  *tiny.CORPUS,
  'naïve café straße',
  'съешь ещё этих мягких булок',
  '吾輩は猫である',
  '빠른 갈색 여우',
  'الثعلب البني السريع',
  'हिन्दी में लिखना',
  '🙂 emoji 12345',
)
UNSEEN = (
  ' leads',
  'trails ',
  'two  spaces\tand\na line',
  'ﬁ ½ Ⅳ １２',
  'ελληνικά и русский',
  '漢字 ☃ 👩‍🚀',
  'def f(x):\n    return x**2',
)
KINDS = {
  'unigram': dict(
    model_type='unigram', pad_id=0, eos_id=1, unk_id=2, bos_id=-1
  ),
  'bpe': dict(
    model_type='bpe',
    byte_fallback=True,
    normalization_rule_name='identity',
    split_digits=True,
    remove_extra_whitespaces=False,
  ),
}


@pytest.fixture(scope='module', name='models')
def models_fixture(tmp_path_factory):
  """{kind: path} of two small SentencePiece models."""
  root = tmp_path_factory.mktemp('pieces')
  made = {}
  for kind, settings in KINDS.items():
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS * 10),
      model_prefix=str(root / kind),
      vocab_size=400,
      hard_vocab_limit=False,
      minloglevel=2,
      **settings,
    )
    made[kind] = root / f'{kind}.model'
  return made


def folder_of(tmp_path, model, name, **stated):
  """A folder with this SentencePiece model, and what its files state."""
  shutil.copy(model, tmp_path / name)
  for file, content in stated.items():
    (tmp_path / f'{file}.json').write_text(json.dumps(content))
  return str(tmp_path)


LLAMA = {'config': {'model_type': 'llama'}}


@pytest.mark.parametrize(
  'kind, name, stated, ends',
  [
    ('unigram', 'spiece.model', {'config': {'model_type': 't5'}}, ([], [1])),
    ('unigram', 'spiece.model', {}, ([], [1])),
    ('bpe', 'tokenizer.model', LLAMA, ([1], [])),
    ('bpe', 'tokenizer.model', {'config': {'model_type': 'gemma'}}, ([1], [])),
    ('bpe', 'sentencepiece.bpe.model', {}, ([1], [])),
    (
      'bpe',
      'tokenizer.model',
      LLAMA | {'tokenizer_config': {'tokenizer_class': 'LlamaTokenizer'}},
      ([1], []),
    ),
    (
      'bpe',
      'tokenizer.model',
      LLAMA
      | {'tokenizer_config': {'add_bos_token': False, 'add_eos_token': True}},
      ([], [2]),
    ),
  ],
)
def test_ids_are_those_of_sentencepiece(
  kind, name, stated, ends, models, tmp_path
):
  begin, end = ends
  pieces = sentencepiece.SentencePieceProcessor(model_file=str(models[kind]))
  folder = folder_of(tmp_path, models[kind], name, **stated)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    tokenizer = loading.load_tokenizer(folder)
  for text in (*TEXTS, *UNSEEN):
    ids = list(tokenizer(text).input_ids)
    assert ids == [*begin, *pieces.encode(text), *end], text
    if pieces.unk_id() not in ids:
      shown = tokenizer.decode(ids, skip_special_tokens=True)
      assert shown == pieces.decode(pieces.encode(text)), text
  assert tokenizer.eos_token_id == pieces.eos_id()
  assert (tokenizer.bos_token_id or -1) == pieces.bos_id()


def test_another_way_to_split_is_named(models, tmp_path):
  folder = folder_of(tmp_path, models['bpe'], 'tokenizer.model')
  path = pieces_file.find(folder)
  wrong = tiny.tokenizer()
  # A class that splits in a way of its own gives way to the model's settings.
  found = pieces_file.load(folder, path, (lambda folder: wrong,))
  assert found is not wrong
  (tmp_path / 'tokenizer_config.json').write_text('{"legacy": false}')
  with pytest.warns(UserWarning, match="splits ' leads and trails ' in anoth"):
    loading.load_tokenizer(folder)


def test_a_whole_tokenizer_or_no_pieces_at_all_decide_themselves(
  models, tmp_path
):
  (tmp_path / 'tokenizer.model').write_text('bm8= 1\n')
  assert pieces_file.find(str(tmp_path)) is None
  shutil.copy(models['bpe'], tmp_path / 'spiece.model')
  assert pieces_file.find(str(tmp_path)) == str(tmp_path / 'spiece.model')
  (tmp_path / 'tokenizer.json').write_text('{}')
  assert pieces_file.find(str(tmp_path)) is None
