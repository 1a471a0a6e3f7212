"""Settings of a decoding job: what `--config.field=value` can change."""

import dataclasses
import json
from typing import Any, Callable, Mapping, Sequence, Union

import numpy as np

from specjax import options as options_lib
from specjax import validation
from specjax.decoding import beam
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.sampling import SAMPLERS
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import verifier_sources

DTYPES = ('float32', 'bfloat16', 'w8a8', 'stored')
COSTS = ('auto', 'measure', 'rule')
QUANTIZE = ('none', 'target', 'drafter', 'both')

# What may differ from prompt to prompt; one value serves all of them.
PER_PROMPT = (
  'temperature',
  'top_k',
  'top_p',
  'min_p',
  'repetition_penalty',
  'max_new_tokens',
  'seed',
)

# Options and keywords of version 0.1 that have another name now.
MOVED = {
  'verify': 'verifier',
  'tree': 'drafters.speculator.tree',
  'lenience': 'verifiers.lenient.lenience',
  'beta': 'verifiers.top_candidates.beta',
  'tau': 'verifiers.top_candidates.tau',
  'search': 'drafters.NAME.FIELD',
  'search.tree': 'drafters.suffix.tree or drafters.token_recycling.tree',
  'search.max_ngram': 'drafters.prompt_lookup.max_ngram',
  'search.min_ngram': 'drafters.prompt_lookup.min_ngram',
  'search.match': 'drafters.prompt_lookup.match',
  'search.periodic': 'drafters.prompt_lookup.periodic',
  'search.max_depth': 'drafters.suffix.max_depth',
  'search.min_match': 'drafters.suffix.min_match',
  'search.factor': 'drafters.suffix.factor',
  'search.offset': 'drafters.suffix.offset',
  'search.min_token_prob': 'drafters.suffix.min_token_prob',
  'search.min_score': 'drafters.suffix.min_expected_accepted',
  'search.max_matches': 'drafters.suffix.max_matches',
  'search.max_wait': 'drafters.suffix.max_wait',
  'search.successors': 'drafters.token_recycling.successors',
  'search.decay': 'drafters.token_recycling.decay',
}


def check_moved(given: Mapping[str, Any]) -> None:
  """Raises ValueError for a keyword that has another name now.

  Args:
    given: keywords and their values.
  """
  for name in given:
    if name in MOVED:
      new = MOVED[name]
      how = new
      if '.' in new:
        group, entry, field = new.split(' or ')[0].split('.')
        how = f"{group}={{'{entry}': {{'{field}': ...}}}}"
      raise ValueError(f'{name} has moved: give {how} instead.')


def default_drafters() -> Any:
  """Options of every registered drafter."""
  return options_lib.container(drafter_registry.entries())


def default_verifiers() -> Any:
  """Options of every registered verification rule."""
  return options_lib.container(verifier_registry.entries())


@dataclasses.dataclass
class DecodeConfig:
  """How to decode. From Python, the fields named in `PER_PROMPT` also take one
  value for each prompt.

  Attributes:
    num_draft: K, tokens drafted a round; 0 means plain decoding.
    corpus_tokens: most tokens that a corpus of earlier answers keeps.
    verifier: 'auto', a verifier's name, or FILE.py:NAME: greedy, sampling,
      block, traversal, coupled, match (exact), lenient, top_candidates, typical
      (lossy). 'auto' is greedy at temperature 0, else sampling for drafts with
      probabilities, coupled for a hybrid, and match for other drafts.
    drafters: options of each drafter, as drafters.NAME.FIELD; from Python
      {'NAME': {'FIELD': value}}.
    verifiers: options of each verification rule, likewise.
    costs: what decides where `suffix` and `hybrid` draft: measure (what a block
      costs on this machine), rule (a stated rule, the same everywhere), or auto
      (an earlier measurement, else one if the job takes over a minute, else the
      rule; the rule wherever tokens depend on what is drafted).
    sampler: of plain sampling: gumbel or inverse_cdf.
    temperature: 0 is greedy.
    top_k: 0 keeps every token.
    top_p: in (0, 1]; 1 keeps every token.
    min_p: in [0, 1]; 0 keeps every token.
    repetition_penalty: above 0; 1 changes nothing.
    no_repeat_ngram_size: 0 allows every repetition.
    num_beams: hypotheses of a beam search, which is not speculative; 1 is none.
    length_penalty: of a beam search: scores are divided by length to this
      power.
    early_stopping: of a beam search: false, true or never.
    max_new_tokens: budget of a prompt.
    num_return_sequences: answers a prompt.
    ignore_eos: decode on to the budget.
    batch_size: rows decoded at a time.
    seed: a prompt's randomness depends on this and on its place alone. One
      seed for each prompt makes its place irrelevant too.
    stop: a string that ends an answer, or several as a JSON list; \\n and \\t
      stand for a line end and a tab.
    dtype: float32, bfloat16, w8a8 (matrix products in eight bits, the rest
      float32), or stored (the checkpoint's own).
    quantize: whose matrices are kept in eight bits: none, target, drafter or
      both. An int8 target is another target; an int8 drafter is none.
    mesh: the devices; see `mesh.MeshConfig`.
    chat: wrap text prompts in the tokenizer's chat template.
    prefix: put before every text prompt.
    explain: measure step times after a run with a draft model and say why it
      was faster or not.
  """

  num_draft: int = 4
  corpus_tokens: int = 131072
  verifier: str = 'auto'
  drafters: Any = dataclasses.field(default_factory=default_drafters)
  verifiers: Any = dataclasses.field(default_factory=default_verifiers)
  costs: str = 'auto'
  sampler: str = 'gumbel'
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  no_repeat_ngram_size: int = 0
  num_beams: int = 1
  length_penalty: float = 1.0
  early_stopping: str = 'false'
  max_new_tokens: int = 128
  num_return_sequences: int = 1
  ignore_eos: bool = False
  batch_size: int = 8
  seed: int = 0
  stop: str = ''
  dtype: str = 'float32'
  quantize: str = 'none'
  mesh: mesh_lib.MeshConfig = dataclasses.field(
    default_factory=mesh_lib.MeshConfig
  )
  chat: bool = False
  prefix: str = ''
  explain: bool = True
  verify: dataclasses.InitVar[Any] = None
  tree: dataclasses.InitVar[Any] = None
  search: dataclasses.InitVar[Any] = None
  lenience: dataclasses.InitVar[Any] = None
  beta: dataclasses.InitVar[Any] = None
  tau: dataclasses.InitVar[Any] = None

  def __post_init__(self, *moved: Any):
    names = ('verify', 'tree', 'search', 'lenience', 'beta', 'tau')
    check_moved(
      {name: value for name, value in zip(names, moved) if value is not None}
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    check_moved(vars(self))  # Also one assigned to afterwards.
    for name in (*_WHOLE, *_REAL):
      given = getattr(self, name)
      if np.ndim(given) and name not in PER_PROMPT:
        raise ValueError(f'{name} takes one value, not {len(given)}.')
    for name, lowest in _WHOLE.items():
      validation.each_whole(name, getattr(self, name), lowest)
    for name, (good, what) in _REAL.items():
      validation.each(name, getattr(self, name), good, what)
    self.rule()
    options_lib.validate_all(self.drafters, drafter_registry.entries())
    options_lib.validate_all(self.verifiers, verifier_registry.entries())
    validation.one_of('costs', self.costs, COSTS, str)
    validation.one_of('sampler', self.sampler, SAMPLERS, str)
    validation.one_of('dtype', self.dtype, DTYPES, str)
    validation.one_of('quantize', self.quantize, QUANTIZE, str)
    self.mesh.validate()
    validation.one_of(
      'early_stopping', self.early_stopping, beam.EARLY_STOPPING, str
    )
    self._check_beams()
    if not all(self.stops()):
      raise ValueError('stop must not hold an empty string.')

  def _check_beams(self) -> None:
    if self.num_beams == 1:
      return
    for name, plain in (
      ('temperature', 0),
      ('repetition_penalty', 1),
      ('no_repeat_ngram_size', 0),
    ):
      if np.any(np.asarray(getattr(self, name)) != plain):
        raise ValueError(
          f'A beam search (num_beams={self.num_beams}) scores the target as it '
          f'is; leave {name} at {plain}.'
        )
    if self.num_return_sequences > self.num_beams:
      raise ValueError(
        f'num_return_sequences is {self.num_return_sequences}, but a search '
        f'with num_beams={self.num_beams} has no more answers than beams.'
      )

  def beams(self) -> beam.BeamSpec:
    """The settings of a beam search."""
    return beam.BeamSpec(
      self.num_beams, float(self.length_penalty), self.early_stopping
    )

  def stops(self) -> tuple[str, ...]:
    """The stop strings as a tuple."""
    stop = self.stop
    if isinstance(stop, str) and stop.startswith('['):
      try:
        stop = json.loads(stop, strict=False)
      except ValueError:
        stop = [stop]
    if isinstance(stop, str):
      unescaped = stop.replace('\\n', '\n').replace('\\t', '\t')
      return (unescaped,) if stop else ()
    if not all(isinstance(item, str) for item in stop):
      raise ValueError(f'stop must hold strings, not {stop!r}.')
    return tuple(stop)

  def rule(self) -> Any:
    """The `VerifierEntry` asked for, or None for 'auto'.

    Raises:
      ValueError, FileNotFoundError: there is no such rule.
    """
    return verifier_sources.resolve(self.verifier)

  def recipe_settings(self, **changes: Any) -> assemble.Settings:
    """What a recipe depends on.

    Args:
      **changes: fields of `assemble.Settings` that differ.
    """
    made = assemble.Settings(
      num_draft=self.num_draft,
      verifier=self.rule() or verifier_registry.AUTO,
      drafters=self.drafters,
      verifiers=self.verifiers,
      warp=self.sampling().warp_spec(),
      sampler=self.sampler,
    )
    return made._replace(**changes)

  def sampling(self, rows: Union[None, Sequence[int]] = None) -> Sampling:
    """The values that shape the distribution.

    Args:
      rows: prompts whose values are wanted, in order; None for all as given.

    Returns:
      `Sampling`.
    """
    values = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(Sampling)
    }
    if rows is not None:
      values = {name: per_row(value, rows) for name, value in values.items()}
    return Sampling(**values)


def per_row(value: Any, rows: Union[int, Sequence[int]]) -> Any:
  """Values of the given prompts, if there is one for each."""
  return value if np.ndim(value) == 0 else np.asarray(value)[rows]


_WHOLE = {
  'num_draft': 0,
  'corpus_tokens': 2,
  'top_k': 0,
  'no_repeat_ngram_size': 0,
  'num_beams': 1,
  'max_new_tokens': 0,
  'num_return_sequences': 1,
  'batch_size': 1,
  'seed': 0,
}

_REAL: dict[str, tuple[Callable[[float], bool], str]] = {
  'temperature': (lambda v: 0 <= v < np.inf, '0 or more'),
  'top_p': (lambda v: 0 < v <= 1, 'above 0 and at most 1'),
  'min_p': (lambda v: 0 <= v <= 1, 'between 0 and 1'),
  'repetition_penalty': (lambda v: 0 < v < np.inf, 'above 0'),
  'length_penalty': (lambda v: abs(v) < np.inf, 'a number'),
}
