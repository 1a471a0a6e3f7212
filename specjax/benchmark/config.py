"""Settings of a benchmark: what `--config.field=value` can change."""

import dataclasses
import itertools
import math
from typing import Any

from specjax import options as options_lib
from specjax import validation
from specjax.benchmark import cases as cases_lib
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
from specjax.inference.config import QUANTIZE

DTYPES = ('float32', 'bfloat16', 'w8a8')
# Tokens of a benchmark that is long enough to measure costs for.
_WORTH_TOKENS = 10_000


@dataclasses.dataclass
class BenchmarkConfig:
  """What to measure. Tuples are swept: every combination is a row.

  Attributes:
    num_draft: draft lengths K.
    verifier: verifiers, or 'auto' (see `DecodeConfig.verifier`).
    tree: drafts of parallel, medusa and eagle drafters: '' for chains, and
      trees (see `SpeculatorOptions.tree`). Other drafters draft as their
      options say.
    temperature: 0 is greedy.
    batch_size: rows decoded at a time.
    max_new_tokens: budget of a prompt.
    num_prompts: how many prompts are used; 0 takes all of the file.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: longer prompts are cut behind this many; 0 cuts nothing.
    join: so many sentence pairs of a .tsv file make a passage; 1 joins none.
    repetitions: timed passes over all prompts; medians are reported.
    warmup: untimed passes before them.
    ignore_eos: decode on to the budget, so that every engine makes the same
      number of tokens.
    dtype: float32, bfloat16 or w8a8 (matrix products in eight bits, the rest
      and the peers float32), for every model and engine.
    quantize: whose matrices are kept in int8: none, target, drafter or both
      (see `DecodeConfig.quantize`). Each target has plain decoding of its own.
    sampler: of plain sampling: gumbel or inverse_cdf.
    top_k: 0 keeps every token.
    top_p: in (0, 1]; 1 keeps every token.
    seed: of random weights, random prompts and sampling.
    chat: wrap text prompts in the tokenizer's chat template.
    prefix: put before every text prompt.
    parts: time the parts of a round apart (draft, verify), for the prediction.
    widths: tokens of blocks that the target is timed over, whether or not a
      round has such a block; a step is then also compared with what reading
      its bytes takes, and memory with its estimate (see `limits`). Empty:
      none of it.
    table_prompts: unigram and bigram drafters count the target's own answers to
      so many further prompts of the file; 0: they count the prompts measured.
    warm_corpus: suffix and hybrid read a corpus of the target's own greedy
      answers to these prompts, as in a second pass over a file.
    corpus_tokens: this many random tokens stand in that corpus too, to see what
      its size costs; 0: none.
    threads: of the peers; 0 takes the cores this process may use.
    max_draft: longest draft that `--plan` considers.
    explore: prompts shown in full in explorer.html.
    drafters, verifiers: options by name, see `DecodeConfig`.
    costs: see `DecodeConfig.costs`; 'auto' measures where 10,000 tokens or more
      are decoded.
    mesh: the devices; see `mesh.MeshConfig`.
  """

  num_draft: tuple = (4,)
  verifier: tuple = ('auto',)
  tree: tuple = ('',)
  temperature: tuple = (0.0,)
  batch_size: tuple = (1,)
  max_new_tokens: int = 128
  num_prompts: int = 8
  prompt_length: int = 64
  max_prompt_tokens: int = 0
  join: int = 1
  repetitions: int = 5
  warmup: int = 1
  ignore_eos: bool = False
  dtype: str = 'float32'
  quantize: tuple = ('none',)
  sampler: str = 'gumbel'
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0
  chat: bool = False
  prefix: str = ''
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
  costs: str = 'auto'
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
    validation.one_of('costs', self.costs, COSTS, str)
    options_lib.validate_all(self.drafters, drafter_registry.entries())
    options_lib.validate_all(self.verifiers, verifier_registry.entries())
    validation.one_of('sampler', self.sampler, SAMPLERS, str)
    validation.one_of('dtype', self.dtype, DTYPES, str)
    for name in self.quantize or ('nothing',):
      validation.one_of('quantize', name, QUANTIZE, str)
    if self.dtype == 'w8a8' and self.quantize != ('none',):
      raise ValueError(
        "With dtype='w8a8' all matrices have eight bits; leave quantize "
        "at ('none',)."
      )
    for width in self.widths:
      validation.whole('widths', width, 1)
    if self.widths and not self.parts:
      raise ValueError('widths are timed with the parts; leave parts=true.')
    self.mesh.validate()
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

  # What is measured. An experiment with other cases overrides these.

  def check(self, setup) -> None:
    """Raises ValueError where the models of a `request.Setup` do not fit."""

  def cases(
    self, setup, temperature: float, batch_size: int
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
          source, temperature, batch_size,
          tree=tree, num_draft=num_draft, verifier=verifier,
        )  # fmt: skip
        seen.setdefault((tree, case.verifier), case)
      cases += seen.values()
    return cases

  def beside(self, group) -> list[tuple]:
    """(fields of its row, engine) pairs of what a `Group` has beside cases."""
    del group
    return []

  def finish(self, results, log_fn):
    """`runner.Results` with what can be judged once all is measured."""
    del log_fn
    return results

  @property
  def longest_draft(self) -> int:
    """Slots that a network made for this run needs."""
    return max(*self.num_draft, self.max_draft)

  @property
  def is_long(self) -> bool:
    """Whether costs are measured before they decide."""
    count = self.num_prompts * self.max_new_tokens * self.repetitions
    return self.costs == 'measure' or count >= _WORTH_TOKENS

  def recipe_settings(
    self, temperature: float, **changes: Any
  ) -> assemble.Settings:
    """What a recipe depends on.

    Args:
      temperature: of the rows.
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
    )
    return made._replace(**changes)

  def sampling(self, temperature: float) -> Sampling:
    """The values that shape the distribution, at one temperature."""
    return Sampling(
      temperature=float(temperature), top_k=self.top_k, top_p=self.top_p
    )


# The least that whole numbers may be.
_WHOLE = {
  'num_draft': 1, 'batch_size': 1, 'max_new_tokens': 1, 'num_prompts': 0,
  'prompt_length': 1, 'max_prompt_tokens': 0, 'join': 1, 'repetitions': 1,
  'warmup': 0, 'top_k': 0, 'seed': 0, 'table_prompts': 0, 'corpus_tokens': 0,
  'threads': 0, 'max_draft': 1, 'explore': 0,
}  # fmt: skip
