"""Batches by number: nothing lost, nothing repeated, the same for everyone."""

import collections
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from specjax.training.data import batches as batches_lib
from specjax.training.data import packing
from specjax.training.data import sources as sources_lib
from tests.helpers import labels
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
      for side, ids in zip(seen, heads(batches.get(step)), strict=True):
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
  assert all(same(a, b) for a, b in zip(whole, parts, strict=True))


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
  labels.write(labelled, [([i + 2, 1], [200 + i, 1], 'eos') for i in range(40)])
  config = settings(
    pairs,
    labelled=str(labelled),
    labelled_fraction=fraction,
    joined_fraction=0.0,
  )
  sources = [
    sources_lib.load_pairs(config, [pairs], encode, EOS),
    sources_lib.load_labelled(config, [str(labelled)], labels.READER, EOS),
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
