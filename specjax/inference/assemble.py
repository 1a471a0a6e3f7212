"""The one place where recipes are made.

Every command and the trainer assemble here, so that what is measured runs.

The order matters. The drafter's plan states whether it has probabilities and
how long its paths are. Both select the verification rule. The rule fixes how
tokens are drawn, and only then is the drafter bound.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple
import warnings

import jax

from specjax import base
from specjax import options as options_lib
from specjax import validation
from specjax.checkpoints import model as model_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import guard
from specjax.decoding import precision
from specjax.decoding import prefill
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import entry as entry_lib
from specjax.decoding.drafters import nothing
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import DraftPlan
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.entry import Target
from specjax.decoding.recipe import Recipe
from specjax.decoding.sampling import SAMPLERS
from specjax.decoding.verifiers import choice
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.inference import target_lm

NONE = Source(nothing.ENTRY, 'none')
_SAME_LAW = ', so that no token depends on other rows; the law is the same'


class Settings(NamedTuple):
  """The settings of a recipe beside target and drafter.

  Attributes:
    num_draft: K; 0 is plain decoding.
    verifier: argument of `verifiers.registry.resolve`.
    drafters, verifiers: options by name, see `options.of`.
    warp: static switches of the warp.
    sampler: sampler of plain sampling, which `coupled` and `match` reproduce.
    allowed_tokens: ids that a network may draft; () for all.
    matmul_precision, logprobs: as in `Recipe`.
    prefill_chunk: widest piece of a prompt that is read at once, in tokens.
  """

  num_draft: int = 4
  verifier: Any = verifier_registry.AUTO
  drafters: Any = None
  verifiers: Any = None
  warp: warp_lib.WarpSpec = warp_lib.WarpSpec()
  sampler: str = 'gumbel'
  allowed_tokens: tuple[int, ...] = ()
  matmul_precision: str = precision.HIGHEST
  logprobs: int | None = None
  prefill_chunk: int = prefill.CHUNK


class Assembled(NamedTuple):
  """A recipe and its parts.

  Attributes:
    recipe: the argument of `generate`.
    target: `Target`.
    source: the drafter's `Source`.
    plan: plan of the drafter.
    drafter_options: options of its entry.
    rule: entry of the verification rule in force.
    rule_options: its options.
    instead_of: name of the rule in whose place the plan puts it, or ''.
  """

  recipe: Recipe
  target: Target
  source: Source
  plan: DraftPlan
  drafter_options: Any
  rule: VerifierEntry
  rule_options: Any
  instead_of: str = ''

  @property
  def drafts(self) -> bool:
    """Whether anything is drafted at all."""
    return self.plan.num_draft > 0

  @property
  def is_exact(self) -> bool:
    """Whether the output has the target's law."""
    return not self.drafts or self.rule.exact_when(self.rule_options)

  @property
  def is_row_independent(self) -> bool:
    """Whether the tokens of a row depend on no other row."""
    keeps = self.rule.keeps_target_sample or not self.drafts
    return keeps or self.plan.row_independent

  @property
  def notes(self) -> tuple[str, ...]:
    """Sentences for the user."""
    drafter, rule, more = self.source.entry.name, self.rule.name, ()
    if self.instead_of:
      more = (
        f'The drafter {drafter} runs the verifier {rule} in place of '
        f'{self.instead_of}{_SAME_LAW * self.rule.keeps_target_sample}.',
      )
    if not self.is_row_independent:
      more += (
        f'With the drafter {drafter} and the verifier {rule} the tokens of a '
        'row may depend on the rows decoded with it.',
      )
    return self.plan.notes + more

  def dials(self) -> dict[str, Any]:
    """The rule's dials, as `Sampling.controls` takes them."""
    return options_lib.dials(self.rule_options)

  def params(self, data: DraftData = DraftData()) -> generate_lib.Params:
    """Parameters of target and drafter.

    Args:
      data: data that those of the drafter are made from.
    """
    made = guard.call(
      f'The drafter {self.source.entry.name}: params',
      self.source.entry.params,
      self.plan,
      self.target,
      self.source,
      data._replace(options=self.drafter_options),
    )
    return generate_lib.Params(self.target.params, made)


def target_of(model: model_lib.Model) -> Target:
  """The facts about a loaded model as a target."""
  known = model._asdict()
  same = {name: known[name] for name in Target._fields if name in known}
  return Target(**same, platform=jax.default_backend())


def assemble(
  target: Target,
  source: Source | None = None,
  settings: Settings = Settings(),
  *,
  rows: int = 1,
  quiet: bool = False,
) -> Assembled:
  """Makes a recipe, and warns of `Assembled.notes`.

  Args:
    target: the model whose law the output has; its parameters may be shapes.
    source: the drafter; None for plain decoding.
    settings: settings of the recipe.
    rows: number of rows decoded together.
    quiet: whether nothing is warned of.

  Returns:
    `Assembled`; its recipe is hashable, equal for equal arguments.

  Raises:
    ValueError: target, drafter and rule do not fit together.
  """
  _check(settings)
  source = source if source and settings.num_draft else NONE
  target = target._replace(prefill_chunk=settings.prefill_chunk)
  entry = source.entry
  drafter_options = options_lib.of(settings.drafters or {}, entry)
  options_lib.validate(drafter_options, entry.name)
  given = target, source, drafter_options, settings.num_draft, rows
  plan = guard.call(f'The drafter {entry.name}: plan', entry.plan, *given)
  entry_lib.check_plan(entry, plan)
  rule, instead_of = choice.choose(
    entry.name, plan, settings.verifier, settings.warp.sampled
  )
  rule_options, verifier = _verification(target, plan, settings, rule)
  style = drawing.style_for(verifier, settings.warp, settings.sampler)
  style = style._replace(allowed_tokens=tuple(settings.allowed_tokens))
  lm, config = _network(source.model, target.prefill_chunk)
  recipe = Recipe(
    target=target_lm.returning(target, plan.target_hidden_layers),
    drafter=_bound(entry, lm, config, plan, style),
    verifier=verifier,
    warp=_warp(settings.warp, rule),
    widths=plan.widths,
    is_tree=plan.is_tree,
    has_log_probs=plan.has_log_probs,
    checked=not _is_ours(entry, rule),
    matmul_precision=settings.matmul_precision,
    logprobs=settings.logprobs,
  )
  parts = target, source, plan, drafter_options, rule, rule_options, instead_of
  assembled = Assembled(recipe, *parts)
  for note in () if quiet else assembled.notes:
    warnings.warn(note, stacklevel=2)
  return assembled


def _check(settings: Settings) -> None:
  """Raises ValueError for values that are none of the known ones."""
  validation.at_least('num_draft', settings.num_draft, 0)
  validation.one_of('sampler', settings.sampler, SAMPLERS, str)
  validation.one_of(
    'matmul_precision', settings.matmul_precision, precision.MODES, str
  )


def _network(model: Any, chunk: int) -> tuple:
  """(`CachedLM` that reads prompts in pieces, config) of a drafter's model."""
  if model is None:
    return None, None
  return model.lm and prefill.of_lm(model.lm, chunk), model.config


def _is_ours(entry, rule) -> bool:
  built_in = verifier_registry.is_built_in(rule)
  return built_in and drafter_registry.is_built_in(entry)


def _verification(target, plan, settings, rule):
  """(options of the rule, the `Verifier`)."""
  options = options_lib.of(settings.verifiers or {}, rule)
  options_lib.validate(options, rule.name)
  rule.check(target, options)
  max_path = plan.max_path if plan.is_tree else 0
  static = options_lib.static_part(options)
  made = verifier_registry.make(rule, settings.sampler, max_path, static)
  if not verifier_registry.is_built_in(rule):
    made = guard.verifier(made)
  return options, made


def _warp(spec: warp_lib.WarpSpec, rule: VerifierEntry) -> warp_lib.WarpSpec:
  """The warp with rows of temperature 0 as the rule wants them."""
  one_hot = rule.wants_one_hot
  unsampled = one_hot and not (rule.requires_zero_temperature or spec.sampled)
  return dataclasses.replace(spec, one_hot=one_hot, one_hot_unsampled=unsampled)


@functools.cache
def _bound(
  entry: DrafterEntry, lm, config, plan: DraftPlan, style: drawing.Style
) -> base.Drafter:
  """The bound drafter, cached by exactly these arguments."""
  name = f'The drafter {entry.name}'
  made = guard.call(f'{name}: bind', entry.bind, lm, config, plan, style)
  if not isinstance(made, base.Drafter):
    raise ValueError(
      f'{name} must be bound to a Drafter, not {type(made).__name__}.'
    )
  if not drafter_registry.is_built_in(entry):
    made = guard.drafter(made)
  if (made.num_draft, made.max_path) != (plan.num_draft, plan.max_path):
    raise ValueError(
      f'{name} has num_draft={made.num_draft} and max_path={made.max_path}, '
      f'but was to have {plan.num_draft} and {plan.max_path} (of a chain both '
      'are the same; specjax.drafters.custom takes max_path= for trees).'
    )
  return made


def plain(
  target: base.CachedLM,
  warp: warp_lib.WarpSpec = warp_lib.WarpSpec(),
  sampler: str = 'gumbel',
  matmul_precision: str = precision.HIGHEST,
) -> Recipe:
  """The recipe of plain decoding: a round is one token of the target's own."""
  settings = Settings(
    warp=warp, sampler=sampler, matmul_precision=matmul_precision
  )
  return assemble(Target(target), None, settings).recipe


def generate_autoregressive(
  target: base.CachedLM,
  params: base.PyTree,
  prompt: base.Prompt,
  controls: base.Controls,
  *,
  max_new_tokens: int,
  warp: warp_lib.WarpSpec = warp_lib.WarpSpec(),
  sampler: str = 'gumbel',
  capacity: int | None = None,
) -> generate_lib.Generation:
  """Decodes token by token: the baseline, on the same loop.

  Args:
    target: the model; static.
    params: its parameters.
    prompt: tokens int32 [B, S] and lengths [B].
    controls: settings of each row.
    max_new_tokens: static bound of every row's budget.
    warp: static switches.
    sampler: 'gumbel' or 'inverse_cdf'; `coupled` and `match` with the same
      sampler and row keys give these very tokens.
    capacity: static L; by default just enough.

  Returns:
    `Generation`.
  """
  return generate_lib.generate(
    plain(target, warp, sampler),
    generate_lib.Params(params),
    prompt,
    controls,
    max_new_tokens=max_new_tokens,
    capacity=capacity,
  )


def compiled(
  recipe: Recipe, max_new_tokens: int, capacity: int | None = None
) -> Callable:
  """`generate` for one recipe as one compiled function, made once.

  Args:
    recipe: parts of the decoder; static.
    max_new_tokens: static bound of every row's budget.
    capacity: static L, or None.

  Returns:
    A function `(params, prompt, controls) -> generate.Generation`.
  """
  return functools.partial(
    _jitted, recipe, max_new_tokens=max_new_tokens, capacity=capacity
  )


_jitted = jax.jit(
  generate_lib.generate,
  static_argnames=('recipe', 'max_new_tokens', 'capacity'),
)
