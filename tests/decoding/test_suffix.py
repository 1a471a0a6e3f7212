"""Suffix drafts against counting by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters.suffix import suffix
from specjax.decoding.drafters.suffix_search import learn
from specjax.decoding.drafters.suffix_search import search
from specjax.decoding.drafters.suffix_search import SuffixSpec
from specjax.decoding.drafters.suffix_search import SuffixState
from specjax.decoding.drafters.suffix_search import worthwhile
from tests.helpers.texts import sequence

# The oracle: occurrences counted one by one, straight from the definition.


def _occurrences(texts, ending, order):
  """Tokens after each place in `texts` where `ending` ends, best first."""
  found = []
  for number, text in enumerate(texts):
    for end in range(len(ending), len(text) + 1):
      if text[end - len(ending) : end] == ending:
        found.append((order(number, end), text[end:]))
  return [rest for _, rest in sorted(found, key=lambda pair: pair[0])]


def _descend(rests, num_draft):
  """Counts along the most frequent path, minus the place of the first match
  that follows it, and its tokens; ties are broken as in `matching.path`.

  `rests` are (place, tokens) of each occurrence.
  """
  children = {}
  for place, rest in rests:
    if rest and num_draft:
      children.setdefault(rest[0], []).append((place, rest[1:]))
  if not children:
    return (), -rests[0][0], ()
  most = max(map(len, children.values()))
  outcomes = []
  for token, below in children.items():
    if len(below) == most:
      counts, place, tokens = _descend(below, num_draft - 1)
      outcomes.append(((most,) + counts, place, (token,) + tokens))
  return max(outcomes)


def _limit(spec, m):
  return min(spec.num_draft, int(np.floor(m * spec.factor + spec.offset)))


def _endings(spec, context):
  for m in range(spec.min_match, min(len(context), spec.max_depth)):
    yield m, context[-m:]


def _common(left, right):
  n = 0
  while n < min(len(left), len(right)) and left[-1 - n] == right[-1 - n]:
    n += 1
  return n


def _path_oracle(spec, texts, context):
  """Draft and score. The context's own end, if `texts` hold the context, is an
  occurrence that nothing follows."""

  def order(number, end):
    length = min(_common(texts[number][:end], context), spec.max_depth - 1)
    return (-min(length, len(context) - 1), -number, -end)

  score, draft = 0.0, ()
  for m, ending in _endings(spec, context):
    rests = _occurrences(texts, ending, order)
    if not rests:
      break
    counts, _, tokens = _descend(list(enumerate(rests)), spec.num_draft)
    total, mine, kept = len(rests), 0.0, 0
    for count in counts[: _limit(spec, m)]:
      if np.float32(count / total) < np.float32(spec.min_token_prob):
        break
      mine, kept = mine + count / total, kept + 1
    if mine >= score - 1e-6:
      score, draft = mine, tokens[:kept]
  return list(draft), score


def _tree_oracle(spec, texts, context):
  """Scores of best-first expansion, and every node's probability by m."""
  best, by_m = 0.0, {}
  for m, ending in _endings(spec, context):
    rests = _occurrences(texts, ending, lambda number, end: (number, end))
    if not rests:
      break
    probs = {}
    for depth in range(1, spec.max_path + 1):
      for rest in rests:
        if len(rest) >= depth:
          key = tuple(rest[:depth])
          probs[key] = probs.get(key, 0) + 1 / len(rests)
    kept = sorted(
      (p for p in probs.values() if p > spec.min_token_prob - 1e-6),
      reverse=True,
    )[: _limit(spec, m)]
    by_m[m] = probs, sum(kept)
    best = max(best, sum(kept))
  return best, by_m


def _context(rows, capacity):
  tokens = np.full((len(rows), capacity), 3, np.int32)  # junk behind the end
  for tokens_row, row in zip(tokens, rows, strict=True):
    tokens_row[: len(row)] = row
  length = jnp.asarray([len(row) for row in rows], jnp.int32)
  return base.Context(jnp.asarray(tokens), length, length, None)


@functools.partial(jax.jit, static_argnums=0)
def _search(spec, index, source, context):
  return search(spec, index, source, context)


def _kept(tokens):
  return [int(t) for t in tokens if t != base.EMPTY]


_SPECS = (
  dict(),
  dict(num_draft=4, max_depth=6, factor=2.0, offset=1.0),
  dict(num_draft=12, factor=0.5, offset=0.5, min_token_prob=0.3),
)


@pytest.mark.parametrize('settings', _SPECS)
def test_chains_equal_the_counting_oracle(settings):
  rng = np.random.default_rng(len(settings))
  capacity, num_rows = 40, 1000
  spec = SuffixSpec(max_matches=capacity, **settings)
  rows = [
    sequence(rng, int(rng.integers(1, capacity + 1))).tolist()
    for _ in range(num_rows)
  ]
  for at in range(0, num_rows, 100):
    part = rows[at : at + 100]
    got = jax.device_get(_search(spec, None, None, _context(part, capacity)))
    for row, tokens, score in zip(part, got.tokens, got.score, strict=True):
      want, expected = _path_oracle(spec, [row], row)
      assert score == pytest.approx(expected, abs=1e-4), row
      assert _kept(tokens) == want, row
      assert _kept(tokens) == tokens[: len(want)].tolist()


@pytest.mark.parametrize('grows', [False, True])
@pytest.mark.parametrize('settings', _SPECS[:2])
def test_corpus_drafts_equal_the_counting_oracle(settings, grows):
  rng = np.random.default_rng(7)
  spec = SuffixSpec(max_matches=128, **settings)
  # The ring drops the oldest sequences.
  added = [sequence(rng, int(rng.integers(1, 30))).tolist() for _ in range(9)]
  added += [sequence(rng, 4).tolist() for _ in range(2)]
  corpus = corpus_lib.empty(100, 'x')
  if grows:
    index = corpus_lib.index(corpus)
    for row in added:
      corpus, index = corpus_lib.extend(corpus, index, [row])
    assert index.newest >= 4  # sorted apart
  else:
    corpus = corpus_lib.add(corpus, added)
    index = corpus_lib.index(corpus)
  kept = [row.tolist() for row in corpus_lib.sequences(corpus)]
  assert kept == added[-len(kept) :] and len(kept) < len(added)
  assert sum(len(row) + 1 for row in kept) <= 100
  rows = []
  for _ in range(200):
    text = kept[rng.integers(len(kept))]
    end = int(rng.integers(1, len(text) + 1))
    rows.append([10] + text[max(0, end - int(rng.integers(1, 9))) : end])
  got = jax.device_get(_search(spec, index, None, _context(rows, 40)))
  for row, tokens, score in zip(rows, got.tokens, got.score, strict=True):
    near = _path_oracle(spec, [row], row)
    far_tokens, far = _path_oracle(spec, kept, row)
    assert score == pytest.approx(max(near[1], far), abs=1e-4), row
    if near[1] >= far - 1e-6:
      assert _kept(tokens) == near[0]
    else:
      assert len(_kept(tokens)) == len(far_tokens)
      _is_most_frequent(kept, row, _kept(tokens), far)


def _is_most_frequent(texts, row, tokens, score):
  """Some ending of `row` promises this very draft with this score."""
  for m in range(1, len(row)):
    rests = _occurrences(texts, row[-m:], lambda number, end: (number, end))
    mine = sum(
      sum(rest[: k + 1] == tokens[: k + 1] for rest in rests) / len(rests)
      for k in range(len(tokens))
      if rests
    )
    if mine == pytest.approx(score, abs=1e-4):
      return
  raise AssertionError((row, tokens, score))


def test_trees_equal_the_counting_oracle():
  rng = np.random.default_rng(5)
  spec = SuffixSpec(num_draft=10, max_path=4, max_matches=40, factor=2.0)
  rows = [sequence(rng, int(rng.integers(2, 41))).tolist() for _ in range(300)]
  got = jax.device_get(_search(spec, None, None, _context(rows, 40)))
  for i, row in enumerate(rows):
    want, by_m = _tree_oracle(spec, [row], row)
    assert got.score[i] == pytest.approx(want, abs=1e-4), row
    paths = _paths(got.tokens[i], got.tree.parent[i], got.tree.depth[i])
    assert len(set(paths)) == len(paths)
    if not paths:
      assert want == 0
      continue
    sums = [
      sum(probs.get(path, -9) for path in paths)
      for probs, score in by_m.values()
      if score == pytest.approx(want, abs=1e-4)
    ]
    assert any(total == pytest.approx(want, abs=1e-4) for total in sums), row


def _paths(tokens, parent, depth):
  """Each node's tokens from the root; parents must stand before it."""
  paths = {0: ()}
  for slot in range(1, len(parent)):
    if tokens[slot - 1] != base.EMPTY:
      assert parent[slot] < slot and parent[slot] in paths
      paths[slot] = paths[parent[slot]] + (int(tokens[slot - 1]),)
      assert depth[slot] == len(paths[slot])
  return [path for slot, path in paths.items() if slot]


def test_few_matches_are_the_longest_then_the_latest():
  spec = SuffixSpec(max_matches=1)
  row = [1, 2, 3, 4, 5, 9, 2, 3, 6, 6, 1, 2, 3]
  got = _search(spec, None, None, _context([row], 20))
  assert _kept(got.tokens[0]) == [4, 5, 9]  # three tokens agree: three drafted
  row = [7, 3, 4, 0, 3, 5, 0, 8, 3]
  got = _search(spec, None, None, _context([row], 20))
  assert _kept(got.tokens[0]) == [5]


def test_source_is_searched_too():
  spec = SuffixSpec()
  source = base.Prompt(
    jnp.asarray([[5, 6, 7, 8, 9, 1, 5, 5]]), jnp.asarray([6])
  )
  context = _context([[0, 5, 6, 7]], 12)
  got = _search(spec, None, source, context)
  assert _kept(got.tokens[0]) == [8, 9, 1]  # and not what lies behind its end
  assert not _kept(_search(spec, None, None, context).tokens[0])


def test_min_score_and_min_match_drop_whole_drafts():
  row = [1, 2, 3, 4, 1, 5, 9, 1]
  for settings, want in (
    (dict(), 1),
    (dict(least=0.5), 0),
    (dict(min_match=2), 0),
  ):
    least = settings.pop('least', 0.0)
    spec = SuffixSpec(**settings)
    got = _search(spec, None, None, _context([row], 10))
    got = worthwhile(least, got, jnp.ones((1,), bool))
    assert len(_kept(got.tokens[0])) == want


def test_a_wide_block_must_pay_for_all_rows_that_run():
  """One row's promise is not worth a block that is wide for four."""
  spec = SuffixSpec(num_draft=4)
  repeats = [7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9]
  alike = [1, 2, 3, 4, 5, 6]
  rows = [repeats] + [[10 * i + t for t in alike] for i in range(1, 4)]
  context = _context(rows, 12)
  found = _search(spec, None, None, context)
  scores = np.asarray(found.score)
  assert 2 < scores[0] < 3 and not scores[1:].any()
  for running, pays in (
    ([True, True, True, True], False),  # 0.58 tokens a row
    ([True, True, False, False], True),  # 1.17
    ([True, False, False, False], True),
    ([False, True, True, True], False),
  ):
    got = worthwhile(1.0, found, jnp.asarray(running))
    assert bool(_kept(got.tokens[0])) == pays
    assert (np.asarray(got.score) > 0).any() == pays


def test_rows_that_miss_wait():
  spec = SuffixSpec(max_wait=4)
  zero = jnp.zeros((2,), jnp.int32)
  state = SuffixState(None, zero, zero, zero)
  waits = []
  for _ in range(14):
    waits.append(int(state.wait[0]))
    accepted = jnp.asarray([0, 1])
    state = learn(spec, state, accepted)
    assert int(state.wait[1]) == 0
  assert waits == [0, 1, 0, 2, 1, 0, 4, 3, 2, 1, 0, 4, 3, 2]
  state = state.replace(wait=zero)
  state = learn(spec, state, jnp.asarray([3, 3]))
  assert state.misses.tolist() == [0, 0] and state.wait.tolist() == [0, 0]


@pytest.mark.parametrize(
  'settings',
  [
    dict(num_draft=0),
    dict(max_depth=1),
    dict(max_depth=65),
    dict(min_match=0),
    dict(min_match=24),
    dict(max_matches=0),
    dict(max_path=9),
    dict(min_token_prob=1.5),
  ],
)
def test_bad_settings_are_named(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    suffix(SuffixSpec(**settings))


def test_program_has_no_callback_and_no_vocabulary_sized_vote():
  big = 50021
  spec = SuffixSpec()
  index = corpus_lib.index(
    corpus_lib.add(corpus_lib.empty(64, 'x'), [[big - 1] * 9])
  )
  context = _context([[big - 1] * 5], 16)
  text = _search.lower(spec, index, None, context).compile().as_text()
  assert 'custom_call_target="xla_' not in text and 'infeed' not in text
  assert '50021' not in text and '50020' not in text
