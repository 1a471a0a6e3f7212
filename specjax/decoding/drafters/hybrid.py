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
from typing import Any

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import control_flow
from specjax import validation
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import suffix as suffix_lib
from specjax.decoding.drafters.draft_model import autoregressive
from specjax.decoding.drafters.draft_model import check_fit
from specjax.decoding.drafters.suffix import learn
from specjax.decoding.drafters.suffix import search_due
from specjax.decoding.drafters.suffix import start
from specjax.decoding.drafters.suffix import SuffixParams
from specjax.decoding.drafters.suffix import SuffixSpec
from specjax.decoding.drafters.suffix import SuffixState
from specjax.decoding.drafters.suffix import waits

_LONGEST = 1024  # rounds between two probes
_FED = 16  # missed tokens that are fed at a time


@dataclasses.dataclass
class HybridOptions:
  """Options of `hybrid`.

  Attributes:
    suffix: how the text is searched; its trees are of no use here.
    model_draft: most tokens that the model drafts a round.
    prior: accepted tokens expected of the model's drafts at first, as a
      fraction of `model_draft`.
    memory: weight of the past in the running mean of accepted tokens, in
      [0, 1).
    probe: a row whose model drafts do not pay tries again after this many
      rounds, then after four times as many, and so on: what the model has
      missed by then has to be fed, which costs.
  """

  suffix: suffix_lib.SuffixOptions = dataclasses.field(
    default_factory=suffix_lib.SuffixOptions
  )
  model_draft: int = 4
  prior: float = 0.6
  memory: float = 0.8
  probe: int = 64

  def spec(self, num_draft: int) -> 'HybridSpec':
    """What is compiled in, for K draft slots."""
    return HybridSpec(
      self.suffix.spec(num_draft),
      min(self.model_draft, num_draft),
      self.prior,
      self.memory,
      self.probe,
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.suffix.validate()
    validation.at_least('hybrid.model_draft', self.model_draft, 1)
    self.spec(max(self.model_draft, self.suffix.tree, 1)).validate()


@dataclasses.dataclass(frozen=True)
class HybridSpec:
  """What `hybrid` is compiled with; hashable. See `HybridOptions`.

  Attributes:
    suffix: of the search; its `num_draft` is K.
    num_draft: tokens the model drafts, at most K.
    prior, memory, probe: as in `HybridOptions`.
  """

  suffix: SuffixSpec = SuffixSpec()
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
  suffix: SuffixParams = SuffixParams()
  draft_cost: base.PyTree = 0.0
  min_gain: base.PyTree = 0.0


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
    draft_cost, min_gain: float32 [], of `HybridParams`.
  """

  cache: base.PyTree
  fed: base.Array
  suffix: SuffixState
  expected: base.Array
  idle: base.Array
  pause: base.Array
  by_model: base.Array
  by_suffix: base.Array
  draft_cost: base.Array
  min_gain: base.Array


@functools.lru_cache(maxsize=None)
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
    style: how the model draws. Where it needs log-probabilities, a suffix
      draft is given as the point mass it is.
    search_source: whether the prompt is an encoder's source.

  Returns:
    `base.Drafter` with K = `spec.suffix.num_draft`.

  Raises:
    ValueError: on settings out of range.
  """
  spec.validate()
  num_draft = spec.suffix.num_draft
  model = autoregressive(lm, spec.num_draft, style)

  def init(params, prompt, prefilled, *, capacity):
    draft_cost, min_gain = (
      jnp.asarray(cost, jnp.float32)
      for cost in (params.draft_cost, params.min_gain)
    )

    def prefill(_):
      return model.init(params.model, prompt, prefilled, capacity=capacity)

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
      suffix=start(spec.suffix, prompt, search_source),
      expected=jnp.full((batch,), spec.prior * spec.num_draft, jnp.float32),
      idle=jnp.zeros((batch,), jnp.int32),
      pause=jnp.full((batch,), spec.probe, jnp.int32),
      by_model=no,
      by_suffix=no,
      draft_cost=draft_cost,
      min_gain=min_gain,
    )

  def ask_model(params, cache, fed, view):
    """The model's draft, after feeding what its cache has missed."""
    cache = _catch_up(lm, params.model, cache, fed, view.context)
    draft, cache = model.propose(params.model, cache, view)
    return cache, draft.tokens, draft.log_probs

  def asks(state):
    """bool [B]: rows whose drafts the model would make."""
    can_pay = spec.num_draft - state.draft_cost > state.min_gain
    gain = state.expected - state.draft_cost
    return can_pay & ((gain > state.min_gain) | (state.idle >= state.pause))

  def is_idle(state):
    return waits(state.suffix) & ~asks(state)

  def propose(params, state, view):
    context = view.context
    found = search_due(spec.suffix, params.suffix, state.suffix, view)
    gain = state.expected - state.draft_cost
    by_suffix = (found.score > 0) & (found.score >= gain)
    by_model = ~by_suffix & asks(state) & view.live
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
    asked = state.by_model & emitted
    mean = spec.memory * state.expected + (1 - spec.memory) * accepted
    pays = mean - state.draft_cost > state.min_gain
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
      fed=jnp.where(asked, own, state.fed),
      expected=jnp.where(asked, mean, state.expected),
      pause=jnp.where(asked, pause, state.pause),
      suffix=learned.replace(
        wait=kept[0],
        misses=kept[1],
        drafted=jnp.zeros_like(learned.drafted),
      ),
    )

  return base.Drafter(init, propose, observe, num_draft, num_draft, is_idle)


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


def _parse(text: str, resolve) -> tuple[Any, None]:
  if not text:
    raise ValueError(
      'A hybrid needs a draft model: hybrid:FOLDER, with the folder or hub '
      'id of one.'
    )
  inner = resolve(text)
  if inner.model is None or inner.model.lm is None:
    what = inner.name if inner.model is None else inner.entry.name
    raise ValueError(
      f'A hybrid needs a draft model that is a language model, but {text} '
      f'is a {what}; name it without hybrid:.'
    )
  return inner.model, None


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del rows
  inner = source.model.lm
  check_fit(target.lm, inner)
  spec = options.spec(num_draft)
  spec.validate()
  return entry.DraftPlan(
    num_draft,
    num_draft,
    has_log_probs=True,
    auto_verifier='coupled',
    widths=entry.chain_widths(spec.num_draft, num_draft),
    reads_corpus=True,
    max_positions=inner.max_positions,
    draft_slots=spec.num_draft,
    uses_costs=True,
    row_independent=False,
    static=(spec, target.lm.is_encoder_decoder),
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del config
  spec, search_source = plan.static
  return hybrid_drafter(lm, spec, style, search_source)


def _params(plan, target, source, data) -> HybridParams:
  del target
  spec = plan.static[0]
  search = data.options.suffix.min_expected_accepted
  return HybridParams(
    source.model.params,
    SuffixParams(data.index, suffix_lib.least(search, plan.num_draft, data)),
    jnp.float32(data.costs.draft),
    jnp.float32(data.costs.beyond_a_step(spec.num_draft)),
  )


ENTRY = entry.DrafterEntry(
  'hybrid',
  'a draft model or suffix, for each row and round whichever promises more',
  _plan,
  _bind,
  _params,
  options=HybridOptions,
  takes='DRAFT MODEL',
  parse=_parse,
  wraps=True,
  needs_training=True,
)


def hybrid(model: Any) -> entry.Source:
  """A draft model and `suffix`, as a drafter of `specjax.generate`.

  Args:
    model: the draft model, from `specjax.load`.
  """
  if model.lm is None:
    raise ValueError(
      'A hybrid needs a draft model that is a language model, but '
      f'{model.name} is a drafter network; give it without a hybrid.'
    )
  return entry.Source(ENTRY, f'hybrid:{model.name}', model)
