"""Batches by number: nothing lost, nothing repeated, the same for everyone."""

import collections
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from specjax.training import build
from specjax.training.data import batches as batches_lib
from specjax.training.data import packing
from specjax.training.data import readers
from specjax.training.data import sources as sources_lib
from tests.helpers.pair_batches import encode
from tests.helpers.pair_batches import EOS
from tests.helpers.pair_batches import make
from tests.helpers.pair_batches import settings

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(name='pairs')
def pairs_fixture(tmp_path):
  """61 pairs; source and target of a pair begin with its own word."""
  rng = np.random.default_rng(0)
  lines = []
  for i in range(61):

    def tail():
      return ' '.join(
        f'w{100 + int(x)}' for x in rng.integers(0, 9, rng.integers(0, 5))
      )

    lines.append(f'w{i} {tail()}'.strip() + '\t' + f'w{i} {tail()}'.strip())
  path = tmp_path / 'pairs.tsv'
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return str(path)


def same(a, b):
  return all(np.array_equal(a[k], b[k]) for k in a) and set(a) == set(b)


def heads(batch):
  """The own words of the pairs in a batch, source side and target side."""
  out = []
  for side in ('source', 'target'):
    tokens = batch[side]
    out.append(sorted(tokens[(tokens >= 2) & (tokens < 63)].tolist()))
  return out


@pytest.mark.parametrize('pack', [True, False])
def test_every_pair_once_an_epoch(pairs, pack):
  batches = make(pairs, pack=pack)
  step = 0
  for epoch in range(3):
    seen = [[], []]
    assert batches.epoch_of(step)[:2] == (epoch, 0)
    for _ in range(batches.epoch_of(step)[2]):
      for side, ids in zip(seen, heads(batches.get(step))):
        side += ids
      step += 1
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(2, 63))


def test_segments_hold_whole_pairs_and_inputs_are_moved_targets(pairs):
  batch = make(pairs).get(0)
  several = 0
  for b in range(4):
    for s in range(1, batch['target_segments'][b].max() + 1):
      here = batch['target_segments'][b] == s
      target, given = batch['target'][b][here], batch['target_in'][b][here]
      assert given[0] == 0 and target[-1] == EOS
      np.testing.assert_array_equal(given[1:], target[:-1])
      source = batch['source'][b][batch['source_segments'][b] == s]
      assert source[-1] == EOS
      # Joined pairs: one end token, and the same pairs on both sides.
      assert (target == EOS).sum() == 1 == (source == EOS).sum()
      own = [x[(x >= 2) & (x < 63)].tolist() for x in (source, target)]
      assert own[0] == own[1]
      several += len(own[0]) > 1
  assert several


def test_nothing_is_joined_behind_a_cut_answer(tmp_path):
  path = tmp_path / 'labels.jsonl'
  path.write_text(
    ''.join(
      f'{{"source": "w{i}", "target": [{i + 2}, {101 if i % 3 else EOS}],'
      f' "finish_reason": "{"length" if i % 3 else "eos"}"}}\n'
      for i in range(60)
    )
  )
  batches = make(str(path), joined_fraction=1.0, join_max=6, target_length=32)
  seen, several = 0, 0
  for step in range(batches.epoch_of(0)[2]):
    batch = batches.get(step)
    for b in range(4):
      for s in range(1, batch['target_segments'][b].max() + 1):
        target = batch['target'][b][batch['target_segments'][b] == s]
        # Complete answers without their ends, then one whole answer.
        inside = [x - 2 for x in target[:-2].tolist()]
        last = target[-2] - 2
        assert not any(i % 3 for i in inside)
        assert target[-1] == (101 if last % 3 else EOS)
        seen += len(inside) + 1
        several += bool(inside) and last % 3 > 0
  assert seen == 60 and several


def test_same_order_for_a_seed_and_another_for_another(pairs):
  one, again, other = make(pairs), make(pairs), make(pairs, seed=1)
  assert all(same(one.get(i), again.get(i)) for i in (5, 0, 9))
  assert not same(one.get(0), other.get(0))


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_readers_do_not_change_the_order(pairs, threads):
  batches = make(pairs)
  read = list(batches_lib.iterate(batches, 0, 12, threads=threads))
  assert len(read) == 12
  assert all(same(b, batches.get(i)) for i, b in enumerate(read))


@pytest.mark.parametrize('stop', [1, 6, 11, 12])
def test_resuming_loses_and_repeats_nothing(pairs, stop):
  whole = list(batches_lib.iterate(make(pairs), 0, 12))
  parts = list(batches_lib.iterate(make(pairs), 0, stop))
  parts += list(batches_lib.iterate(make(pairs), stop, 12))
  assert len(parts) == 12
  assert all(same(a, b) for a, b in zip(whole, parts))


def test_hosts_share_the_rows_of_a_batch(pairs):
  # A row for each of 61 pairs, so the last batch has empty rows.
  alone = dict(pack=False, joined_fraction=0.0)
  whole = make(pairs, **alone)
  last = whole.epoch_of(0)[2] - 1
  assert not whole.get(last)['target_segments'][3].any()
  for rows in ((0, 1), (1, 3)):
    part = make(pairs, rows=rows, **alone)
    for step in (2, last, last + 3):
      found = part.get(step)
      for name, array in whole.get(step).items():
        np.testing.assert_array_equal(array[list(rows)], found[name])


def test_a_plain_process_without_flags_reads_the_same(pairs):
  code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from specjax.training import build
from specjax.training.data import batches as data
from tests.helpers import pair_batches
batches = pair_batches.make({pairs!r})
print(sum(int(b['target'].astype('int64').sum()) * (i + 1)
          for i, b in enumerate(data.iterate(batches, 0, 9, threads=2))))
"""
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  batches = make(pairs)
  wanted = sum(
    int(batches.get(i)['target'].astype('int64').sum()) * (i + 1)
    for i in range(9)
  )
  assert int(out.stdout) == wanted


@pytest.mark.parametrize('fraction', [0.25, 1.0])
def test_a_mixture_has_the_share_it_says(pairs, tmp_path, fraction):
  labelled = tmp_path / 'own.jsonl'
  labelled.write_text(
    ''.join(
      f'{{"prompt": "w{i}", "tokens": [{200 + i}, 1]}}\n' for i in range(40)
    )
  )
  config = settings(
    pairs,
    labelled=str(labelled),
    labelled_fraction=fraction,
    joined_fraction=0.0,
  )
  own = dataclasses.replace(
    config, source_field='prompt', target_field='tokens'
  )
  sources = [
    sources_lib.load_pairs(config, [pairs], encode, EOS),
    sources_lib.load_pairs(own, [str(labelled)], encode, EOS),
  ]
  batches = batches_lib.make_batches(config, sources, seed=0, start_id=0)
  count = collections.Counter()
  for i in range(batches.epoch_of(0)[2]):
    target = batches.get(i)['target']
    count['own'] += int((target >= 200).sum())
    count['given'] += int(((target >= 2) & (target < 63)).sum())
  assert count['own'] == round(fraction * 61)
  assert count['given'] == 61 - count['own']


def test_packing_leaves_little_empty():
  rng = np.random.default_rng(0)
  sizes = rng.integers(4, 30, size=(800, 2))
  rows = packing.pack(sizes, (96, 96))
  assert sorted(i for row in rows for i in row) == list(range(800))
  used = np.array([sizes[row].sum(0) for row in rows])
  assert used.max() <= 96
  assert used.sum() / (len(rows) * 2 * 96) > 0.85


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
    followed += list(zip(batch['tokens'][here], batch['target'][here]))
    first = batch['positions'] == 0
    starts = np.diff(batch['segments'], axis=1, prepend=0) != 0
    live = batch['segments'] > 0
    np.testing.assert_array_equal(first & live, starts & live)
  wanted = [(i, i + 1) for i in range(3, 9)] + [(9, EOS), (10, 11), (11, EOS)]
  assert sorted(followed) == sorted(wanted)


def test_prompts_of_labelled_text_carry_no_loss(tmp_path):
  path = tmp_path / 'own.jsonl'
  path.write_text(
    '{"prompt": "w1 w2 w3", "tokens": [50, 51, 1], "finish_reason": "eos"}\n'
    '{"prompt": "w1 w2", "tokens": [60], "finish_reason": "length"}\n'
  )
  config = sources_lib.DataConfig(
    kind='text', labelled=str(path), target_length=8, batch_rows=1
  )
  source = sources_lib.load_labelled_text(config, [str(path)], encode, EOS)
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
      source_length=8, target_length=8, source_field='prompt',
      target_field=field,
    )  # fmt: skip
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
  source = sources_lib.Source((stream, stream), 0, 0)
  assert build.frequent_ids([source], 8, EOS) == (0, EOS)
