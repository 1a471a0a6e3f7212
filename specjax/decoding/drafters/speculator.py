"""Drafters that hang on a target: mask tokens, Medusa's heads, EAGLE.

With masks one pass drafts every slot. Its input is a window of the tokens that
were committed last, fed again as real tokens, and the masks behind them; a
window holds as many tokens as a round can commit. Keys and values of masks
stand at or behind the committed length, where the next window is written, so
none is ever read again.

References:
  Xiao et al. ParallelSpec. 2024. https://arxiv.org/abs/2410.05589
  Cai et al. Medusa. ICML 2024. https://arxiv.org/abs/2401.10774
  Li et al. EAGLE. ICML 2024. https://arxiv.org/abs/2401.15077
"""

import functools
from typing import Callable

from specjax import base
from specjax import models
from specjax.decoding import trees
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import eagle
from specjax.decoding.drafters import target_conditioned
from specjax.models.common.output_ids import spread


@functools.lru_cache(maxsize=None)
def parallel(
  config: models.ParallelConfig,
  topology: trees.Topology,
  vocab_size: int,
  style: drawing.Style,
) -> base.Drafter:
  """Drafts with a drafter network.

  Args:
    config: of the network; its bound parameters are the drafter's.
    topology: of the drafts; its depth is K.
    vocab_size: V of the target.
    style: how tokens are drawn.

  Returns:
    `base.Drafter`. Its target must return the states after the final norm
    (`hidden_layers=(-1,)`) if the network reads features.

  Raises:
    ValueError: the tree is no tree, or deeper than there are heads.
  """
  depth = trees.check(topology).max_depth
  net = models.make_net(config)
  if config.is_heads:
    if depth > config.num_draft:
      raise ValueError(
        f'The drafter has {config.num_draft} heads, but drafts of {depth} '
        'tokens are asked for.'
      )
    return _heads(net, topology, vocab_size, style)
  if config.masks:
    return _masked(net, topology, vocab_size, style)
  make = eagle.chain if topology.is_chain else eagle.tree
  return make(net, topology, vocab_size, style)


def _finish(net, topology, vocab_size, style) -> Callable[..., base.Draft]:
  """`(logits [B, K, V'], context) -> Draft`."""

  def finish(logits, context):
    logits = spread(logits, net.config.output_ids, vocab_size)
    if topology.is_chain:
      return drawing.chain(logits, context, style)
    return candidates.tree(logits, context, topology, style)

  return finish


def _heads(net, topology, vocab_size, style) -> base.Drafter:
  """Medusa's heads: all slots from the last known state, without a cache."""
  finish = _finish(net, topology, vocab_size, style)
  depth = topology.max_depth

  def init(params, prompt, prefilled, *, capacity):
    del params, capacity
    return target_conditioned.State(
      None,
      target_conditioned.first_features(net.config, prompt, prefilled, 1)[1],
    )

  def propose(params, state, view):
    logits = net.heads(params, state.features[:, -1])[:, :depth]
    return finish(logits, view.context), state

  return base.Drafter(
    init, propose, target_conditioned.observe, topology.num_nodes, depth
  )


def _masked(net, topology, vocab_size, style) -> base.Drafter:
  """One pass over the window and the masks behind it."""
  finish = _finish(net, topology, vocab_size, style)
  depth = topology.max_depth

  def propose(params, state, view):
    context = view.context
    logits, _, cache = target_conditioned.window_pass(
      net, params, state, context, depth + 1, depth
    )
    return finish(logits, context), state.replace(cache=cache)

  return base.Drafter(
    functools.partial(target_conditioned.init, net, depth + 1, 2 * depth),
    propose,
    target_conditioned.observe,
    topology.num_nodes,
    depth,
  )
