"""Drafters on a target's hidden states: masks, Medusa's heads, EAGLE.

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

from collections.abc import Callable
import dataclasses
import functools

from specjax import base
from specjax import models
from specjax.decoding import prefill
from specjax.decoding import trees
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import eagle
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import target_conditioned
from specjax.decoding.drafters import vocabulary
from specjax.models import registry as families
from specjax.models.common.output_ids import spread
from specjax.models.speculator import modeling


@dataclasses.dataclass
class SpeculatorOptions:
  """Options of parallel, medusa and eagle drafters.

  Attributes:
    tree: shape of the drafts: medusa, eagle, grown:N (the N nodes of the
      highest acceptance), or paths of nodes such as '0 1 00'; '' drafts chains.
  """

  tree: str = ''

  def validate(self) -> None:
    """Raises ValueError unless the tree is text; `plan` parses it."""
    if not isinstance(self.tree, str):
      raise ValueError(f'speculator.tree must be text, not {self.tree!r}.')


@functools.cache
def speculator(
  config: models.ParallelConfig,
  topology: trees.Topology,
  ids: vocabulary.Known,
  style: drawing.Style,
  chunk: int = prefill.CHUNK,
) -> base.Drafter:
  """Drafts with a drafter network.

  Args:
    config: config of the network; its bound parameters are the drafter's.
    topology: tree of the drafts; its depth is K.
    ids: those that the target and the network know.
    style: way of drawing tokens.
    chunk: widest piece of a prompt that it reads at once.

  Returns:
    `base.Drafter`. Its target must return the states after the final norm
    (`hidden_layers=(-1,)`) if the network reads features.

  Raises:
    ValueError: the tree is no tree, or deeper than there are heads.
  """
  depth = trees.check(topology).max_depth
  net, vocab_size = _fitted(models.make_net(config), ids), ids.target
  if config.is_heads:
    if depth > config.num_draft:
      raise ValueError(
        f'The drafter has {config.num_draft} heads, but drafts of {depth} '
        'tokens are asked for.'
      )
    # No cache: heads read one state and nothing else.
    return _heads(net, topology, vocab_size, style)
  net = target_conditioned.in_pieces(net, chunk)
  if config.masks:
    return _masked(net, topology, vocab_size, style)
  make = eagle.chain if topology.is_chain else eagle.tree
  return make(net, topology, vocab_size, style)


def _fitted(net: models.DraftNet, ids: vocabulary.Known) -> models.DraftNet:
  """The network, fed with what it knows and scoring no other id."""
  if ids.is_same:
    return net

  def prefill(params, tokens, *args, **rest):
    return net.prefill(params, ids.fed(tokens), *args, **rest)

  def extend(params, cache, tokens, *args, **rest):
    logits, *others = net.extend(params, cache, ids.fed(tokens), *args, **rest)
    if not net.config.output_ids:
      logits = logits[..., : ids.drafter]
    return logits, *others

  return net._replace(prefill=prefill, extend=extend)


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
    init,
    propose,
    target_conditioned.observe,
    topology.num_nodes,
    depth,
    insert=target_conditioned.insert,
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
    insert=target_conditioned.insert,
    network_cache=target_conditioned.cache_of,
  )


def _check_target(target, source) -> None:
  """Refuses a network that was made for another target."""
  config, lm = source.model.config, target.lm
  # A network with tables of its own beside a decoder-only target reads tokens
  # alone, so any such target serves.
  reads_target = config.is_shared or lm.is_encoder_decoder
  if target.config is None and reads_target:
    raise ValueError(
      f'The drafter {source.name} reads the states of the network that it was '
      f'trained for, and {target.name} is a target of functions alone.'
    )
  modeling.check_tables(config.kind, target.params, target.name)
  kinds = {True: 'an encoder-decoder', False: 'a decoder-only model'}
  wanted = config.encoder_width > 0
  fits = lm.is_encoder_decoder == wanted
  if reads_target:
    mine = families.facts(target.config)
    fits &= mine.width == config.target_width
    fits &= mine.layers == config.target_layers
    # A table of its own may be longer or shorter.
    fits &= not config.is_shared or mine.vocab_size == config.vocab_size
  if not fits:
    raise ValueError(
      f'The drafter {source.name} was trained for another target: '
      f'{kinds[wanted]} of width {config.target_width}, '
      f'{config.target_layers} layers and {config.vocab_size} tokens.'
    )


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del rows
  _check_target(target, source)
  config = source.model.config
  known = vocabulary.of(target, source.model)
  if config.is_shared:
    # Its tables are the target's.
    known = known._replace(drafter=known.target)
  notes, one_pass = (), config.masks or config.is_heads
  if num_draft > config.num_draft and one_pass:
    what = 'are not drafted' if config.is_heads else 'will hardly be accepted'
    notes = (
      f'The drafter {source.name} was trained for {config.num_draft} slots, '
      f'but num_draft is {num_draft}: those beyond {what}.',
    )
  if config.is_heads:
    # A head that was never made has no logits, unlike a mask, which can be
    # reused.
    num_draft = min(num_draft, config.num_draft)
  topology = trees.chain(num_draft)
  if options.tree:
    topology = trees.parse(options.tree, num_draft, config.acceptance)
  return entry.DraftPlan(
    topology.num_nodes,
    topology.max_depth,
    is_tree=not topology.is_chain,
    has_log_probs=True,
    one_pass=one_pass,
    target_hidden_layers=(-1,) * (config.is_heads or config.feature != 'none'),
    notes=notes + known.notes(source.name),
    static=(topology, known, target.prefill_chunk),
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del lm
  topology, known, chunk = plan.static
  return speculator(config, topology, known, style, chunk)


def _params(plan, target, source, data) -> base.PyTree:
  del plan, data
  model = source.model
  # The tables are the target's own arrays, not copies: they cost no memory.
  return modeling.bind(model.config, model.params, target.params)


ENTRY = entry.DrafterEntry(
  'speculator',
  "heads, a layer or masks on the target's states (Medusa, EAGLE, "
  'ParallelSpec)',
  _plan,
  _bind,
  _params,
  options=SpeculatorOptions,
  families=('speculator',),
  needs_training=True,
)
