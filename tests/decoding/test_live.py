"""Rows that have ended: they widen no block, start no search, ask no model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import hybrid_loop
from specjax.decoding.drafters import suffix_search
from specjax.decoding.drafters.hybrid_loop import HybridParams
from specjax.inference import assemble
from specjax.inference import decode_batch
from tests.helpers import fakes
from tests.helpers import own
from tests.helpers import recipes

NEW, SLOTS = 12, 3
# The row that begins here drafts nothing, the other whole blocks.
IDLE, BUSY = 8, 12
PROMPT = base.Prompt(jnp.array([[IDLE], [BUSY]]), jnp.array([1, 1]))
# Of the second row's own cycle, met in its first block.
LATER = BUSY + 2
SURE = own.language(strength=50.0)


def counting(lm, seen):
  """The target, which notes the draft slots of every block."""

  def extend(params, cache, tokens, tree=None, slots=None):
    width = tokens.shape[1] - 1
    jax.debug.callback(lambda: seen.append(width))
    return lm.extend(params, cache, tokens, tree, slots)

  return lm._replace(extend=extend)


def deaf(tree=False):
  """Drafts favourites from `BUSY` on, also for rows that have ended."""
  table = own.favourite()

  def propose(params, view):
    del params
    token, found = view.last_token, []
    for _ in range(SLOTS):
      token = jnp.asarray(table)[token]
      found.append(token)
    tokens = jnp.stack(found, axis=1)
    busy = view.last_token >= BUSY
    shape = functools.partial(
      jnp.broadcast_to, shape=(tokens.shape[0], SLOTS + 1)
    )
    made = None
    if tree:
      made = base.Tree(
        shape(jnp.array([0, 0, 0, 1], jnp.int32)),
        shape(jnp.array([0, 1, 1, 2], jnp.int32)),
      )
      tokens = tokens.at[:, 2].set(tokens[:, 1]).at[:, 1].set(7)
    return base.Draft(jnp.where(busy[:, None], tokens, base.EMPTY), tree=made)

  return specjax.drafters.custom(
    own.drafting(propose, SLOTS, 2 if tree else None),
    widths=(0,) if tree else (0, 2),
  )


def decode(seen, params=SURE, tree=False, eos=(), budgets=(NEW, NEW)):
  made = recipes.assembled(
    counting(fakes.markov_lm(own.VOCAB), seen), deaf(tree), num_draft=SLOTS
  )
  controls = Sampling().controls(row_keys(0, range(2)), budgets, eos)
  found = generate_lib.generate(
    made.recipe,
    generate_lib.Params(params),
    PROMPT,
    controls,
    max_new_tokens=NEW,
  )
  jax.effects_barrier()
  return jax.device_get(found)


def poisoned():
  """Parameters whose logits after `LATER` are not finite."""
  table = np.array(SURE['table'])
  table[:, LATER] = np.nan
  return {**SURE, 'table': jnp.asarray(table)}


@pytest.mark.parametrize('tree', [False, True])
@pytest.mark.parametrize(
  'ending, status',
  [
    (dict(eos=(LATER,)), generate_lib.EOS),
    (dict(budgets=(NEW, 2)), generate_lib.LENGTH),
    (dict(params=poisoned()), generate_lib.NAN),
  ],
  ids=['end token', 'budget', 'nan'],
)
def test_rounds_by_width(ending, status, tree):
  """The second row ends in the first round; from then on blocks are steps."""
  seen = []
  found = decode(seen, tree=tree, **ending)
  assert found.status.tolist() == [generate_lib.LENGTH, status]
  assert found.num_rounds == len(seen) == NEW
  assert seen == [SLOTS] + [0] * (NEW - 1)
  assert found.rounds.drafted[1].tolist() == [SLOTS] + [0] * (NEW - 1)
  assert found.rounds.drafted[0].sum() == 0
  assert found.num_tokens[0] == NEW


def test_a_row_that_has_not_ended_widens_every_block():
  """The control: nothing but the end of the row made the blocks narrow."""
  seen = []
  found = decode(seen)
  rounds = NEW // (SLOTS + 1)
  assert seen == [SLOTS] * rounds + [0] * (NEW - rounds)
  assert found.rounds.drafted[1, :rounds].tolist() == [SLOTS] * rounds
  # One that never drafts costs steps from the first round on.
  seen = []
  decode(seen, budgets=(NEW, 0))
  assert seen == [0] * NEW


def test_a_stop_string_ends_a_row_likewise():
  """It is looked for every few rounds; the row widens no block after that."""
  seen = []
  target = own.target()
  # Row 0 is plain; row 1 drafts one wrong token in every round.
  wrong = (own.favourite() + 1) % own.VOCAB

  def propose(params, view):
    tokens = jnp.asarray(wrong)[view.last_token][:, None]
    busy = view.last_token >= BUSY
    tokens = jnp.where(busy[:, None], tokens, base.EMPTY)
    return base.Draft(jnp.pad(tokens, ((0, 0), (0, 2)), constant_values=-1))

  drafter = specjax.drafters.custom(own.drafting(propose, SLOTS), widths=(0, 2))
  target = target._replace(lm=counting(target.lm, seen), params=SURE)
  stop = target.tokenizer.decode([LATER])
  settings = dict(max_new_tokens=3 * decode_batch.ROUNDS_BETWEEN_LOOKS)
  found = specjax.generate(
    target, [[IDLE], [BUSY]], drafter=drafter, stop=stop, **settings
  )
  jax.effects_barrier()
  assert [a.finish_reason for a in found] == ['length', 'stop']
  looked = decode_batch.ROUNDS_BETWEEN_LOOKS
  assert seen == [2] * looked + [0] * (2 * looked)


def test_a_drafter_sees_who_is_live():
  shown = []

  def propose(params, view):
    del params
    jax.debug.callback(lambda live: shown.append(live.tolist()), view.live)
    batch = view.last_token.shape[0]
    return base.Draft(jnp.full((batch, SLOTS), base.EMPTY, jnp.int32))

  made = recipes.assembled(
    fakes.markov_lm(own.VOCAB), own.drafting(propose, SLOTS), num_draft=SLOTS
  )
  controls = Sampling().controls(row_keys(0, range(2)), (4, 2))
  generate_lib.generate(
    made.recipe, generate_lib.Params(SURE), PROMPT, controls, max_new_tokens=4
  )
  jax.effects_barrier()
  assert shown == [[True, True]] * 2 + [[True, False]] * 2


# A text that never repeats, beside the cycle of the second row.
LONG, SPOT = 24, 40


def chain(step):
  """Tokens from `SPOT` on are followed by the one so many further."""
  after = own.favourite()
  after[SPOT:] = (np.arange(SPOT, own.VOCAB) + step) % own.VOCAB
  likes = 50.0 * np.eye(own.VOCAB, dtype=np.float32)[after]
  made = fakes.markov_params(0, own.VOCAB, 1.0)
  return {**made, 'table': made['table'] + likes}


def _forget():
  """No drafter of before, which would work uncounted."""
  hybrid_loop.hybrid_drafter.cache_clear()
  assemble._bound.cache_clear()


def _lengths(name, rows, budgets, monkeypatch):
  """Lengths of the first row at which there was work for the drafter."""
  worked = []
  lm = fakes.markov_lm(own.VOCAB)
  if name == 'suffix':
    source, given = 'suffix', recipes.suffix_params()
    search = suffix_search.search

    def searching(spec, index, source, context):
      jax.debug.callback(lambda n: worked.append(int(n)), context.length[0])
      return search(spec, index, source, context)

    monkeypatch.setattr(suffix_search, 'search', searching)
  else:
    # A model that is right about the second row alone, and no search.
    source = recipes.hybrid(lm._replace(select=None))
    given = HybridParams(
      chain(2),
      recipes.suffix_params(None, 1e9),
      jnp.float32(0.5),
      jnp.float32(0.5),
    )
    model = hybrid_loop.autoregressive

    def asking(*args):
      made = model(*args)

      def propose(params, state, view):
        length = view.context.length[0]
        jax.debug.callback(lambda n: worked.append(int(n)), length)
        return made.propose(params, state, view)

      return made._replace(propose=propose)

    monkeypatch.setattr(hybrid_loop, 'autoregressive', asking)
  _forget()
  made = recipes.assembled(
    lm, source, num_draft=SLOTS, drafters={'suffix': {'max_wait': 8}}
  )
  controls = Sampling().controls(row_keys(0, range(len(rows))), budgets)
  found = generate_lib.generate(
    made.recipe,
    generate_lib.Params(chain(1), given),
    base.Prompt(jnp.array(rows)[:, None], jnp.ones((len(rows),), jnp.int32)),
    controls,
    max_new_tokens=LONG,
  )
  jax.effects_barrier()
  monkeypatch.undo()
  _forget()
  assert found.num_rounds == LONG
  rounds = int((found.rounds.emitted[-1] > 0).sum())
  return sorted(worked), rounds


@pytest.mark.parametrize('name', ['suffix', 'hybrid'])
def test_ended_rows_give_a_drafter_no_work(name, monkeypatch):
  """Once the second row has ended, the first is drafted for as if alone."""
  alone, _ = _lengths(name, [SPOT], [LONG], monkeypatch)
  both, rounds = _lengths(name, [SPOT, IDLE], [LONG, 18], monkeypatch)
  # The first row emits a token a round, so its length counts rounds.
  assert 3 < rounds < LONG - 3
  for_both, for_one = ([n for n in x if n <= rounds] for x in (both, alone))
  assert set(for_one) < set(for_both)
  assert [n for n in both if n > rounds] == [n for n in alone if n > rounds]
