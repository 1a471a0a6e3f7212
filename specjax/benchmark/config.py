"""Settings of a benchmark, changed by `--config.field=value`."""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import math
from typing import Any

from specjax import options as options_lib
from specjax import validation
from specjax.benchmark import cases as cases_lib
from specjax.decoding import precision
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.sampling import SAMPLERS
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import verifier_sources
from specjax.inference.config import COSTS
from specjax.inference.config import default_drafters
from specjax.inference.config import default_verifiers
from specjax.inference.config import GENERATION_CONFIGS
from specjax.inference.config import QUANTIZE
from specjax.inference.config import rule_names
from specjax.inference.prompt_settings import PromptSettings

DTYPES = ('float32', 'bfloat16', 'w8a8')
# Tokens of a benchmark that is long enough to measure costs for.
_WORTH_TOKENS = 10_000


@dataclasses.dataclass
class BenchmarkConfig(PromptSettings):
  """Settings of a benchmark. Tuples are swept: every combination is a row.

  Attributes:
    num_draft: draft lengths K, in tokens a round.
    verifier: verification rules. auto is greedy at temperature 0; above it,
      sampling for drafts with probabilities, coupled for a hybrid, and match
      for other drafts. Some drafters run another rule of the same distribution,
      as in decoding.
    tree: shapes of the drafts of parallel, medusa and eagle drafters, as in
      drafters.speculator.tree; '' is a chain. Other drafters keep to their
      options.
    temperature: divisors of the logits before sampling; 0 is greedy decoding.
    batch_size: numbers of rows that are decoded together.
    max_new_tokens: most new tokens of an answer.
    num_prompts: number of prompts that are used; 0 takes all of the file.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: most tokens of a prompt, which is cut behind them; 0 cuts
      nothing.
    join: number of sentence pairs of a .tsv file in a passage; 1 joins none.
    refill: whether prompts are decoded as decode.main decodes a file, laid out
      by length and with the next prompts in the places of finished rows. Speed
      is then that of all prompts together, and no part of a round is timed.
    repetitions: number of timed passes over all prompts, whose medians are
      reported.
    warmup: number of untimed passes before them.
    ignore_eos: whether decoding goes on behind end tokens, so that every engine
      makes the same number of tokens.
    dtype: precision of every model and engine. w8a8 has matrix products in
      eight bits, and the rest and the peers in float32. In float32 a token that
      differs from plain decoding's is an error; in bfloat16 and eight bits it
      may be a near tie, which is counted.
    matmul_precision: precision of float32 products, as for decoding; those of
      other dtypes are left to XLA.
    quantize: models whose matrices are kept in eight bits. Each target has
      plain decoding of its own.
    sampler: method of plain sampling.
    generation_config: settings taken from the target's generation_config.json,
      as for decoding, for every case and for plain decoding, where none are
      given here. none takes nothing.
    top_k: number of likeliest tokens that are kept; 0 keeps every token.
    top_p: least total probability of the likeliest tokens that are kept, above
      0 and at most 1; 1 keeps every token.
    seed: seed of random weights, random prompts and sampling.
    parts: whether drafting and verifying are timed apart, for the prediction.
    widths: lengths of blocks, in tokens, that the target is timed over whether
      or not a round has such a block. With any, a step is also compared with
      the reading of its bytes, and memory with its estimate.
    table_prompts: number of further prompts of the file whose answers unigram
      and bigram drafters count; 0 counts the prompts that are measured.
    warm_corpus: whether suffix and hybrid read a corpus of the target's own
      greedy answers to these prompts, as in a second pass over a file.
    corpus_tokens: number of random tokens in that corpus, to measure the cost
      of its size; 0 is none.
    threads: threads of the peers; 0 takes the cores that this process may use.
    max_draft: longest draft that --plan considers, in tokens.
    explore: number of prompts that explorer.html shows in full.
    drafters: options of each drafter, as drafters.NAME.FIELD; from Python
      {'NAME': {'FIELD': value}}.
    verifiers: options of each verification rule, as verifiers.NAME.FIELD; from
      Python {'NAME': {'FIELD': value}}.
    costs: costs by which `suffix` and `hybrid` decide where to draft. measure
      takes the time of a block on this machine; rule takes stated costs; auto
      measures where 10,000 tokens or more are decoded.
    mesh: device mesh and the placement of models on it.
  """

  num_draft: tuple = (4,)
  verifier: tuple = validation.choice(('auto',), rule_names, checked=False)
  tree: tuple = ('',)
  temperature: tuple = (0.0,)
  batch_size: tuple = (1,)
  max_new_tokens: int = 128
  num_prompts: int = 8
  prompt_length: int = 64
  max_prompt_tokens: int = 0
  join: int = 1
  refill: bool = False
  repetitions: int = 5
  warmup: int = 1
  ignore_eos: bool = False
  dtype: str = validation.choice('float32', DTYPES)
  matmul_precision: str = validation.choice('highest', precision.MODES)
  quantize: tuple = validation.choice(('none',), QUANTIZE)
  sampler: str = validation.choice('gumbel', SAMPLERS)
  generation_config: str = validation.choice('none', GENERATION_CONFIGS)
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  parts: bool = True
  widths: tuple = ()
  table_prompts: int = 0
  warm_corpus: bool = False
  corpus_tokens: int = 0
  threads: int = 0
  max_draft: int = 8
  explore: int = 20
  drafters: Any = dataclasses.field(default_factory=default_drafters)
  verifiers: Any = dataclasses.field(default_factory=default_verifiers)
  costs: str = validation.choice('auto', COSTS)
  mesh: mesh_lib.MeshConfig = dataclasses.field(
    default_factory=mesh_lib.MeshConfig
  )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.verifier = tuple(
      part
      for name in self.verifier
      for part in (name.split(',') if isinstance(name, str) else [name])
    )
    for name in self.verifier:
      verifier_sources.resolve(name)
    options_lib.validate_all(self.drafters, drafter_registry.entries())
    options_lib.validate_all(self.verifiers, verifier_registry.entries())
    validation.check_choices(self, show=str)
    if self.dtype == 'w8a8' and self.quantize != ('none',):
      raise ValueError(
        "With dtype='w8a8' all matrices have eight bits; leave quantize "
        "at ('none',)."
      )
    for width in self.widths:
      validation.whole('widths', width, 1)
    if self.widths and not self.parts:
      raise ValueError('widths are timed with the parts; leave parts=true.')
    if self.widths and self.refill:
      raise ValueError(
        'widths are timed in whole batches; leave them out, or refill at false.'
      )
    self.mesh.validate(decoding=True)
    for field, lowest in _WHOLE.items():
      values = getattr(self, field)
      values = values if isinstance(values, tuple) else (values,)
      if not values:
        raise ValueError(f'{field} must hold at least one value.')
      for value in values:
        validation.whole(field, value, lowest)
    for value in self.temperature or ('nothing',):
      if not validation.is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f'temperature must be 0 or more, not {value}.')
    validation.share('top_p', self.top_p)

  # An experiment with other cases overrides the methods from here to `finish`.

  def check(self, setup: Any) -> None:
    """Raises ValueError where the models of a `request.Setup` are wrong."""

  def cases(
    self, setup: Any, temperature: float, batch_size: int
  ) -> list[cases_lib.Case]:
    """Plain decoding, then every drafter, K, tree and verifier once.

    Two verifiers that mean the same rule here give one case.

    Raises:
      ValueError: where a drafter and a verifier do not fit.
    """
    cases = [setup.plain(temperature, batch_size)]
    for source, num_draft in itertools.product(setup.sources, self.num_draft):
      seen = {}
      for tree, verifier in itertools.product(
        cases_lib.trees_of(source, self), self.verifier
      ):
        case = setup.case(
          source,
          temperature,
          batch_size,
          tree=tree,
          num_draft=num_draft,
          verifier=verifier,
        )
        seen.setdefault((tree, case.verifier), case)
      cases += seen.values()
    return cases

  def beside(self, group: Any) -> list[tuple]:
    """(fields of its row, engine) pairs of engines that are no cases."""
    del group
    return []

  def finish(self, results: Any, log_fn: Callable[[str], None]) -> Any:
    """`runner.Results` with the fields that need all measurements."""
    del log_fn
    return results

  @property
  def longest_draft(self) -> int:
    """Draft slots of a network that is made for this run."""
    return max(*self.num_draft, self.max_draft)

  @property
  def is_long(self) -> bool:
    """Whether costs are measured before they decide."""
    count = self.num_prompts * self.max_new_tokens * self.repetitions
    return self.costs == 'measure' or count >= _WORTH_TOKENS

  def recipe_settings(
    self, temperature: float, **changes: Any
  ) -> assemble.Settings:
    """Settings from which a recipe is assembled.

    Args:
      temperature: temperature of the rows.
      **changes: fields of `assemble.Settings` that differ.
    """
    if 'verifier' in changes:
      rule = verifier_sources.resolve(changes['verifier'])
      changes['verifier'] = rule or 'auto'
    made = assemble.Settings(
      drafters=self.drafters,
      verifiers=self.verifiers,
      warp=self.sampling(temperature).warp_spec(),
      sampler=self.sampler,
      matmul_precision=self.matmul_precision,
    )
    return made._replace(**changes)

  def sampling(self, temperature: float) -> Sampling:
    """The values that shape the distribution, at one temperature."""
    return Sampling(
      temperature=float(temperature), top_k=self.top_k, top_p=self.top_p
    )

  def end_ids(self, model_ids: Sequence[int]) -> tuple[int, ...]:
    """The ids that end an answer, of those that the target has."""
    return () if self.ignore_eos else tuple(model_ids)


# Least values of whole numbers.
_WHOLE = {
  'num_draft': 1, 'batch_size': 1, 'max_new_tokens': 1, 'num_prompts': 0,
  'prompt_length': 1, 'max_prompt_tokens': 0, 'join': 1, 'repetitions': 1,
  'warmup': 0, 'top_k': 0, 'seed': 0, 'table_prompts': 0, 'corpus_tokens': 0,
  'threads': 0, 'max_draft': 1, 'explore': 0,
}  # fmt: skip
