"""The successor table against lists, the static tree, and the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.token_recycling import learn
from specjax.decoding.drafters.token_recycling import template
from specjax.decoding.drafters.token_recycling import token_recycling
from specjax.inference import assemble
from tests.helpers import fakes
from tests.helpers import recipes

VOCAB = 11


def test_table_holds_the_latest_distinct_successors():
  rng = np.random.default_rng(0)
  width, batch = 3, 4
  table = jnp.full((VOCAB, width), base.EMPTY, jnp.int32)
  lists = [[] for _ in range(VOCAB)]
  update = jax.jit(learn)
  for _ in range(30):
    # Rows of one call must not meet, or their order would matter.
    before = rng.permutation(VOCAB)[:batch]
    tokens = rng.integers(0, VOCAB, (batch, 1))
    count = rng.integers(0, 2, batch)
    for b, token, n in zip(before, tokens[:, 0], count, strict=True):
      if n:
        lists[b] = ([token] + [t for t in lists[b] if t != token])[:width]
    table = update(
      table, jnp.asarray(before), jnp.asarray(tokens), jnp.asarray(count)
    )
  want = [row + [base.EMPTY] * (width - len(row)) for row in lists]
  assert table.tolist() == want


def test_table_learns_a_row_in_order():
  table = jnp.full((9, 2), base.EMPTY, jnp.int32)
  tokens = jnp.asarray([[2, 1, 3, 1, 2, 8]])
  table = learn(table, jnp.asarray([1]), tokens, jnp.asarray([5]))
  assert table[1].tolist() == [2, 3]
  assert table[2].tolist() == [1, base.EMPTY]
  assert table[3].tolist() == [1, base.EMPTY]
  assert table[8].tolist() == [base.EMPTY] * 2


@pytest.mark.parametrize(
  'width, want',
  [
    (3, [[1, -1, -1], [0, 3, 2], [-1, -1, -1], [1, -1, -1]]),
    # A row may know token 0 alone.
    (1, [[1], [0], [-1], [1]]),
  ],
)
def test_prompts_of_further_rows_go_into_the_one_table(width, want):
  made = token_recycling(vocab_size=4, num_draft=2, num_successors=width)

  def begun(*tokens):
    prompt = base.Prompt(jnp.asarray([tokens]), jnp.asarray([len(tokens)]))
    prefilled = base.Prefilled(None, jnp.asarray(tokens[-1:]))
    return made.init(None, prompt, prefilled, capacity=9)

  # No row has run yet in a state of zeros.
  state = jax.tree.map(jnp.zeros_like, begun(1, 2))
  for prompt in ((1, 0, 1, 2), (1, 3, 1, 0), (2,)):
    state = made.insert(state, begun(*prompt), jnp.asarray([0]))
  assert state[0].tolist() == want
  assert state[1].tolist() == [2]


def test_template_is_a_breadth_first_tree_of_the_best_nodes():
  topology = template(10, 3, 4, 0.4)
  parent, rank, depth = (list(column[1:]) for column in topology)
  assert parent[0] == 0 and rank[0] == 0 and depth == sorted(depth)
  value, places = [1.0], set()
  for slot, (above, r) in enumerate(zip(parent, rank, strict=True), 1):
    assert above < slot and r < 3 and depth[slot - 1] <= 4
    value.append(value[above] * 0.6 * 0.4**r)
    places.add((above, r))
  assert len(places) == 10
  # No place left out is worth more than one taken.
  left = [
    value[above] * 0.6 * 0.4**r
    for above in range(11)
    for r in range(3)
    if (above, r) not in places and (above == 0 or depth[above - 1] < 4)
  ]
  assert max(left) <= min(value[1:]) + 1e-9
  with pytest.raises(ValueError, match='has 3 nodes'):
    template(5, 3, 1, 0.4)


@pytest.mark.parametrize(
  ('rule', 'temperature', 'max_path'), [('greedy', 0.0, 3), ('match', 0.5, 0)]
)
def test_output_is_that_of_plain_decoding(rule, temperature, max_path):
  target = fakes.markov_lm(VOCAB)
  params = generate_lib.Params(fakes.markov_params(0, VOCAB))
  rng = np.random.default_rng(0)
  prompt = base.Prompt(
    jnp.asarray(rng.integers(0, VOCAB, (4, 6)), jnp.int32),
    jnp.asarray([6, 1, 4, 3], jnp.int32),
  )
  settings = Sampling(temperature=temperature)
  controls = settings.controls(row_keys(0, range(4)), 40, (3,))
  warp = settings.warp_spec()
  want = assemble.compiled(recipes.recipe(target, warp=warp), 40)(
    params, prompt, controls
  )
  drafter = token_recycling(
    vocab_size=VOCAB, num_draft=6, num_successors=3, max_path=max_path
  )
  recipe = recipes.of(
    target, drafter, recipes.rule(rule, max_path=max_path), warp
  )
  got = assemble.compiled(recipe, 40)(params, prompt, controls)
  width = want.tokens.shape[1]  # nothing but padding behind
  np.testing.assert_array_equal(got.tokens[:, :width], want.tokens)
  assert got.num_rounds < want.num_rounds


@pytest.mark.parametrize(
  'knobs', [dict(num_draft=0), dict(max_path=9), dict(num_successors=0)]
)
def test_bad_settings_are_named(knobs):
  settings = dict(vocab_size=5, num_draft=4) | knobs
  with pytest.raises(ValueError, match=next(iter(knobs))):
    token_recycling(**settings)
