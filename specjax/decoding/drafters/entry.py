"""Registry entries of drafters, and the facts that precede their binding.

A drafter is made in three steps, because each depends on the one before. Its
`plan` states whether it has probabilities and how long its paths are. Both
select the verification rule. The rule fixes how tokens are drawn
(`drawing.Style`), and only then can the drafter be bound.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from specjax import base
from specjax import options as options_lib
from specjax.decoding import prefill
from specjax.decoding.drafters import drawing

# Exact rules whose tokens depend on the draft.
_WEIGHING = ('sampling', 'block', 'traversal')


class Target(NamedTuple):
  """The facts about a target that are known before compilation.

  Attributes:
    lm: `CachedLM`.
    config: config of its network, or None for a model of the user's own.
    params: parameters, or their shapes where only an estimate is wanted.
    tokenizer: tokenizer of the model, or None.
    layout: the mesh, or None for one device.
    platform: 'cpu', 'gpu' or 'tpu'.
    name: name as the user wrote it.
    prefill_chunk: widest piece of a prompt that a network reads at once.
  """

  lm: base.CachedLM
  config: Any = None
  params: base.PyTree = None
  tokenizer: Any = None
  layout: Any = None
  platform: str = 'cpu'
  name: str = 'target'
  prefill_chunk: int = prefill.CHUNK

  def __repr__(self) -> str:
    """One line, without the parameters."""
    # What a NamedTuple shows by default would hold every weight, in tracebacks
    # too.
    kind = 'custom' if self.config is None else type(self.config).__name__
    return f'<specjax.Target {self.name}: {kind} on {self.platform}>'


class Costs(NamedTuple):
  """Costs of a round's parts, in steps of the target over one token a row.

  Attributes:
    blocks: {draft slots: cost of verifying a block with so many}.
    draft: cost of drafting with the model inside, for `DraftPlan.draft_slots`.
    origin: 'measured'; 'rule'; or 'fallback', the rule in the place of costs
      that the cache folder does not give or take.
  """

  blocks: dict[int, float]
  draft: float = 0.0
  origin: str = 'rule'

  def beyond_a_step(self, slots: int) -> float:
    """Accepted tokens that pay for verifying a block with so many slots."""
    # blocks {4: 1.5}: 0.5. By noise a block may measure less than a step; below
    # 0 every draft would pay, also one that promises nothing.
    return max(self.blocks[slots] - 1.0, 0.0)


class DraftData(NamedTuple):
  """The data that a drafter's parameters are made from.

  Attributes:
    rows: token rows to count, the prompts unless somebody knows better.
    index: `corpus.Index` of earlier answers, or None.
    costs: `Costs`, or None where the plan names none.
    script: int32 [B, N], the target's own greedy continuations, or None.
    options: options of the entry.
  """

  rows: Sequence[Sequence[int]] = ()
  index: Any = None
  costs: Costs | None = None
  script: Any = None
  options: Any = None


class Source(NamedTuple):
  """A drafter's entry and the model or value it drafts with.

  Attributes:
    entry: `DrafterEntry`.
    name: name as the user wrote it.
    model: a loaded model (has `config`, `params`, `lm`, `tokenizer`), or None.
    given: further argument of the entry, such as a rate or a factory.
  """

  entry: 'DrafterEntry'
  name: str
  model: Any = None
  given: Any = None


class DraftPlan(NamedTuple):
  """The facts about a drafter that are known before tracing. Hashable.

  Attributes:
    num_draft: K, draft slots (nodes of a tree); 0 drafts nothing.
    max_path: P, the longest path of a draft.
    is_tree: whether drafts are trees. Stated, since a tree may have P = K.
    has_log_probs: whether drafts have probabilities if the rule needs them.
    auto_verifier: rule of verifier='auto' above temperature 0; '' takes
      `sampling` for drafts with probabilities and `match` for others.
    allowed_verifiers: names of the rules that it works with; () for all.
    needs_target_sample: whether its rule must keep the target's own sample.
    widths: draft widths to compile, see `generate.Recipe`.
    one_pass: whether all slots are proposed at once, at a cost that hardly
      depends on their number.
    target_hidden_layers: states of the target that `observe` reads.
    reads_corpus: whether a corpus of earlier answers is searched.
    reads_script: whether it is given the target's own answers beforehand.
    max_source_tokens: longest encoder source it was trained for, or None.
    max_positions: most positions of the model inside, or None.
    draft_slots: slots whose drafting is timed for `Costs.draft`; 0: none.
    uses_costs: whether `Costs` decide if it drafts.
    row_independent: whether a row's draft depends on that row alone.
    rerouted: (rule, rule run in its place) pairs, see `weighing_as`.
    notes: sentences for the user.
    unread_options: (name of an option, where it is not read) pairs: options of
      the entry that change nothing in this plan, which are then refused.
    static: further arguments of `bind`, hashable.
  """

  num_draft: int
  max_path: int
  is_tree: bool = False
  has_log_probs: bool = False
  auto_verifier: str = ''
  allowed_verifiers: tuple[str, ...] = ()
  needs_target_sample: bool = False
  widths: tuple[int, ...] = ()
  one_pass: bool = False
  target_hidden_layers: tuple[int, ...] = ()
  reads_corpus: bool = False
  reads_script: bool = False
  max_source_tokens: int | None = None
  max_positions: int | None = None
  draft_slots: int = 0
  uses_costs: bool = False
  row_independent: bool = True
  rerouted: tuple[tuple[str, str], ...] = ()
  notes: tuple[str, ...] = ()
  unread_options: tuple[tuple[str, str], ...] = ()
  static: Any = ()


class PlanDraft(Protocol):
  """Raises ValueError, one sentence, where source and target do not fit.

  `num_draft` is what the user asks for, `rows` how many are decoded together.
  """

  def __call__(
    self,
    target: Target,
    source: Source,
    options: Any,
    num_draft: int,
    rows: int,
  ) -> DraftPlan: ...


class Bind(Protocol):
  """Pure functions, remembered by exactly these arguments.

  `lm` and `config` are those of the source's model, or None.
  """

  def __call__(
    self,
    lm: base.CachedLM | None,
    config: Any,
    plan: DraftPlan,
    style: drawing.Style,
  ) -> base.Drafter: ...


class MakeParams(Protocol):
  """Parameters: data of a compiled program, never part of its key."""

  def __call__(
    self, plan: DraftPlan, target: Target, source: Source, data: DraftData
  ) -> base.PyTree: ...


def no_params(
  plan: DraftPlan, target: Target, source: Source, data: DraftData
) -> None:
  """Parameters of a drafter that has none."""
  del plan, target, source, data


class DrafterEntry(NamedTuple):
  """A drafter, as a registry and the assembler see it.

  Attributes:
    name: name as users write it.
    summary: description for help, errors and tables.
    plan, bind, params: functions of the protocols above.
    options: dataclass of its options.
    families: names of the model families whose folders it decodes from, or
      'target' for every language model that no other entry names.
    takes: text behind the colon in NAME:..., for people; '' for none.
    parse: `(text, resolve) -> (model, given)` of that text; `resolve` makes a
      `Source` of a name. None where `takes` is ''.
    wraps: whether the text behind the colon is another drafter's name.
    needs_training: whether it needs a network trained for its target.
    drafts: whether it ever proposes a token; without one a run is plain.
  """

  name: str
  summary: str
  plan: PlanDraft
  bind: Bind
  params: MakeParams = no_params
  options: type = options_lib.NoOptions
  families: tuple[str, ...] = ()
  takes: str = ''
  parse: Any = None
  wraps: bool = False
  needs_training: bool = False
  drafts: bool = True


def chain_widths(middle: int, num_draft: int) -> tuple[int, ...]:
  """Widths to compile for chains: none drafted, a short draft, a whole one."""
  # middle 2, K 6: (0, 2, 6); middle 2, K 1: (0, 1)
  return tuple(sorted({0, min(middle, num_draft), num_draft}))


def weighing_as(rule: str) -> tuple[tuple[str, str], ...]:
  """`DraftPlan.rerouted` that puts one rule in the place of some others.

  Under the exact rules that weigh probabilities a token depends on what is
  drafted, and so on other rows where the draft does. Of a draft that is a point
  mass they keep as much as a rule of the target's own sample, and the law is
  the same.

  Args:
    rule: name of an exact rule that keeps the target's own sample.
  """
  # 'match': (('sampling', 'match'), ('block', 'match'), ('traversal', 'match'))
  return tuple((name, rule) for name in _WEIGHING)


def search_plan(
  name: str, tree: int, num_draft: int, **settings: Any
) -> DraftPlan:
  """The plan of a search that drafts chains, or trees.

  Args:
    name: name of the drafter.
    tree: longest path of its trees; 0 for chains.
    num_draft: K.
    **settings: further fields of the plan.
  """
  check_tree_depth(name, tree, num_draft)
  # The nodes of a tree are verified all or none.
  widths = (0, num_draft) if tree else chain_widths(2, num_draft)
  return DraftPlan(
    num_draft,
    tree or num_draft,
    is_tree=tree > 0,
    widths=widths,
    rerouted=weighing_as('match'),
    **settings,
  )


def bind_static(make: Callable[..., base.Drafter]) -> Bind:
  """A `Bind` for plans whose `static` are the keywords of a function.

  Args:
    make: (num_draft=, **static) -> `base.Drafter`.
  """

  def bind(lm, config, plan, style):
    del lm, config, style
    return make(num_draft=plan.num_draft, **dict(plan.static))

  return bind


def check_plan(entry: DrafterEntry, plan: Any) -> None:
  """Raises ValueError for a plan that breaks the contract.

  Args:
    entry: entry of the drafter.
    plan: result of its `plan`.

  Raises:
    ValueError: it is no hashable `DraftPlan`, or its numbers do not fit.
  """
  name = f'The plan of the drafter {entry.name}'
  if not isinstance(plan, DraftPlan):
    raise ValueError(f'{name} must be a DraftPlan, not {type(plan).__name__}.')
  try:
    hash(plan)
  except TypeError as error:
    raise ValueError(
      f'{name} must be hashable ({error}): put arrays into params.'
    ) from None
  # K = 4: widths (), (4,), (0, 4) and (0, 2, 4) pass; (0, 2) has no block for
  # a whole draft, and (2, 0, 4) does not ascend.
  slots, path, widths = plan.num_draft, plan.max_path, tuple(plan.widths)
  if slots < 0 or path not in (
    range(1, slots + 1) if plan.is_tree else (slots,)
  ):
    kind = 'trees' if plan.is_tree else 'chains'
    most = 'from 1 to num_draft' if plan.is_tree else 'num_draft'
    raise ValueError(
      f'{name} has num_draft={slots} and max_path={path}; for {kind} max_path '
      f'must be {most}.'
    )
  good = list(widths) == sorted(set(widths) & set(range(slots + 1)))
  # The nodes of a tree are verified all or none.
  good &= not plan.is_tree or widths in ((), (0, slots), (slots,))
  if not good or (widths and widths[-1] != slots):
    raise ValueError(
      f'{name} has widths={widths}; they must ascend from 0 or more to '
      f'num_draft={slots}, and be (0, num_draft) for trees.'
    )


def check_tree_depth(name: str, depth: int, num_draft: int) -> None:
  """Raises ValueError for paths longer than a tree has nodes."""
  if depth > num_draft:
    raise ValueError(
      f'{name}.tree={depth} asks for paths longer than the '
      f'num_draft={num_draft} nodes of a tree.'
    )
