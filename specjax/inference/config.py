"""Settings of a decoding job: what `--config.field=value` can change."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from specjax import options as options_lib
from specjax import validation
from specjax.decoding import beam
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import precision
from specjax.decoding import prefill
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.sampling import SAMPLERS
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import each
from specjax.inference import row_stops
from specjax.inference import token_lists
from specjax.inference import value_ranges
from specjax.inference import verifier_sources
from specjax.inference.answer_settings import AnswerSettings
from specjax.inference.moved import check_moved
from specjax.inference.prompt_settings import PromptSettings
from specjax.inference.value_ranges import LISTS

DTYPES = ('float32', 'bfloat16', 'w8a8', 'stored')
COSTS = ('auto', 'measure', 'rule')
GENERATION_CONFIGS = ('safe', 'model', 'none')
QUANTIZE = ('none', 'target', 'drafter', 'both')

# Settings that may differ between prompts; one value serves all of them.
PER_PROMPT = (
  'temperature',
  'top_k',
  'top_p',
  'min_p',
  'repetition_penalty',
  'min_new_tokens',
  'presence_penalty',
  'frequency_penalty',
  'max_new_tokens',
  'seed',
)


def default_drafters() -> Any:
  """Options of every registered drafter."""
  return options_lib.container(drafter_registry.entries())


def default_verifiers() -> Any:
  """Options of every registered verification rule."""
  return options_lib.container(verifier_registry.entries())


def rule_names() -> tuple[str, ...]:
  """Words that `verifier` takes."""
  return (verifier_registry.AUTO, *verifier_registry.names(), 'FILE.py:NAME')


@dataclasses.dataclass
class DecodeConfig(AnswerSettings, PromptSettings):
  """Settings of decoding. From Python, the fields named in `PER_PROMPT` also
  take one value for each prompt.

  Attributes:
    num_draft: draft length K, in tokens a round; 0 is plain decoding.
    corpus_tokens: most tokens that a corpus of earlier answers keeps.
    verifier: verification rule. auto is greedy at temperature 0; above it,
      sampling for drafts with probabilities, coupled for a hybrid, and match
      for other drafts. With suffix, token_recycling and prompt_lookup the rules
      sampling, block and traversal run as match, with a hybrid as coupled. The
      distribution is the same. FILE.py:NAME is a rule of your own.
    drafters: options of each drafter, as drafters.NAME.FIELD; from Python
      {'NAME': {'FIELD': value}}.
    verifiers: options of each verification rule, as verifiers.NAME.FIELD; from
      Python {'NAME': {'FIELD': value}}.
    costs: costs by which `suffix` and `hybrid` decide where to draft. measure
      takes the time of a block on this machine; rule takes stated costs, the
      same everywhere; auto takes an earlier measurement, else a new one if the
      job is longer than a minute, else the rule (and always the rule where
      tokens depend on the draft).
    sampler: method of plain sampling. Either samples the same distribution,
      with other tokens for a seed.
    generation_config: settings taken from the model's generation_config.json
      where none are given here. safe takes repetition_penalty,
      no_repeat_ngram_size, suppress_tokens, bad_words_ids, min_new_tokens and
      min_length; model takes do_sample, temperature, top_k, top_p and min_p
      too; none takes nothing. Its end ids are always taken, and a beam search
      takes nothing else.
    temperature: divisor of the logits before sampling; 0 is greedy decoding.
    top_k: number of likeliest tokens that are kept; 0 keeps every token.
    top_p: least total probability of the likeliest tokens that are kept, above
      0 and at most 1; 1 keeps every token. Exact ties with the least likely of
      them are kept too, as for top_k.
    min_p: least probability of a kept token, as a share of the likeliest
      token's, from 0 to 1; 0 keeps every token.
    repetition_penalty: penalty on tokens that occurred before, the prompt's
      included, above 0; 1 is none.
    no_repeat_ngram_size: length of n-grams, in tokens, that may not occur
      twice; 0 allows every repetition. Where settings together leave no token,
      this one gives way first, then min_new_tokens, bad_words and
      suppress_tokens.
    presence_penalty: number taken off the logits of tokens that the answer has
      already; the prompt does not count.
    frequency_penalty: number taken off a token's logit for each time that the
      answer has it already; the prompt does not count.
    logit_bias: numbers added to the logits of tokens, as JSON from token ids,
      {"5":-2.5}.
    suppress_tokens: ids that are never generated, as a JSON list. Programs are
      compiled for lists of up to 8, 16, 32, ... entries, here and above.
    bad_words: sequences that are never generated, as a JSON list of strings or
      lists of token ids. A string stands for its tokens at the beginning of a
      text and behind a space; other spellings of it are not found. The prompt's
      tokens count as a beginning. An end token alone is ignored.
    num_beams: hypotheses of a beam search, which is not speculative; 1 is no
      search.
    length_penalty: power of the length that divides scores of a beam search.
    early_stopping: end of a beam search. true ends it with `num_beams` finished
      hypotheses; false, when the best running one scores no better at its
      present length; never, when it could not at any length.
    min_new_tokens: new tokens of an answer before which no end token comes.
    max_new_tokens: most new tokens of an answer. Programs are compiled for
      budgets of up to 32, 64, 128, 192, 256, 384, 512, ... tokens.
    num_return_sequences: number of answers to each prompt.
    ignore_eos: whether decoding goes on behind the model's end tokens, up to
      `max_new_tokens`.
    stop_token_ids: ids that end an answer beside the model's own, as a JSON
      list. The answer's last token is the one that ended it.
    batch_size: number of rows that are decoded together, one a prompt and
      answer. Fewer are filled up to 1, 4, 8, 16, ... rows, so that another
      number of prompts seldom compiles anew. auto takes as many, up to 64, as
      half of the free memory holds.
    prefill_chunk: widest piece of a prompt that is read at once, in tokens; a
      longer prompt takes several, in less memory. An encoder reads its source
      whole, with attention for at most 512 tokens at a time.
    window: length of the part of the input in which prompts are sorted by
      length, in batches; 1 or more. At most so many answers wait for others to
      be written.
    seed: seed of sampling. The noise of a prompt depends on the seed and on its
      place in the file alone; from Python, one seed for each prompt makes its
      place irrelevant too.
    stop: string that ends an answer, or several as a JSON list; \\n and \\t
      stand for a line end and a tab. Of several the one that ends first counts,
      of those the longest; a special token is found by its id.
    dtype: precision. w8a8 has matrix products in eight bits and the rest in
      float32; stored is the checkpoint's own. In float32 tokens depend neither
      on batch_size nor on num_draft; in bfloat16 and eight bits they may.
    matmul_precision: precision of the products of float32 decoding. highest
      computes them in float32 on every platform; default leaves them to XLA,
      which takes TF32 on GPUs and bfloat16 on TPUs. Other dtypes are left to
      XLA. On GPUs and TPUs tokens are promised, not bits.
    quantize: models whose matrices are kept in eight bits. Quantising the
      target changes the output distribution; quantising the drafter changes the
      acceptance rate only.
    mesh: device mesh and the placement of models on it.
    explain: whether step times are measured after a run with a draft model, for
      a sentence on why it was faster or not.
  """

  num_draft: int = 4
  corpus_tokens: int = corpus_lib.CAPACITY
  verifier: str = validation.choice('auto', rule_names, checked=False)
  drafters: Any = dataclasses.field(default_factory=default_drafters)
  verifiers: Any = dataclasses.field(default_factory=default_verifiers)
  costs: str = validation.choice('auto', COSTS)
  sampler: str = validation.choice('gumbel', SAMPLERS)
  generation_config: str = validation.choice('safe', GENERATION_CONFIGS)
  temperature: float | None = validation.unset(0.0)
  top_k: int | None = validation.unset(0)
  top_p: float | None = validation.unset(1.0)
  min_p: float | None = validation.unset(0.0)
  repetition_penalty: float | None = validation.unset(1.0)
  no_repeat_ngram_size: int | None = validation.unset(0)
  presence_penalty: float = 0.0
  frequency_penalty: float = 0.0
  logit_bias: str = ''
  suppress_tokens: str | None = validation.unset('')
  bad_words: str | None = validation.unset('')
  num_beams: int = 1
  length_penalty: float = 1.0
  early_stopping: str = validation.choice('false', beam.EARLY_STOPPING)
  min_new_tokens: int | None = validation.unset(0)
  max_new_tokens: int = 128
  num_return_sequences: int = 1
  ignore_eos: bool = False
  stop_token_ids: str = ''
  batch_size: int = validation.number_or((value_ranges.AUTO,), 8)
  prefill_chunk: int = prefill.CHUNK
  window: int = 8
  seed: int = 0
  stop: str = ''
  dtype: str = validation.choice('float32', DTYPES)
  matmul_precision: str = validation.choice('highest', precision.MODES)
  quantize: str = validation.choice('none', QUANTIZE)
  mesh: mesh_lib.MeshConfig = dataclasses.field(
    default_factory=mesh_lib.MeshConfig
  )
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
      {
        name: value
        for name, value in zip(names, moved, strict=True)
        if value is not None
      }
    )

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    check_moved(vars(self))  # Also one assigned to afterwards.
    value_ranges.check(self, PER_PROMPT)
    self.rule()
    options_lib.validate_all(self.drafters, drafter_registry.entries())
    options_lib.validate_all(self.verifiers, verifier_registry.entries())
    validation.check_choices(self, show=str)
    self.mesh.validate(decoding=True)
    value_ranges.check_beams(self)
    self._check_sequences()
    self.template()
    if not all(map(all, each.values(self.stops()))):
      raise ValueError('stop must not hold an empty string.')

  def _check_sequences(self) -> None:
    several = self.num_return_sequences > 1 and self.num_beams == 1
    if self.temperature is None and self.generation_config == 'model':
      return  # The model's own is not known yet.
    if several and np.any(np.asarray(self.in_force('temperature')) == 0):
      raise ValueError(
        f'num_return_sequences={self.num_return_sequences} at temperature 0 '
        'would give the same answer each time; give a temperature above 0, or '
        f'num_beams={self.num_return_sequences}.'
      )

  def in_force(self, name: str) -> Any:
    """The value of a field, or its default where none is given."""
    value = getattr(self, name)
    return validation.default_of(self, name) if value is None else value

  @property
  def rows_known(self) -> int:
    """`batch_size`; its default before auto has been settled."""
    is_auto = self.batch_size == value_ranges.AUTO
    return type(self).batch_size if is_auto else self.batch_size

  def filled(self) -> 'DecodeConfig':
    """The config with defaults in the place of values that are not given."""
    return dataclasses.replace(
      self, **{f.name: self.in_force(f.name) for f in dataclasses.fields(self)}
    )

  def beams(self) -> beam.BeamSpec:
    """The settings of a beam search."""
    return beam.BeamSpec(
      self.num_beams,
      float(self.length_penalty),
      self.early_stopping,
      self.matmul_precision,
    )

  def stops(self) -> tuple[str, ...] | each.Each:
    """The stop strings as a tuple, or a tuple for each prompt."""
    stop = self.stop
    return stop if isinstance(stop, each.Each) else row_stops.of_setting(stop)

  def rule(self) -> Any:
    """The `VerifierEntry` asked for, or None for 'auto'.

    Raises:
      ValueError, FileNotFoundError: there is no such rule.
    """
    return verifier_sources.resolve(self.verifier)

  def recipe_settings(self, **changes: Any) -> assemble.Settings:
    """The settings of a recipe.

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
      matmul_precision=self.matmul_precision,
      logprobs=self.logprobs,
      prefill_chunk=self.prefill_chunk,
    )
    return made._replace(**changes)

  def sampling(self, rows: None | Sequence[int] = None) -> Sampling:
    """The values that shape the distribution.

    Args:
      rows: prompts whose values are wanted, in order; None for all as given.

    Returns:
      `Sampling`.
    """
    values = {
      field.name: self.in_force(field.name)
      for field in dataclasses.fields(Sampling)
    }
    for name, value in values.items():
      if name in LISTS:
        values[name] = each.rows(
          value, rows, functools.partial(LISTS[name], name)
        )
      elif rows is not None:
        values[name] = per_row(value, rows)
    return Sampling(**values)

  def end_ids(self, model_ids: Sequence[int]) -> tuple[int, ...] | each.Each:
    """The ids that end an answer, or one tuple for each prompt.

    Args:
      model_ids: the target's own, which `ignore_eos` leaves out.
    """
    own = () if self.ignore_eos else tuple(model_ids)

    def ends(value):
      given = token_lists.ids('stop_token_ids', value)
      return tuple(dict.fromkeys((*own, *given)))

    return each.mapped(self.stop_token_ids, ends)


def per_row(value: Any, rows: int | Sequence[int]) -> Any:
  """Values of the given prompts, if there is one for each."""
  if isinstance(value, each.Each):
    return each.rows(value, rows)
  return value if np.ndim(value) == 0 else np.asarray(value)[rows]
