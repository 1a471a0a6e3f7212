"""Faulty data files are refused before anything is trained on them."""

import json

import pytest

from specjax.training import build
from specjax.training.data import labels
from specjax.training.data import readers
from tests.helpers import labels as label_files
from tests.helpers import toy


def test_a_byte_order_mark_is_no_text(tmp_path):
  pairs, rows = tmp_path / 'x.tsv', tmp_path / 'x.jsonl'
  pairs.write_bytes(b'\xef\xbb\xbfa\tb\n')
  rows.write_bytes(b'\xef\xbb\xbf{"source": "a", "target": "b"}\n')
  for path in (pairs, rows):
    read = readers.read_pairs([str(path)])
    assert (read.sources, read.targets) == (['a'], ['b'])


def test_blank_lines_between_json_lines_are_none(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('{"source": "a"}\n\n{"source": "b"}\n \n')
  names = [str(path)]
  for read in (
    [line.source for line in readers.read_inputs(names)],
    list(readers.read_text(names)),
    readers.read_documents(names, fields=('source',))[0],
  ):
    assert read == ['a', 'b']


def test_bad_records_of_text_are_counted_and_skipped_if_asked(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_text('{"text": "a"}\n{"other": "b"}\n{"text"\n')
  with pytest.raises(ValueError, match='line 2: none of the fields'):
    readers.read_documents([str(path)])
  read = readers.read_documents([str(path)], skip_bad_lines=True)
  assert read == (['a'], 2)


def test_lines_that_are_not_utf8_are_bad_lines(tmp_path):
  pairs, text = tmp_path / 'x.tsv', tmp_path / 'x.txt'
  pairs.write_bytes(b'a\tb\n\xe4\tc\n')
  text.write_bytes(b'a\n\xe4\nb\n')
  with pytest.raises(ValueError, match='x.tsv, line 2: not UTF-8'):
    readers.read_pairs([str(pairs)])
  assert readers.read_pairs([str(pairs)], skip_bad_lines=True).skipped == 1
  with pytest.raises(ValueError, match='x.txt, line 2: not UTF-8'):
    readers.read_documents([str(text)])
  read = readers.read_documents([str(text)], skip_bad_lines=True)
  assert read == (['a\nb'], 1)


def test_bad_lines_of_labels_are_counted_and_blank_ones_are_none(tmp_path):
  path = tmp_path / 'own.jsonl'
  label_files.write(path, [([2], [7, 1], 'eos'), ([3], [8, 1], 'eos')])
  head, *rows = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join([head, rows[0], b'\n', b'\xe4\n', rows[1]]))
  with pytest.raises(ValueError, match='own.jsonl, line 4: not UTF-8'):
    labels.read([str(path)], label_files.READER)
  read = labels.read([str(path)], label_files.READER, skip_bad_lines=True)
  assert (read.answers, read.skipped) == ([[7, 1], [8, 1]], 1)


@pytest.mark.parametrize(
  'value, words',
  [
    (r'"\ud83d"', r"the field 'source' is no text: it holds '\\ud83d'"),
    ('1' * 5000, 'not a JSON object'),
    ('[' * 100000, 'not a JSON object'),
  ],
)
def test_what_json_allows_and_no_text_holds_is_a_bad_line(
  tmp_path, value, words
):
  path = tmp_path / 'x.jsonl'
  good = '{"source": "a", "target": "b"}\n'
  path.write_text(f'{good}{{"source": {value}, "target": "c"}}\n')
  names = [str(path)]
  for read in (
    readers.read_pairs,
    readers.read_inputs,
    lambda names: list(readers.read_text(names)),
    lambda names: readers.read_documents(names, fields=('source',)),
  ):
    with pytest.raises(ValueError, match=f'line 2: {words}'):
      read(names)
  assert readers.read_pairs(names, skip_bad_lines=True).skipped == 1


def test_a_folder_is_no_data_file(tmp_path):
  with pytest.raises(IsADirectoryError, match='is a folder'):
    readers.read_pairs([str(tmp_path)])


@pytest.mark.parametrize('line', ['a\t  ', ' \tb'])
def test_a_blank_side_is_empty(tmp_path, line):
  path = tmp_path / 'x.tsv'
  path.write_text(f'a\tb\n{line}\n')
  with pytest.raises(ValueError, match='line 2: source or target is empty'):
    readers.read_pairs([str(path)])
  assert readers.read_pairs([str(path)], skip_bad_lines=True).skipped == 1


@pytest.mark.parametrize('ids', [[1, -5], [1, 2**31]])
def test_numbers_that_are_no_ids_are_told_with_their_line(tmp_path, ids):
  path = tmp_path / 'x.jsonl'
  path.write_text(json.dumps({'source': 'a', 'target': ids}) + '\n')
  with pytest.raises(ValueError, match="line 1: the field 'target' must be"):
    readers.read_pairs([str(path)])


@pytest.mark.parametrize('place', ['train', 'valid'])
def test_ids_of_another_vocabulary_are_refused(tmp_path, place):
  toy.write(tmp_path, train=8, valid=4)
  path = tmp_path / 'own.jsonl'
  path.write_text(json.dumps({'source': 'ba do', 'target': [5, 340]}) + '\n')
  config = toy.config(tmp_path, **{f'data__{place}': str(path)})
  with pytest.raises(ValueError, match='token id 340, .* from 0 to 3'):
    build.build(config)
