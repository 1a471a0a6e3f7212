"""The loop of `hybrid`: in each row and round the draft that promises more.

The score of the suffix draft stands against the running mean of what the
model's drafts brought this row, less what drafting with the model costs. Both
look at verified tokens only. If no row wants the model it does not run, so its
cache may lag behind; what it missed is fed in pieces before it drafts again.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025 (hybrid rule).
    https://arxiv.org/abs/2411.04975
"""

import dataclasses
import functools
from typing import NamedTuple

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import control_flow
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import suffix_search
from specjax.decoding.drafters.draft_model import autoregressive
from specjax.models.common import rows as rows_lib

_LONGEST = 1024  # rounds between two probes
_FED = 16  # missed tokens that are fed at a time


@dataclasses.dataclass(frozen=True)
class HybridSpec:
  """Static settings of `hybrid`; hashable. See `HybridOptions`.

  Attributes:
    suffix: settings of the search; its `num_draft` is K.
    num_draft: tokens the model drafts, at most K.
    prior, memory, probe: fields of `HybridOptions`.
  """

  suffix: suffix_search.SuffixSpec = suffix_search.SuffixSpec()
  num_draft: int = 4
  prior: float = 0.6
  memory: float = 0.8
  probe: int = 64

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.suffix.validate()
    if self.suffix.max_path:
      raise ValueError('A hybrid drafts chains; max_path must be 0.')
    if not 1 <= self.num_draft <= self.suffix.num_draft:
      raise ValueError(
        'num_draft of a hybrid must be at least 1 and at most the '
        f'{self.suffix.num_draft} slots of its suffix drafter, not '
        f'{self.num_draft}.'
      )
    if not 0 <= self.memory < 1 or self.probe < 1:
      raise ValueError(
        'A hybrid needs 0 <= memory < 1 and probe >= 1, not '
        f'{self.memory} and {self.probe}.'
      )


@struct.dataclass
class HybridParams:
  """Parameters of `hybrid`.

  Attributes:
    model: the draft model's.
    suffix: `SuffixParams` of the search.
    draft_cost: float32 [], what the model's draft costs, in target steps.
    min_gain: float32 []. The model drafts where it is expected to bring more
      accepted tokens than `draft_cost` and this: what verifying its block costs
      beyond a step, in steps. If even a draft that is accepted whole would
      bring no more, the model never runs.
  """

  model: base.PyTree
  suffix: suffix_search.SuffixParams = suffix_search.SuffixParams()
  draft_cost: base.PyTree = 0.0
  min_gain: base.PyTree = 0.0


@struct.dataclass
class HybridState:
  """State of `hybrid`.

  Attributes:
    cache: cache of the draft model.
    fed: int32 [B], leading tokens of the context that the cache holds rightly.
    suffix: `SuffixState` of the search.
    expected: float32 [B], running mean of accepted tokens a model draft.
    idle: int32 [B], rounds since the model last drafted for the row.
    pause: int32 [B], rounds after which a model that does not pay is probed.
    by_model: bool [B], whether this round's draft is the model's, and
    by_suffix: bool [B], the search's. Neither: nothing is drafted.
    draft_cost, min_gain: float32 [], of `HybridParams`.
  """

  cache: base.PyTree
  fed: base.Array
  suffix: suffix_search.SuffixState
  expected: base.Array
  idle: base.Array
  pause: base.Array
  by_model: base.Array
  by_suffix: base.Array
  draft_cost: base.Array
  min_gain: base.Array


class _Parts(NamedTuple):
  """The parts of the drafter; static.

  Attributes:
    lm: the draft model.
    model: its drafter.
    spec: settings.
    style: the model's way of drawing tokens.
    search_source: whether the prompt is an encoder's source.
  """

  lm: base.CachedLM
  model: base.Drafter
  spec: HybridSpec
  style: drawing.Style
  search_source: bool


@functools.cache
def hybrid_drafter(
  lm: base.CachedLM,
  spec: HybridSpec,
  style: drawing.Style,
  search_source: bool = False,
) -> base.Drafter:
  """Makes the drafter; its parameters are `HybridParams`.

  Args:
    lm: the draft model.
    spec: settings.
    style: the model's way of drawing tokens. Where it needs log-probabilities,
      a suffix draft is given as the point mass it is.
    search_source: whether the prompt is an encoder's source.

  Returns:
    `base.Drafter` with K = `spec.suffix.num_draft`.

  Raises:
    ValueError: on settings out of range.
  """
  spec.validate()
  model = autoregressive(lm, spec.num_draft, style)
  parts = _Parts(lm, model, spec, style, search_source)
  num_draft = spec.suffix.num_draft
  return base.Drafter(
    functools.partial(_init, parts),
    functools.partial(_propose, parts),
    functools.partial(_observe, parts),
    num_draft,
    num_draft,
    functools.partial(_is_idle, parts),
    functools.partial(_insert, lm) if lm.insert else None,
    network_cache=lambda state: state.cache,
  )


def _init(parts, params, prompt, prefilled, *, capacity):
  spec = parts.spec
  draft_cost, min_gain = (
    jnp.asarray(cost, jnp.float32)
    for cost in (params.draft_cost, params.min_gain)
  )

  def prefill(_):
    return parts.model.init(params.model, prompt, prefilled, capacity=capacity)

  cache = control_flow.run_if(
    spec.num_draft - draft_cost > min_gain,
    prefill,
    control_flow.blank(prefill, None),
  )
  batch = prompt.tokens.shape[0]
  no = jnp.zeros((batch,), bool)
  return HybridState(
    cache=cache,
    fed=cache.length,
    suffix=suffix_search.start(spec.suffix, prompt, parts.search_source),
    expected=jnp.full((batch,), spec.prior * spec.num_draft, jnp.float32),
    idle=jnp.zeros((batch,), jnp.int32),
    pause=jnp.full((batch,), spec.probe, jnp.int32),
    by_model=no,
    by_suffix=no,
    draft_cost=draft_cost,
    min_gain=min_gain,
  )


def _insert(lm, state, fresh, rows):
  """Replaces rows; costs belong to no row."""

  def own(state):
    return state.replace(cache=None, draft_cost=None, min_gain=None)

  return rows_lib.insert(own(state), own(fresh), rows).replace(
    cache=lm.insert(state.cache, fresh.cache, rows),
    draft_cost=fresh.draft_cost,
    min_gain=fresh.min_gain,
  )


def _asks(parts, state):
  """bool [B]: rows whose drafts the model would make."""
  # draft_cost 1, min_gain .5: asks where over 1.5 accepted tokens are expected.
  can_pay = parts.spec.num_draft - state.draft_cost > state.min_gain
  gain = state.expected - state.draft_cost
  return can_pay & ((gain > state.min_gain) | (state.idle >= state.pause))


def _is_idle(parts, state):
  return suffix_search.waits(state.suffix) & ~_asks(parts, state)


def _propose(parts, params, state, view):
  spec = parts.spec
  found = suffix_search.search_due(
    spec.suffix, params.suffix, state.suffix, view
  )
  gain = state.expected - state.draft_cost
  by_suffix = (found.score > 0) & (found.score >= gain)
  by_model = ~by_suffix & _asks(parts, state) & view.live
  wanted = jnp.any(by_model)

  def ask(carry):
    """The model's draft, after feeding what its cache has missed."""
    cache = _catch_up(parts.lm, params.model, carry[0], state.fed, view.context)
    draft, cache = parts.model.propose(params.model, cache, view)
    return cache, draft.tokens, draft.log_probs

  nothing = control_flow.blank(lambda cache: ask((cache,))[1:], state.cache)
  cache, tokens, log_probs = control_flow.run_if(
    wanted, ask, (state.cache, *nothing)
  )
  draft = _merged(parts, found, by_model, by_suffix, (tokens, log_probs))
  drafted = jnp.sum(found.tokens != base.EMPTY, axis=1, dtype=jnp.int32)
  return draft, state.replace(
    cache=cache,
    fed=jnp.where(wanted, view.context.length, state.fed),
    suffix=state.suffix.replace(drafted=drafted),
    by_model=by_model,
    by_suffix=by_suffix,
  )


def _merged(parts, found, by_model, by_suffix, drafted) -> base.Draft:
  """The draft of each row, the model's or the search's.

  Args:
    parts: parts of the drafter; static.
    found: result of the search.
    by_model: bool [B], rows that the model drafts for.
    by_suffix: bool [B], rows that the search drafts for.
    drafted: tokens [B, k] and log-probabilities of the model.
  """
  tokens, log_probs = drafted
  missing = parts.spec.suffix.num_draft - parts.spec.num_draft
  tokens = jnp.pad(tokens, ((0, 0), (0, missing)), constant_values=base.EMPTY)
  tokens = jnp.where(by_model[:, None], tokens, found.tokens)
  neither = ~by_model & ~by_suffix
  tokens = jnp.where(neither[:, None], base.EMPTY, tokens)
  if parts.style.needs_log_probs:
    log_probs = jnp.pad(
      log_probs, ((0, 0), (0, missing), (0, 0)), constant_values=-jnp.inf
    )
    point = tokens[..., None] == jnp.arange(log_probs.shape[-1])
    log_probs = jnp.where(
      by_model[:, None, None], log_probs, jnp.where(point, 0.0, -jnp.inf)
    )
  return base.Draft(tokens, log_probs)


def _observe(parts, params, state, observation):
  del params
  spec, accepted = parts.spec, observation.num_accepted
  asked = state.by_model & (observation.num_tokens > 0)
  mean = spec.memory * state.expected + (1 - spec.memory) * accepted
  pays = mean - state.draft_cost > state.min_gain
  pause = jnp.where(pays, spec.probe, jnp.minimum(4 * state.pause, _LONGEST))
  # The accepted tokens of the model's own draft are in its cache, but for
  # the last of a full draft, which the next draft feeds again.
  own = jnp.maximum(observation.length - 2, state.fed)
  learned = suffix_search.learn(
    spec.suffix, state.suffix, jnp.where(state.by_suffix, accepted, 0)
  )
  # A search whose draft was not used has proved nothing.
  unused = (state.suffix.drafted > 0) & ~state.by_suffix
  kept = jax.tree.map(
    lambda old, new: jnp.where(unused, old, new),
    (state.suffix.wait, state.suffix.misses),
    (learned.wait, learned.misses),
  )
  no = jnp.zeros_like(state.by_model)
  return state.replace(
    idle=jnp.where(state.by_model, 0, state.idle + 1),
    by_model=no,
    by_suffix=no,
    fed=jnp.where(asked, own, state.fed),
    expected=jnp.where(asked, mean, state.expected),
    pause=jnp.where(asked, pause, state.pause),
    suffix=learned.replace(
      wait=kept[0],
      misses=kept[1],
      drafted=jnp.zeros_like(learned.drafted),
    ),
  )


def _catch_up(lm, params, cache, fed, context):
  """Feeds committed tokens until all but the last two are in the cache.

  Args:
    lm: the draft model.
    params: its parameters.
    cache: its cache.
    fed: int32 [B], tokens it holds rightly.
    context: committed tokens and controls, as long as the cache.
  """
  # fed 10, length 40: goal 38, pieces [10, 26) and [26, 42), of which 38 stay
  goal = jnp.maximum(context.length - 2, 0)
  width = min(_FED, context.tokens.shape[1])

  def feed(carry):
    cache, fed = carry
    # A block must not reach over the end; what it feeds again stays the same.
    first = jnp.minimum(fed, context.tokens.shape[1] - width)
    first = jnp.minimum(first, goal)
    cache = lm.commit(cache, first - cache.length)
    tokens = drawing.window(context.tokens, first, width)
    last = jnp.zeros((tokens.shape[0], 1), jnp.int32)
    _, cache = lm.extend(params, cache, tokens, slots=last)
    fed = jnp.minimum(first + width, goal)
    return lm.commit(cache, fed - first), fed

  return lax.while_loop(
    lambda carry: jnp.any(carry[1] < goal), feed, (cache, fed)
  )[0]
