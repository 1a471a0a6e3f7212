"""Every rule, kind of draft, amount of drafting and drafter, in pairs.

A cell is a rule, chains or trees, and a drafter. One compiled program of it
runs without a draft, with a part of one and with all that the drafter offers.
Its output is that of plain decoding in rows of temperature 0, and in all rows
where the rule keeps the target's own sample.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax.checkpoints import model as model_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import trees
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters.custom import custom
from specjax.decoding.drafters.entry import Costs
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.hybrid import hybrid
from specjax.decoding.drafters.suffix import SuffixOptions
from specjax.decoding.verifiers import registry
from tests.helpers import fakes
from tests.helpers import loops
from tests.helpers import recipes

VOCAB, NEW, NUM_DRAFT, PATH = 6, 10, 3, 2
TARGET = fakes.markov_params(0, VOCAB)
DRAFT = jax.tree.map(
  lambda p, q: p + 0.3 * q, TARGET, fakes.markov_params(5, VOCAB)
)
# Periods of one to three tokens, so that searches find something at once.
PROMPT = base.Prompt(
  jnp.tile(jnp.array([[1, 2, 3, 1, 2, 3, 1, 2], [4, 5] * 4, [2] * 8]), (2, 1)),
  jnp.array([8, 7, 6, 8, 7, 6]),
)
GREEDY = Sampling(temperature=(0.0,) * 6)
SAMPLED = Sampling(temperature=(0.0,) * 3 + (1.0,) * 3)
COSTS = Costs(dict.fromkeys(range(NUM_DRAFT + 1), 1.0))
# Programs that run three times: compiling them well costs more than that.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def _drawn(num_draft, style):
  """A tree of draws from the law of one token, with log_probs."""
  topology = trees.parse('0 1 00', num_draft)

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    del params
    rows = TARGET['table'][VOCAB, view.last_token]
    rows = jnp.stack([rows] * PATH, axis=1)
    return candidates.tree(rows, view.context, topology, style), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, num_draft, PATH)


LM = fakes.markov_lm(VOCAB)
MODEL = model_lib.Model.from_lm(LM, DRAFT)
SEARCH = dict(min_expected_accepted=0.0, max_wait=0, max_depth=4, max_matches=2)
HYBRID = dict(suffix=SuffixOptions(**SEARCH), model_draft=NUM_DRAFT)
# name: (drafter, its options).
CHAINS = {
  'draft_model': (MODEL, {}),
  'prompt_lookup': ('prompt_lookup', {'max_ngram': 2}),
  'suffix': ('suffix', SEARCH),
  'token_recycling': ('token_recycling', {'successors': 2}),
  'hybrid': (hybrid(MODEL), HYBRID),
  'unigram': ('unigram', {}),
  'bigram': ('bigram', {}),
}
TREES = {
  'suffix': ('suffix', SEARCH | {'tree': PATH}),
  'token_recycling': ('token_recycling', {'tree': PATH, 'successors': 2}),
  'custom': (
    custom(
      _drawn, max_path=PATH, is_tree=True, has_log_probs=True, widths=(0,)
    ),
    {},
  ),
}
RULES = registry.entries()
LEVELS = (0, 1, NUM_DRAFT)  # tokens kept of each draft


def _cells():
  """(rule, drafters of its form, drafter); the covering ones by default."""
  for form, able in ((CHAINS, 'chains'), (TREES, 'trees')):
    rules = [rule for rule in RULES if getattr(rule, able)]
    names = itertools.cycle(form)
    # As many cells as rules meet every rule and, in turn, every drafter.
    covering = {(rule.name, next(names)) for rule in rules}
    for rule, name in itertools.product(rules, form):
      by_hand = (rule.name, name) not in covering
      marks = [pytest.mark.exhaustive] if by_hand else []
      label = f'{rule.name}-{able}-{name}'
      yield pytest.param(rule, form[name], marks=marks, id=label)


def _keeping(drafter):
  """The drafter, of whose slots the first so many are kept in each row."""

  def propose(params, state, view):
    draft, state = drafter.propose(params, state, view)
    keep = view.context.controls.rule['keep'][:, None]
    # keep 1: [a b c] becomes [a EMPTY EMPTY].
    there = jnp.arange(draft.tokens.shape[1]) < keep
    log_probs = draft.log_probs
    if log_probs is not None:
      log_probs = jnp.where(there[..., None], log_probs, -jnp.inf)
    tokens = jnp.where(there, draft.tokens, base.EMPTY)
    return base.Draft(tokens, log_probs, draft.tree), state

  return drafter._replace(propose=propose)


@functools.cache
def _plain(is_greedy):
  """New tokens of plain decoding."""
  settings = GREEDY if is_greedy else SAMPLED
  controls = settings.controls(row_keys(0, range(6)), NEW, (0,))
  recipe = recipes.recipe(LM, warp=settings.warp_spec())
  decode = quick_jit(
    functools.partial(generate_lib.generate, recipe, max_new_tokens=NEW)
  )
  made = decode(generate_lib.Params(TARGET), PROMPT, controls)
  return loops.new_tokens(jax.device_get(made))


@pytest.mark.parametrize('rule, drafter', list(_cells()))
def test_output_is_that_of_plain_decoding(rule, drafter):
  source, options = drafter
  source = recipes.source_of(source)
  settings = GREEDY if rule.requires_zero_temperature else SAMPLED
  # Under another name no plan exchanges the rule.
  rule = rule._replace(name=f'own_{rule.name}')
  made = recipes.assembled(
    LM,
    source,
    num_draft=NUM_DRAFT,
    verify=rule,
    warp=settings.warp_spec(),
    drafters={source.entry.name: options},
  )
  assert made.rule.make is rule.make
  params = made.params(DraftData(rows=PROMPT.tokens.tolist(), costs=COSTS))
  recipe = made.recipe._replace(drafter=_keeping(made.recipe.drafter))
  decode = quick_jit(
    functools.partial(generate_lib.generate, recipe, max_new_tokens=NEW)
  )
  plain = _plain(rule.requires_zero_temperature)
  sampled = np.asarray(settings.temperature) > 0
  for keep in LEVELS:
    dials = made.dials() | {'keep': np.full(6, keep, np.int32)}
    controls = settings.controls(row_keys(0, range(6)), NEW, (0,), dials)
    got = jax.device_get(
      decode(generate_lib.Params(TARGET, params.drafter), PROMPT, controls)
    )
    # A tree of so many nodes need not be offered whole.
    assert min(keep, PATH) <= np.max(got.rounds.drafted) <= keep
    assert not np.any(got.faults)
    assert np.isin(got.status, (generate_lib.EOS, generate_lib.LENGTH)).all()
    for row, tokens in enumerate(loops.new_tokens(got)):
      if rule.keeps_target_sample or not sampled[row]:
        assert tokens == plain[row], (keep, row)
