"""Texts, labels and pairs as they are read, and what is wrong with them."""

import numpy as np
import pytest

from specjax.training.data import batches as batches_lib
from specjax.training.data import packing
from specjax.training.data import readers
from specjax.training.data import sources as sources_lib
from tests.helpers import labels
from tests.helpers.pair_batches import encode
from tests.helpers.pair_batches import EOS
from tests.helpers.pair_batches import settings


def test_text_is_predicted_token_by_token_once(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('w1 w2 w3 w4 w5 w6 w7\n\nw8 w9\n')
  config = sources_lib.DataConfig(
    kind='text', train=str(path), target_length=4, batch_rows=2
  )
  source = sources_lib.load_text(config, [str(path)], encode, EOS)
  batches = batches_lib.make_batches(config, [source], seed=0)
  followed = []
  for i in range(batches.epoch_of(0)[2]):
    batch = batches.get(i)
    here = batch['weight'] > 0
    followed += list(
      zip(batch['tokens'][here], batch['target'][here], strict=True)
    )
    first = batch['positions'] == 0
    starts = np.diff(batch['segments'], axis=1, prepend=0) != 0
    live = batch['segments'] > 0
    np.testing.assert_array_equal(first & live, starts & live)
  wanted = [(i, i + 1) for i in range(3, 9)] + [(9, EOS), (10, 11), (11, EOS)]
  assert sorted(followed) == sorted(wanted)


def test_prompts_of_labelled_text_carry_no_loss(tmp_path):
  path = tmp_path / 'own.jsonl'
  labels.write(
    path,
    [([3, 4, 5], [50, 51, 1], 'eos'), ([3, 4], [60], 'length')],
  )
  config = sources_lib.DataConfig(
    kind='text', labelled=str(path), target_length=8, batch_rows=1
  )
  source = sources_lib.load_labelled(config, [str(path)], labels.READER, EOS)
  batches = batches_lib.make_batches(config, [source], seed=0)
  rows = [batches.get(i) for i in range(batches.epoch_of(0)[2])]
  learnt = [row['target'][row['weight'] > 0].tolist() for row in rows]
  assert sorted(sum(learnt, [])) == [1, 50, 51, 60]


def test_a_labelled_answer_cut_by_its_budget_has_no_end(tmp_path):
  """Its ids are kept; as a text it might end within a word."""
  path = tmp_path / 'own.jsonl'
  path.write_text(
    '{"prompt": "w1", "text": "w7", "tokens": [50], "finish_reason": "eos"}\n'
    '{"prompt": "w2", "text": "w8", "tokens": [60, 61], '
    '"finish_reason": "length"}\n'
  )
  for field, wanted in (
    ('tokens', [[50, EOS], [60, 61]]),
    ('text', [[9, EOS]]),
  ):
    config = sources_lib.DataConfig(
      source_length=8,
      target_length=8,
      source_field='prompt',
      target_field=field,
    )
    source = sources_lib.load_pairs(config, [str(path)], encode, EOS)
    assert source.skipped == 2 - len(wanted)
    targets = source.sides[1]
    found = [packing.get(targets, i).tolist() for i in range(len(wanted))]
    assert found == wanted


@pytest.mark.parametrize(
  'content, words',
  [
    (b'', 'is empty'),
    (b'a\tb\nno tab here\n', r'line 2: no tab'),
    (b'a\tb\n\xff\xfe\tc\n', 'line 2: not UTF-8'),
    (b'a\t\n', 'line 1: source or target is empty'),
    (b'\n\n', 'No sentence pair'),
  ],
)
def test_bad_pairs_are_told_with_file_and_line(tmp_path, content, words):
  path = tmp_path / 'x.tsv'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=words) as error:
    readers.read_pairs([str(path)])
  assert 'x.tsv' in str(error.value)


def test_bad_lines_are_counted_and_skipped_if_asked(tmp_path):
  path = tmp_path / 'x.tsv'
  path.write_text('a\tb\nbad\nc\td\nworse\n')
  assert readers.read_pairs([str(path)], skip_bad_lines=True) == (
    ['a', 'c'],
    ['b', 'd'],
    [False, False],
    2,
  )


def test_missing_file_and_bad_json(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere.tsv does not exist'):
    readers.read_pairs([str(tmp_path / 'nowhere.tsv')])
  path = tmp_path / 'x.jsonl'
  path.write_text('{"source": "a", "target": "b"}\n{"source": 1}\n[]\n')
  with pytest.raises(ValueError, match='line 2: the field .source.'):
    readers.read_pairs([str(path)])
  path.write_text('{"source": "a"')
  with pytest.raises(ValueError, match='line 1: not a JSON object'):
    list(readers.read_text([str(path)]))


@pytest.mark.parametrize(
  'field, value, words',
  [
    ('kind', 'audio', 'kind must be'),
    ('source_length', 0, 'source_length must be at least 1, not 0'),
    ('target_length', 0, 'target_length must be at least 1'),
    ('batch_rows', 0, 'batch_rows must be at least 1'),
    ('joined_fraction', 1.5, 'between 0 and 1'),
    ('labelled_fraction', float('nan'), 'between 0 and 1'),
    ('labelled_fraction', 0.5, 'labelled names no file'),
    ('join_max', 1, 'join_max'),
    ('train', '', 'names no file'),
    ('on_policy_fraction', 0.5, 'pack=False'),
  ],
)
def test_bad_settings_are_told(field, value, words):
  config = sources_lib.DataConfig(train='x.tsv', join_min=2)
  setattr(config, field, value)
  with pytest.raises(ValueError, match=words):
    config.validate()


def test_pairs_too_long_for_a_row_are_counted(tmp_path):
  path = tmp_path / 'x.tsv'
  path.write_text('w1 w2 w3 w4\tw1\nw5\tw6\n')
  config = settings(str(path), source_length=3)
  assert sources_lib.load_pairs(config, [str(path)], encode, EOS).too_long == 1
  config.source_length = 1
  with pytest.raises(ValueError, match='No pair fits'):
    sources_lib.load_pairs(config, [str(path)], encode, EOS)


def test_a_tokenizer_that_cannot_join_is_refused():
  def joined(texts):
    return [[len(t)] for t in texts]

  with pytest.raises(ValueError, match='joined_fraction=0'):
    sources_lib.check_joinable(joined, ['ab', 'c'], EOS)
  sources_lib.check_joinable(encode, ['w1', 'w2 w3'], EOS)


def test_the_end_is_a_known_token_though_no_answer_ends():
  stream = packing.stream([[0, 0, 0], [0]])
  source = sources_lib.ExampleSource((stream, stream), 0, 0)
  assert sources_lib.frequent_ids([source], 8, EOS) == (0, EOS)
