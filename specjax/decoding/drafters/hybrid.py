"""A draft model and suffix matching, whichever promises more.

For each row and round the choice looks at verified tokens only: the score of
the suffix draft against the running mean of what the model's drafts brought
this row, less what drafting with the model costs. If no row wants the model it
does not run, so its cache may lag behind; what it missed is fed in pieces
before it drafts again.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025 (hybrid rule).
    https://arxiv.org/abs/2411.04975
"""

import dataclasses
import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import control_flow
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import matching
from specjax.decoding.drafters.autoregressive import autoregressive
from specjax.decoding.drafters.suffix import learn
from specjax.decoding.drafters.suffix import search_due
from specjax.decoding.drafters.suffix import start
from specjax.decoding.drafters.suffix import suffix
from specjax.decoding.drafters.suffix import SuffixSpec
from specjax.decoding.drafters.suffix import SuffixState
from specjax.decoding.drafters.suffix import waits

_LONGEST = 1024  # rounds between two probes
_FED = 16  # missed tokens that are fed at a time
_GOOD = 0.85  # acceptance rate of a good model


@dataclasses.dataclass(frozen=True)
class HybridSpec:
  """Settings of `hybrid`; hashable.

  Attributes:
    suffix: settings of the search; its `num_draft` is K.
    num_draft: tokens the model drafts, at most K.
    draft_cost: what drafting them costs, in plain steps of the target.
    min_gain: the model drafts where it is expected to bring more accepted
      tokens than `draft_cost` and this: what verifying its block costs beyond
      a step, in steps. Where a full draft would not, it is never asked.
    prior: accepted tokens expected of the model's drafts at first, as a
      fraction of `num_draft`.
    memory: weight of the past in the running mean, in [0, 1).
    probe: a row whose model drafts do not pay tries again after this many
      rounds, then after four times as many, and so on: what the model has
      missed by then has to be fed, which costs.
  """

  suffix: SuffixSpec = SuffixSpec()
  num_draft: int = 4
  draft_cost: float = 0.0
  min_gain: float = 0.0
  prior: float = 0.6
  memory: float = 0.8
  probe: int = 64

  @property
  def can_pay(self) -> bool:
    """Whether the draft of a good model would bring more than it costs."""
    brings = sum(_GOOD**depth for depth in range(1, self.num_draft + 1))
    return brings - self.draft_cost > self.min_gain

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
    if self.draft_cost < 0 or self.min_gain < 0:
      raise ValueError(
        'draft_cost and min_gain of a hybrid must be at least 0, not '
        f'{self.draft_cost} and {self.min_gain}.'
      )


@struct.dataclass
class HybridParams:
  """Parameters: the draft model's, and a `corpus.Index` or None."""

  model: base.PyTree
  index: base.PyTree = None


@struct.dataclass
class HybridState:
  """State of `hybrid`.

  Attributes:
    cache: the draft model's.
    fed: int32 [B], leading tokens of the context that the cache holds rightly.
    suffix: `suffix.SuffixState`.
    expected: float32 [B], running mean of accepted tokens a model draft.
    idle: int32 [B], rounds since the model last drafted for the row.
    pause: int32 [B], rounds after which a model that does not pay is probed.
    by_model: bool [B], whether this round's draft is the model's, and
    by_suffix: bool [B], the search's. Neither: nothing is drafted.
  """

  cache: base.PyTree
  fed: base.Array
  suffix: SuffixState
  expected: base.Array
  idle: base.Array
  pause: base.Array
  by_model: base.Array
  by_suffix: base.Array


@functools.lru_cache(maxsize=None)
def hybrid(
  lm: base.CachedLM,
  spec: HybridSpec,
  style: drawing.Style,
  search_source: bool = False,
) -> base.Drafter:
  """Makes the drafter; its parameters are `HybridParams`.

  Args:
    lm: the draft model.
    spec: settings.
    style: how the model draws. Where it needs log-probabilities, a suffix
      draft is given as the point mass it is.
    search_source: whether the prompt is an encoder's source.

  Returns:
    `base.Drafter` with K = `spec.suffix.num_draft`.

  Raises:
    ValueError: on settings out of range.
  """
  spec.validate()
  if not spec.can_pay and not style.needs_log_probs:
    return _search_alone(spec, search_source)
  num_draft = spec.suffix.num_draft
  model = autoregressive(lm, spec.num_draft, style)

  def init(params, prompt, prefilled, *, capacity):
    cache = model.init(params.model, prompt, prefilled, capacity=capacity)
    batch = prompt.tokens.shape[0]
    no = jnp.zeros((batch,), bool)
    return HybridState(
      cache=cache,
      fed=cache.length,
      suffix=start(spec.suffix, prompt, search_source),
      expected=jnp.full((batch,), spec.prior * spec.num_draft, jnp.float32),
      idle=jnp.zeros((batch,), jnp.int32),
      pause=jnp.full((batch,), spec.probe, jnp.int32),
      by_model=no,
      by_suffix=no,
    )

  def ask_model(params, cache, fed, view):
    """The model's draft, after feeding what its cache has missed."""
    cache = _catch_up(lm, params.model, cache, fed, view.context)
    draft, cache = model.propose(params.model, cache, view)
    return cache, draft.tokens, draft.log_probs

  def asks(state):
    """bool [B]: rows whose drafts the model would make."""
    if not spec.can_pay:
      return jnp.zeros_like(state.by_model)
    gain = state.expected - spec.draft_cost
    return (gain > spec.min_gain) | (state.idle >= state.pause)

  def rests(state):
    return waits(state.suffix) & ~asks(state)

  def propose(params, state, view):
    context = view.context
    found = search_due(spec.suffix, params.index, state.suffix, view)
    gain = state.expected - spec.draft_cost
    by_suffix = (found.score > 0) & (found.score >= gain)
    running = ~matching.done(context, view.last_token)
    by_model = ~by_suffix & asks(state) & running
    wanted = jnp.any(by_model)

    def ask(carry):
      return ask_model(params, carry[0], state.fed, view)

    nothing = control_flow.blank(lambda cache: ask((cache,))[1:], state.cache)
    cache, tokens, log_probs = control_flow.run_if(
      wanted, ask, (state.cache, *nothing)
    )
    missing = num_draft - spec.num_draft
    tokens = jnp.pad(tokens, ((0, 0), (0, missing)), constant_values=base.EMPTY)
    tokens = jnp.where(by_model[:, None], tokens, found.tokens)
    neither = ~by_model & ~by_suffix
    tokens = jnp.where(neither[:, None], base.EMPTY, tokens)
    if style.needs_log_probs:
      log_probs = jnp.pad(
        log_probs,
        ((0, 0), (0, missing), (0, 0)),
        constant_values=-jnp.inf,
      )
      point = tokens[..., None] == jnp.arange(log_probs.shape[-1])
      log_probs = jnp.where(
        by_model[:, None, None], log_probs, jnp.where(point, 0.0, -jnp.inf)
      )
    drafted = jnp.sum(found.tokens != base.EMPTY, axis=1, dtype=jnp.int32)
    return base.Draft(tokens, log_probs), state.replace(
      cache=cache,
      fed=jnp.where(wanted, context.length, state.fed),
      suffix=state.suffix.replace(drafted=drafted),
      by_model=by_model,
      by_suffix=by_suffix,
    )

  def observe(params, state, observation):
    del params
    emitted = observation.num_tokens > 0
    accepted = observation.num_accepted
    told = state.by_model & emitted
    mean = spec.memory * state.expected + (1 - spec.memory) * accepted
    pays = mean - spec.draft_cost > spec.min_gain
    pause = jnp.where(pays, spec.probe, jnp.minimum(4 * state.pause, _LONGEST))
    # The accepted tokens of the model's own draft are in its cache, but for
    # the last of a full draft, which the next draft feeds again.
    own = jnp.maximum(observation.length - 2, state.fed)
    learned = learn(
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
      fed=jnp.where(told, own, state.fed),
      expected=jnp.where(told, mean, state.expected),
      pause=jnp.where(told, pause, state.pause),
      suffix=learned.replace(
        wait=kept[0],
        misses=kept[1],
        drafted=jnp.zeros_like(learned.drafted),
      ),
    )

  return base.Drafter(init, propose, observe, num_draft, num_draft, rests)


def _search_alone(spec, search_source):
  """The search without the model, whose drafts could not pay."""
  inner = suffix(spec.suffix, search_source=search_source)

  def init(params, *args, **kwargs):
    return inner.init(params.index, *args, **kwargs)

  def propose(params, *args):
    return inner.propose(params.index, *args)

  def observe(params, *args):
    return inner.observe(params.index, *args)

  return inner._replace(init=init, propose=propose, observe=observe)


def _catch_up(lm, params, cache, fed, context):
  """Feeds committed tokens until all but the last two are in the cache.

  Args:
    lm: the draft model.
    params: its parameters.
    cache: its cache.
    fed: int32 [B], tokens it holds rightly.
    context: what is committed, as long as the cache.
  """
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
