"""Corpora on the host and on disk."""

import numpy as np
import pytest

from specjax.decoding import corpus as corpus_lib
from tests.helpers import texts


def test_corpus_is_saved_and_loaded(tmp_path):
  path = tmp_path / 'sub' / 'corpus.bin'
  rng = np.random.default_rng(0)
  rows = [rng.integers(0, 9, 5) for _ in range(20)]
  corpus = corpus_lib.add(corpus_lib.empty(200, 'tok'), rows)
  corpus_lib.save(corpus, path)
  again = corpus_lib.load(path, 200, 'tok')
  np.testing.assert_array_equal(corpus.text, again.text)
  smaller = corpus_lib.load(path, 20, 'tok')
  np.testing.assert_array_equal(
    np.stack(corpus_lib.sequences(smaller)), np.stack(rows[-3:])
  )
  assert [p.name for p in path.parent.iterdir()] == ['corpus.bin']
  link = tmp_path / 'link'
  link.symlink_to(path)
  corpus_lib.save(smaller, link)
  assert link.is_symlink() and len(corpus_lib.load(path, 200, 'tok').text) < 20
  for data, message in (
    (path.read_bytes()[:-3], 'truncated or damaged'),
    (path.read_bytes()[:30], 'truncated or damaged'),
    (path.read_bytes()[:9], 'truncated or damaged'),
    (b'', 'truncated or damaged'),
    (b'PK\x03\x04 something else', 'not a specjax corpus'),
  ):
    bad = tmp_path / 'bad'
    bad.write_bytes(data)
    with pytest.raises(ValueError, match=message):
      corpus_lib.load(bad, 200, 'tok')
  with pytest.raises(ValueError, match='another tokenizer'):
    corpus_lib.load(path, 200, 'other')
  with pytest.raises(ValueError, match='holds not one sequence'):
    corpus_lib.load(path, 3, 'tok')
  with pytest.raises(FileNotFoundError, match='no corpus file'):
    corpus_lib.load(tmp_path / 'none', 200, 'tok')


def test_corpus_refuses_what_it_cannot_hold():
  with pytest.raises(ValueError, match='at least 7'):
    corpus_lib.add(corpus_lib.empty(6, 'x'), [range(6)])
  with pytest.raises(ValueError, match='at least 0'):
    corpus_lib.add(corpus_lib.empty(6, 'x'), [[1, -1]])
  with pytest.raises(ValueError, match='capacity'):
    corpus_lib.empty(1, 'x')
  full = corpus_lib.add(corpus_lib.empty(6, 'x'), [[], range(5)])
  assert len(corpus_lib.sequences(full)) == 1
  assert len(corpus_lib.sequences(corpus_lib.add(full, [[1]]))) == 1
  assert corpus_lib.sequences(corpus_lib.empty(6, 'x')) == []


def _is_sorted(text, places):
  keys = []
  for at in places:
    back = at
    while back >= 0 and text[back] >= 0:
      back -= 1
    keys.append((text[back + 1 : at + 1][::-1][:64], -at))
  return keys == sorted(keys)


def test_backward_order_is_sorted():
  rng = np.random.default_rng(3)
  rows = [texts.sequence(rng, int(rng.integers(1, 200))) for _ in range(20)]
  corpus = corpus_lib.add(corpus_lib.empty(5000, 'x'), rows)
  index = corpus_lib.index(corpus)
  order = np.asarray(index.order)[: int(index.size)].tolist()
  assert _is_sorted(corpus.text.tolist(), order)
  assert len(order) == sum(len(row) for row in rows) and index.newest == 0


@pytest.mark.parametrize('capacity', [400, 5000])
def test_an_index_that_grows_holds_every_position(capacity):
  """All of the text is in one of two sorted runs, also where a ring turns."""
  rng = np.random.default_rng(5)
  corpus = corpus_lib.empty(capacity, 'x')
  index, apart = corpus_lib.index(corpus), []
  for number in range(60):
    lengths = rng.integers(0, 60 if number % 7 else 900, 1 + number % 3)
    rows = [texts.sequence(rng, int(length) + 1) for length in lengths] + [[]]
    expected = corpus_lib.remember(corpus, rows)
    corpus, index = corpus_lib.extend(corpus, index, rows)
    np.testing.assert_array_equal(corpus.text, expected.text)
    text = corpus.text.tolist()
    assert np.asarray(index.text)[: len(text)].tolist() == text
    assert {len(index.text), len(index.order)} == {capacity}
    size, newest = int(index.size), int(index.newest)
    order = np.asarray(index.order)[: size + newest].tolist()
    assert sorted(order) == np.flatnonzero(corpus.text >= 0).tolist()
    assert _is_sorted(text, order[:size]) and _is_sorted(text, order[size:])
    assert max(order[:size], default=-1) < min(order[size:], default=capacity)
    apart.append(newest)
  assert 0 in apart and np.count_nonzero(apart) > 5
