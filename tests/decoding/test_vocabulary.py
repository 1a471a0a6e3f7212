"""Drafters that know fewer or more tokens than their target."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import base
from specjax import models
from specjax.checkpoints import model as model_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import vocabulary
from specjax.decoding.drafters.draft_model import ENTRY as DRAFT_MODEL
from specjax.decoding.drafters.entry import Costs
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.hybrid import hybrid
from specjax.decoding.drafters.slots import draw
from specjax.decoding.drafters.slots import SlotSpec
from tests.helpers import fakes
from tests.helpers import laws
from tests.helpers import loops
from tests.helpers import recipes

COSTS = Costs(dict.fromkeys(range(9), 1.0))


def _cut(params, size):
  """Tables of the first `size` tokens; with more, some are made up."""
  table, source = np.asarray(params['table']), np.asarray(params['source'])
  missing = max(size - len(source), 0)
  body = np.pad(table[:-1], [(0, missing)] * 3)[:size, :size, :size]
  first = np.pad(table[-1], [(0, missing)] * 2)[:size, :size]
  source = np.pad(source, [(0, missing)] * 2)[:size, :size]
  return {
    'table': jnp.asarray(np.concatenate([body, first[None]])),
    'source': jnp.asarray(source),
  }


def _source(params, size):
  model = model_lib.Model.from_lm(fakes.markov_lm(size), params, pad_id=1)
  return Source(DRAFT_MODEL, 'draft', model)


def test_ids_that_only_one_of_both_knows():
  fewer = vocabulary.Known(5, 3, harmless=1)
  tokens = jnp.array([[0, 4, 2, 3]])
  assert fewer.fed(tokens).tolist() == [[0, 1, 2, 1]]
  logits = jnp.array([[1.0, 2.0, 3.0, 9.0]])  # the last one pads its table
  assert fewer.over_target(logits).tolist() == [[1, 2, 3, -np.inf, -np.inf]]
  more = vocabulary.Known(3, 5)
  assert more.fed(tokens) is tokens
  assert more.over_target(jnp.arange(5.0)[None]).tolist() == [[0, 1, 2]]
  lm = fakes.markov_lm(3)
  assert vocabulary.fitted(lm, vocabulary.Known(3, 3)) is lm


def _claiming(drafter):
  """The drafter, whose `log_probs` are wrong in rows of `bug` 1."""

  def propose(params, state, view):
    draft, state = drafter.propose(params, state, view)
    q = jnp.exp(draft.log_probs)
    # Mass on the one token that it cannot draft, as if it had a logit there.
    last = jnp.arange(laws.VOCAB) == laws.VOCAB - 1
    wrong = jnp.log(0.6 * q + 0.4 * last)
    bug = view.context.controls.rule['bug'][:, None, None] == 1
    log_probs = jnp.where(bug, wrong, draft.log_probs)
    return base.Draft(draft.tokens, log_probs), state

  return drafter._replace(propose=propose)


@pytest.mark.parametrize(
  'size, rule', [(laws.VOCAB - 1, 'sampling'), (laws.VOCAB + 1, 'block')]
)
def test_law(size, rule):
  draft = _cut(laws.DRAFT, size)
  recipe = recipes.recipe(
    fakes.markov_lm(laws.VOCAB),
    _source(draft, size),
    num_draft=laws.NUM_DRAFT,
    verify=rule,
    warp=laws.SPEC,
  )
  decode = laws.program(recipe._replace(drafter=_claiming(recipe.drafter)))
  tables = (laws.TARGET, draft)
  warps = laws.WARPS[:3] + laws.WARPS[-1:]
  assert laws.p_value(decode, tables=tables, warps=warps, bug=0) > laws.ALARM
  assert laws.p_value(decode, tables=tables, warps=warps, bug=1) < laws.ALARM


@pytest.mark.parametrize(
  'size, is_hybrid', [(7, False), (7, True), (13, False)]
)
def test_output_is_that_of_plain_decoding(size, is_hybrid):
  target = fakes.markov_params(0, loops.VOCAB)
  lm = fakes.markov_lm(loops.VOCAB)
  prompt = loops.prompt(6)
  settings, controls = loops.controls(6, temperature=[0.0] * 3 + [1.0] * 3)
  plain = loops.decode(lm, target, prompt, controls, settings)
  source = _source(_cut(target, size), size)
  source = hybrid(source.model) if is_hybrid else source
  told = contextlib.nullcontext()
  if size < loops.VOCAB:
    told = pytest.warns(UserWarning, match='from 7 on are never drafted')
  with told:
    made = recipes.assembled(
      lm, source, verify='coupled', warp=settings.warp_spec()
    )
  params = made.params(DraftData(costs=COSTS))
  decode = jax.jit(
    lambda params: generate_lib.generate(
      made.recipe, params, prompt, controls, max_new_tokens=loops.NEW
    ),
    compiler_options={'xla_backend_optimization_level': 0},
  )
  got = jax.device_get(decode(generate_lib.Params(target, params.drafter)))
  assert loops.new_tokens(got) == loops.new_tokens(plain)
  assert np.any(np.asarray(prompt.tokens) >= 7)
  accepted = got.rounds.accepted.sum() / got.num_tokens.sum()
  assert accepted > (0.6 if size > loops.VOCAB else 0.1)


def test_slots_have_no_mass_on_what_the_network_does_not_know():
  config = models.SpecDrafterConfig(11, 16, 8, 32, 1, 2, 2, block=5, window=6)
  spec = SlotSpec(config, vocabulary.Known(12, 9))
  style = drawing.Style('argmax', True, warp_lib.WarpSpec())
  # The best ids are two that pad its table.
  logits = jnp.arange(1.0, 12.0)[None, None]
  _, controls = loops.controls(1)
  one = jnp.ones(1, jnp.int32)
  context = base.Context(jnp.zeros((1, 9), jnp.int32), one, one, controls)
  draft = draw(spec, logits, jnp.ones((1, 1), bool), context, style)
  q = np.exp(draft.log_probs[0, 0])
  assert q.shape == (12,) and draft.tokens.tolist() == [[8]]
  assert q[9:].tolist() == [0, 0, 0] and q.sum() == pytest.approx(1)
