"""Settings of a benchmark: what `--config.field=value` can change."""

import dataclasses
import math

from specjax import validation
from specjax.decoding import search as search_lib
from specjax.decoding import verifiers as verifiers_lib
from specjax.decoding.controls import Sampling
from specjax.decoding.sampling import SAMPLERS
from specjax.distributed import mesh as mesh_lib
from specjax.inference.config import QUANTIZE

DTYPES = ('float32', 'bfloat16', 'w8a8')


@dataclasses.dataclass
class BenchmarkConfig:
  """What to measure. Tuples are swept: every combination is a row.

  Attributes:
    num_draft: draft lengths K.
    verify: verifiers, or 'auto' (see `DecodeConfig.verify`).
    tree: drafts of parallel, medusa and eagle drafters: '' for chains, and
      trees (see `DecodeConfig.tree`). Other drafters draft chains.
    temperature: 0 is greedy.
    batch_size: rows decoded at a time.
    max_new_tokens: budget of a prompt.
    num_prompts: how many prompts are used; 0 takes all of the file.
    prompt_length: tokens of a random prompt, for targets without a tokenizer.
    max_prompt_tokens: longer prompts are cut behind this many; 0 cuts nothing.
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
    search: how drafters without a model search.
    mesh: the devices; see `mesh.MeshConfig`.
  """

  num_draft: tuple = (4,)
  verify: tuple = ('auto',)
  tree: tuple = ('',)
  temperature: tuple = (0.0,)
  batch_size: tuple = (1,)
  max_new_tokens: int = 128
  num_prompts: int = 8
  prompt_length: int = 64
  max_prompt_tokens: int = 0
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
  search: search_lib.SearchConfig = dataclasses.field(
    default_factory=search_lib.SearchConfig
  )
  mesh: mesh_lib.MeshConfig = dataclasses.field(
    default_factory=mesh_lib.MeshConfig
  )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    self.verify = tuple(
      part for name in self.verify for part in str(name).split(',')
    )
    names = ('auto',) + tuple(verifiers_lib.NAMES)
    for name in self.verify:
      validation.one_of('verify', name, names, str)
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
    self.search.validate()
    for value in self.temperature or ('nothing',):
      if not validation.is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f'temperature must be 0 or more, not {value}.')
    validation.share('top_p', self.top_p)

  @property
  def longest_draft(self) -> int:
    """Slots that a network made for this run needs."""
    return max(*self.num_draft, self.max_draft)

  def sampling(self, temperature: float) -> Sampling:
    """The values that shape the distribution, at one temperature."""
    return Sampling(
      temperature=float(temperature), top_k=self.top_k, top_p=self.top_p
    )


_WHOLE = {
  'num_draft': 1,
  'batch_size': 1,
  'max_new_tokens': 1,
  'num_prompts': 0,
  'prompt_length': 1,
  'max_prompt_tokens': 0,
  'repetitions': 1,
  'warmup': 0,
  'top_k': 0,
  'seed': 0,
  'table_prompts': 0,
  'corpus_tokens': 0,
  'threads': 0,
  'max_draft': 1,
  'explore': 0,
}
