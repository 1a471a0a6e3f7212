"""EAGLE's trees: every node is drafted as if its path were the whole draft."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax.decoding import trees
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import eagle
from specjax.decoding.drafters.drawing import Style
from tests.helpers import speculators
from tests.helpers import verdicts

CONFIG = dataclasses.replace(speculators.EAGLE, masks=False)
STYLE = Style('argmax', True, warp_lib.WarpSpec())
TEXTS = ('0 1 00 10 11 000 110', '0 1 10 11 110')


def test_nodes_see_their_paths_alone():
  net = models.make_net(CONFIG)
  whole, part = (trees.parse(text, 3) for text in TEXTS)
  args = speculators.VOCAB, STYLE
  drafters = [
    eagle.tree(net, whole, *args),
    eagle.tree(net, part, *args),
    eagle.chain(net, trees.chain(3), *args),
  ]
  rows = speculators.rows(CONFIG, ['1' * 12] * 3)

  @jax.jit
  def run(params, rows):
    length = jnp.asarray([1, 4, 8])
    prompt = base.Prompt(rows.tokens, length)
    prefilled = base.Prefilled(None, rows.tokens[:, 0], (rows.known,))
    context = verdicts.context(3, length=[1, 4, 8])
    context = context.replace(tokens=rows.tokens)
    view = base.View(context, rows.tokens[:, 0], None, None)
    drafts = []
    for drafter in drafters:
      state = drafter.init(params, prompt, prefilled, capacity=16)
      draft, state = drafter.propose(params, state, view)
      # Rows of drafted tokens are written over: drafting again is the same.
      drafts.append((draft, drafter.propose(params, state, view)[0]))
    return drafts

  made = run(speculators.params(CONFIG), rows)
  for draft, again in made:
    np.testing.assert_array_equal(draft.tokens, again.tokens)
    np.testing.assert_allclose(draft.log_probs, again.log_probs, atol=1e-5)
  (first, _), (second, _), (chain, _) = made
  nodes = [
    {name: slot - 1 for slot, name in enumerate(_names(topology))}
    for topology in (whole, part)
  ]
  for depth, name in enumerate(('0', '00', '000')):
    place = nodes[0][name]
    np.testing.assert_array_equal(
      first.tokens[:, place], chain.tokens[:, depth]
    )
    np.testing.assert_allclose(
      first.log_probs[:, place], chain.log_probs[:, depth], atol=1e-5
    )
  for name in ('1', '10', '11', '110'):
    one, other = nodes[0][name], nodes[1][name]
    np.testing.assert_array_equal(first.tokens[:, one], second.tokens[:, other])
    np.testing.assert_allclose(
      first.log_probs[:, one], second.log_probs[:, other], atol=1e-5
    )
  # Siblings are the best two of what their parent offers.
  best = np.argsort(-np.asarray(first.log_probs[:, nodes[0]['1']]))[:, :2]
  siblings = [nodes[0]['0'], nodes[0]['1']]
  np.testing.assert_array_equal(np.asarray(first.tokens)[:, siblings], best)


def _names(topology):
  """The path of every slot."""
  names = ['']
  for parent, rank in zip(topology.parent[1:], topology.rank[1:], strict=True):
    names.append(names[parent] + str(rank))
  return names
