"""Named recipes: this file only assembles.

A user names a drafter and a verifier; what comes out is a `generate.Recipe`
whose drafter draws its tokens the way the verifier needs.
"""

import dataclasses
from typing import NamedTuple, Optional, Union

import jax

from specjax import base
from specjax import models
from specjax import validation
from specjax.decoding import drafters
from specjax.decoding import generate as generate_lib
from specjax.decoding import search as search_lib
from specjax.decoding import trees
from specjax.decoding import verifiers as verifiers_lib
from specjax.decoding import warp as warp_lib

# Drafters that need no training and no parameters.
FREE_DRAFTERS = ('prompt_lookup', 'suffix', 'token_recycling')
GREEDY_RULES = ('greedy', 'top_candidates')


class Hybrid(NamedTuple):
  """A draft model beside suffix matching, see `drafters.hybrid`.

  Attributes:
    lm: the draft model.
    num_draft: most tokens that it drafts a round.
    draft_cost: what drafting them costs, in plain steps of the target.
    block_cost: what verifying them costs beyond a step, in steps.
  """

  lm: base.CachedLM
  num_draft: int = 4
  draft_cost: float = 0.0
  block_cost: float = 0.25


class Attached(NamedTuple):
  """A drafter network that hangs on its target, see `drafters.parallel`.

  Attributes:
    config: of the network.
    target: the target, returning the states that the network reads.
  """

  config: models.ParallelConfig
  target: base.CachedLM


def choose_verifier(name: str, spec: warp_lib.WarpSpec, drafter) -> str:
  """Resolves 'auto' and refuses a rule that cannot do what is asked.

  Args:
    name: of a verifier, or 'auto': `greedy` where nothing is sampled, else
      `sampling` for a drafter with probabilities, `match` for one without, and
      `coupled`, which is good at either, for a `Hybrid`.
    spec: the warp's switches.
    drafter: as in `recipe`.

  Returns:
    The verifier's name.

  Raises:
    ValueError: if `greedy` is asked for with a temperature above 0.
  """
  if name == 'auto':
    if not spec.sampled:
      return 'greedy'
    if isinstance(drafter, Hybrid):
      return 'coupled'
    has_law = isinstance(drafter, (base.CachedLM, drafters.SlotSpec, Attached))
    return 'sampling' if has_law else 'match'
  if name in GREEDY_RULES and spec.sampled:
    raise ValueError(
      f'verify={name} is for temperature 0; with a temperature above 0 use '
      'sampling, block, coupled or match.'
    )
  if not spec.sampled and (verifiers_lib.make(name).exact or name == 'typical'):
    return 'greedy'  # at temperature 0 every exact rule is this one
  return name


def recipe(
  target: base.CachedLM,
  drafter: Union[
    None, str, base.CachedLM, Hybrid, drafters.SlotSpec, Attached
  ] = None,
  *,
  num_draft: int = 4,
  verify: str = 'auto',
  warp: warp_lib.WarpSpec = warp_lib.WarpSpec(),
  sampler: str = 'gumbel',
  min_promise: float = 0.5,
  search: Optional[search_lib.SearchConfig] = None,
  tree: str = '',
  only: tuple[int, ...] = (),
) -> generate_lib.Recipe:
  """Assembles what `generate` needs.

  Args:
    target: the model whose law the output has.
    drafter: None for plain decoding, a name of `FREE_DRAFTERS`, a draft model,
      a `Hybrid` of one, a `SlotSpec`, or a network `Attached` to the target.
    num_draft: K; 0 is plain decoding too.
    verify: a name of `verifiers.NAMES`, or 'auto'.
    warp: static switches; see `controls.Sampling.warp_spec`.
    sampler: of plain sampling, which `coupled` and `match` reproduce.
    min_promise: `suffix` and `Hybrid` draft by matching only where they expect
      this many accepted tokens: what a block of K costs beyond a step, in
      steps.
    search: settings of the drafters that search; None for the defaults.
    tree: of an `Attached` drafter's drafts, see `trees.parse`; '' for chains.
    only: the tokens that a network may draft; () for all.

  Returns:
    A hashable `generate.Recipe`.

  Raises:
    ValueError: for unknown names, and models that do not fit together.
  """
  validation.at_least('num_draft', num_draft, 0)
  name = choose_verifier(verify, warp, drafter)
  if drafter is None or num_draft == 0:
    return generate_lib.plain(target, warp, sampler)
  if tree and not isinstance(drafter, Attached):
    raise ValueError(
      'A tree is for parallel, medusa and eagle drafters; leave tree empty.'
    )
  topology = None
  if isinstance(drafter, Attached):
    target = drafter.target
    topology = _topology(drafter, num_draft, tree)
  search = search or search_lib.SearchConfig()
  max_path = _max_path(drafter, num_draft, search, topology)
  verifier = verifiers_lib.make(name, sampler=sampler, max_path=max_path)
  style = drafters.style_for(verifier, warp, sampler)._replace(only=only)
  made, widths = _drafter(
    target, drafter, num_draft, style, min_promise, search, topology, max_path
  )
  # Lenience judges rows of temperature 0 by their gaps, which one-hot hides.
  target_warp = dataclasses.replace(warp, one_hot=name != 'lenient')
  return generate_lib.Recipe(target, made, verifier, target_warp, widths)


def _drafter(
  target, drafter, num_draft, style, min_promise, search, topology, max_path
) -> tuple[base.Drafter, tuple[int, ...]]:
  """What `recipe` calls a drafter as one, and the widths of its drafts."""
  if isinstance(drafter, Attached):
    vocab_size = target.vocab_size
    return drafters.parallel(drafter.config, topology, vocab_size, style), ()
  if isinstance(drafter, base.CachedLM):
    _check_fit(target, drafter)
    return drafters.autoregressive(drafter, num_draft, style), ()
  if isinstance(drafter, drafters.SlotSpec):
    _check_slots(target, drafter)
    return drafters.slot_drafter(drafter, num_draft, style), ()
  if isinstance(drafter, Hybrid):
    _check_fit(target, drafter.lm)
    model_draft = min(drafter.num_draft, num_draft)
    spec = drafters.HybridSpec(
      search.suffix(num_draft, min_promise),
      model_draft,
      drafter.draft_cost,
      drafter.block_cost,
    )
    made = drafters.hybrid(drafter.lm, spec, style, target.is_encoder_decoder)
    return made, _widths(spec.num_draft if spec.can_pay else 2, num_draft)
  made = _free(target, drafter, num_draft, min_promise, search)
  # The nodes of a tree are verified all or none.
  return made, (0, num_draft) if max_path else _widths(2, num_draft)


def _topology(drafter: Attached, num_draft: int, tree: str) -> trees.Topology:
  """What a network that hangs on its target drafts."""
  if drafter.config.is_heads:
    num_draft = min(num_draft, drafter.config.num_draft)
  if not tree:
    return trees.chain(num_draft)
  return trees.parse(tree, num_draft, drafter.config.acceptance)


def _max_path(drafter, num_draft, search, topology) -> int:
  """Longest path of the trees that are drafted; 0 for chains."""
  if topology is not None:
    return 0 if topology.is_chain else topology.max_depth
  if not search.tree or drafter not in ('suffix', 'token_recycling'):
    return 0
  if search.tree > num_draft:
    raise ValueError(
      f'search.tree={search.tree} asks for paths longer than the '
      f'num_draft={num_draft} nodes of a tree.'
    )
  return search.tree


def _free(
  target: base.CachedLM,
  name: str,
  num_draft: int,
  min_promise: float,
  search: search_lib.SearchConfig,
) -> base.Drafter:
  """A drafter of `FREE_DRAFTERS`."""
  from_source = target.is_encoder_decoder
  if name == 'prompt_lookup':
    return drafters.prompt_lookup(
      num_draft=num_draft, search_source=from_source, **search.lookup()
    )
  if name == 'suffix':
    return drafters.suffix(
      search.suffix(num_draft, min_promise), search_source=from_source
    )
  if name == 'token_recycling':
    return drafters.token_recycling(
      vocab_size=target.vocab_size,
      num_draft=num_draft,
      from_prompt=not from_source,
      **search.recycling(),
    )
  raise ValueError(
    f'Unknown drafter {name!r}; use a draft model or one of {FREE_DRAFTERS}.'
  )


def _widths(middle: int, num_draft: int) -> tuple[int, ...]:
  """Widths to compile: none drafted, a short draft, a whole one."""
  return tuple(sorted({0, min(middle, num_draft), num_draft}))


def _check_fit(target: base.CachedLM, drafter: base.CachedLM) -> None:
  """Refuses a draft model that cannot follow the target."""
  kinds = {True: 'an encoder-decoder', False: 'decoder-only'}
  if target.is_encoder_decoder != drafter.is_encoder_decoder:
    raise ValueError(
      f'The drafter is {kinds[drafter.is_encoder_decoder]} but the target '
      f'is {kinds[target.is_encoder_decoder]}; both must be of one kind.'
    )
  if target.vocab_size != drafter.vocab_size:
    raise ValueError(
      f'The drafter scores {drafter.vocab_size} tokens but the target '
      f'{target.vocab_size}; make both with the same vocab_size.'
    )


def _check_slots(target: base.CachedLM, drafter: drafters.SlotSpec) -> None:
  """Refuses a network that drafts for another kind of target."""
  if not target.is_encoder_decoder:
    raise ValueError(
      f'A {drafter.config.model_type} drafts for encoder-decoders, but the '
      'target is decoder-only.'
    )
  if target.vocab_size != drafter.vocab_size:
    raise ValueError(
      f'The drafter scores {drafter.vocab_size} tokens but the target '
      f'{target.vocab_size}; train one for this target.'
    )


def compiled(
  recipe: generate_lib.Recipe,
  max_new_tokens: int,
  capacity: Optional[int] = None,
):
  """`generate` for one recipe as one compiled function.

  Args:
    recipe: static.
    max_new_tokens: static bound of every row's budget.
    capacity: static L, or None.

  Returns:
    A function `(params, prompt, controls) -> generate.Generation`. Asking
    twice for the same recipe returns the same compiled program.
  """

  def call(params, prompt, controls):
    return _jitted(
      recipe,
      params,
      prompt,
      controls,
      max_new_tokens=max_new_tokens,
      capacity=capacity,
    )

  return call


_jitted = jax.jit(
  generate_lib.generate,
  static_argnames=('recipe', 'max_new_tokens', 'capacity'),
)
