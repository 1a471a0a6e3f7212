"""A draft model and suffix matching, whichever promises more.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025 (hybrid rule).
    https://arxiv.org/abs/2411.04975
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import entry
from specjax.decoding.drafters import hybrid_loop
from specjax.decoding.drafters import suffix as suffix_lib
from specjax.decoding.drafters import suffix_search
from specjax.decoding.drafters import vocabulary
from specjax.decoding.drafters.draft_model import check_fit


@dataclasses.dataclass
class HybridOptions:
  """Options of `hybrid`.

  Attributes:
    suffix: options of the search, as in drafters.suffix; its trees do not occur
      here.
    model_draft: most tokens that the model drafts a round.
    prior: accepted tokens that are expected of the model's drafts at first, as
      a share of `model_draft`.
    memory: weight of the past in the running mean of accepted tokens, from 0 to
      below 1.
    probe: rounds until a row whose model drafts do not pay tries again; then
      four times as many, and so on, because what the model missed has to be fed
      to it.
  """

  suffix: suffix_lib.SuffixOptions = dataclasses.field(
    default_factory=suffix_lib.SuffixOptions
  )
  model_draft: int = 4
  prior: float = 0.6
  memory: float = 0.8
  probe: int = 64

  def spec(self, num_draft: int) -> hybrid_loop.HybridSpec:
    """The static settings for K draft slots."""
    return hybrid_loop.HybridSpec(
      self.suffix.spec(num_draft),
      # A block has K slots; what a model drafts beyond them would be lost.
      min(self.model_draft, num_draft),
      self.prior,
      self.memory,
      self.probe,
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.suffix.validate()
    validation.at_least('hybrid.model_draft', self.model_draft, 1)
    # K is not known yet. The least one that holds both drafts leaves the errors
    # to the fields themselves.
    self.spec(max(self.model_draft, self.suffix.tree, 1)).validate()


def _parse(text: str, resolve) -> tuple[Any, None]:
  if not text:
    raise ValueError(
      'A hybrid needs a draft model: hybrid:FOLDER, with the folder or hub '
      'id of one.'
    )
  inner = None if text.startswith('hybrid:') else resolve(text)
  if inner is None:
    raise ValueError(f'A hybrid needs a draft model, and {text} is none.')
  # A search has no model, and heads on a target's states have no language model
  # that could be fed what it missed.
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
  known = vocabulary.of(target, source.model)
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
    # Whether the search pays is decided for the batch.
    row_independent=False,
    rerouted=entry.weighing_as('coupled'),
    notes=known.notes(source.name),
    # A user who asks for more than K would otherwise believe in longer drafts
    # than there are.
    unread_options=(('model_draft', f'beyond num_draft={num_draft}'),)
    * (options.model_draft > num_draft),
    static=(spec, target.lm.is_encoder_decoder, known),
  )


def _bind(lm, config, plan, style) -> base.Drafter:
  del config
  spec, search_source, known = plan.static
  lm = vocabulary.fitted(lm, known)
  return hybrid_loop.hybrid_drafter(lm, spec, style, search_source)


def _params(plan, target, source, data) -> hybrid_loop.HybridParams:
  del target
  spec = plan.static[0]
  search = data.options.suffix.min_expected_accepted
  return hybrid_loop.HybridParams(
    source.model.params,
    suffix_search.SuffixParams(
      data.index, suffix_lib.least(search, plan.num_draft, data)
    ),
    jnp.float32(data.costs.draft),
    jnp.float32(data.costs.beyond_a_step(spec.num_draft)),
  )


ENTRY = entry.DrafterEntry(
  'hybrid',
  'a draft model or suffix, whichever promises more in a row and round',
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
