"""Suffix drafts against counting by hand, the corpus, and the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import build
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import verify
from specjax.decoding.drafters.suffix import learn
from specjax.decoding.drafters.suffix import search
from specjax.decoding.drafters.suffix import suffix
from specjax.decoding.drafters.suffix import SuffixSpec
from specjax.decoding.drafters.suffix import SuffixState
from specjax.decoding.search import SearchConfig
from tests import fakes

VOCAB = 11


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
  that follows it, and its tokens; ties are broken as `matching.path` says.

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


# Helpers.


def _sequence(rng, length):
  """Random, periodic, or made of a few phrases."""
  kind = rng.integers(3)
  vocab = int(rng.integers(2, 9))
  if kind == 0:
    return rng.integers(0, vocab, length)
  if kind == 1:
    period = rng.integers(0, vocab, int(rng.integers(1, 8)))
    row = np.resize(period, length)
    spoiled = rng.random(length) < 0.05
    return np.where(spoiled, rng.integers(0, vocab, length), row)
  phrases = [rng.integers(0, vocab, int(rng.integers(2, 7))) for _ in range(3)]
  row = np.concatenate([phrases[i] for i in rng.integers(0, 3, length)])
  return row[:length]


def _context(rows, capacity):
  tokens = np.full((len(rows), capacity), 3, np.int32)  # junk behind the end
  for tokens_row, row in zip(tokens, rows):
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
    _sequence(rng, int(rng.integers(1, capacity + 1))).tolist()
    for _ in range(num_rows)
  ]
  for at in range(0, num_rows, 100):
    part = rows[at : at + 100]
    got = jax.device_get(_search(spec, None, None, _context(part, capacity)))
    for row, tokens, score in zip(part, got.tokens, got.score):
      want, expected = _path_oracle(spec, [row], row)
      assert score == pytest.approx(expected, abs=1e-4), row
      assert _kept(tokens) == want, row
      assert _kept(tokens) == tokens[: len(want)].tolist()


@pytest.mark.parametrize('settings', _SPECS[:2])
def test_corpus_drafts_equal_the_counting_oracle(settings):
  rng = np.random.default_rng(7)
  spec = SuffixSpec(max_matches=128, **settings)
  # The ring drops the oldest sequences.
  added = [_sequence(rng, int(rng.integers(1, 30))).tolist() for _ in range(9)]
  corpus = corpus_lib.add(corpus_lib.empty(100, 'x'), added)
  kept = [row.tolist() for row in corpus_lib.sequences(corpus)]
  assert kept == added[-len(kept) :] and len(kept) < len(added)
  assert sum(len(row) + 1 for row in kept) <= 100
  index = corpus_lib.index(corpus)
  rows = []
  for _ in range(200):
    text = kept[rng.integers(len(kept))]
    end = int(rng.integers(1, len(text) + 1))
    rows.append([10] + text[max(0, end - int(rng.integers(1, 9))) : end])
  got = jax.device_get(_search(spec, index, None, _context(rows, 40)))
  for row, tokens, score in zip(rows, got.tokens, got.score):
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
  rows = [_sequence(rng, int(rng.integers(2, 41))).tolist() for _ in range(300)]
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
    (dict(min_score=0.5), 0),
    (dict(min_match=2), 0),
  ):
    spec = SuffixSpec(**settings)
    got = _search(spec, None, None, _context([row], 10))
    assert len(_kept(got.tokens[0])) == want


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


# Corpora on the host and on disk.


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
  for data, message in (
    (path.read_bytes()[:-3], 'truncated or damaged'),
    (path.read_bytes()[:30], 'truncated or damaged'),
    (b'', 'not a specjax corpus'),
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


def test_backward_order_is_sorted():
  rng = np.random.default_rng(3)
  rows = [_sequence(rng, int(rng.integers(1, 200))) for _ in range(20)]
  corpus = corpus_lib.add(corpus_lib.empty(5000, 'x'), rows)
  index = corpus_lib.index(corpus)
  text = corpus.text.tolist()
  keys = []
  for at in np.asarray(index.order)[: int(index.size)].tolist():
    back = at
    while back >= 0 and text[back] >= 0:
      back -= 1
    keys.append((text[back + 1 : at + 1][::-1][:64], -at))
  assert keys == sorted(keys)
  assert len(keys) == sum(len(row) for row in rows)


# In the loop.


def _decode(
  target, params, prompt, controls, settings, drafter, rule, new, max_path=0
):
  recipe = generate_lib.Recipe(
    target,
    drafter,
    verify.make(rule, max_path=max_path),
    settings.warp_spec(),
  )
  call = build.compiled(recipe, new)
  return jax.device_get(call(params, prompt, controls))


def _prompt(batch, width=9):
  rng = np.random.default_rng(batch)
  return base.Prompt(
    jnp.asarray(rng.integers(0, VOCAB, (batch, width)), jnp.int32),
    jnp.asarray(rng.integers(1, width + 1, batch), jnp.int32),
  )


def _new(generation):
  return [
    row[p : p + n].tolist()
    for row, p, n in zip(
      generation.tokens, generation.prompt_length, generation.num_tokens
    )
  ]


@pytest.mark.parametrize(
  ('rule', 'temperature', 'encoder_decoder', 'max_path', 'with_corpus'),
  [
    ('greedy', 0.0, False, 0, False),
    ('greedy', 0.0, True, 3, True),
    ('match', 0.8, True, 0, True),
    ('coupled', 0.8, False, 3, True),
  ],
)
def test_output_is_that_of_plain_decoding(
  rule, temperature, encoder_decoder, max_path, with_corpus
):
  target = fakes.markov_lm(VOCAB, encoder_decoder=encoder_decoder)
  params = fakes.markov_params(0, VOCAB)
  settings = build.Sampling(temperature=temperature, repetition_penalty=1.1)
  prompt, new = _prompt(5), 40
  controls = settings.controls(build.row_keys(0, range(5)), new, (3,))
  plain = build.compiled(build.recipe(target, warp=settings.warp_spec()), new)
  want = jax.device_get(plain(generate_lib.Params(params), prompt, controls))
  recipe = build.recipe(
    target,
    'suffix',
    num_draft=6,
    verify=rule,
    warp=settings.warp_spec(),
    min_promise=0.0,
    search=SearchConfig(tree=max_path, max_wait=2),
  )
  assert recipe.widths == ((0, 6) if max_path else (0, 2, 6))
  index = None
  if with_corpus:
    corpus = corpus_lib.add(corpus_lib.empty(300, 'x'), _new(want))
    index = corpus_lib.index(corpus)
  given = generate_lib.Params(params, index)
  got = jax.device_get(build.compiled(recipe, new)(given, prompt, controls))
  assert _new(got) == _new(want)
  assert got.num_rounds <= want.num_rounds
  if with_corpus:
    assert got.num_rounds < want.num_rounds


def test_a_loop_is_drafted_whole():
  target = fakes.markov_lm(VOCAB)
  params = fakes.markov_params(0, VOCAB)
  settings = build.Sampling()
  prompt = _prompt(1)
  controls = settings.controls(build.row_keys(0, [0]), 200)
  drafter = suffix(SuffixSpec(num_draft=8))
  got = _decode(
    target,
    generate_lib.Params(params),
    prompt,
    controls,
    settings,
    drafter,
    'greedy',
    200,
  )
  assert got.num_rounds < 60  # greedy decoding of a Markov chain loops


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
