"""The request of a benchmark, the models it loads, and the machine."""

from collections.abc import Callable, Sequence
import datetime
import importlib.metadata
import math
import os
import platform
import sys
from typing import Any, NamedTuple
import warnings

import jax
import numpy as np

from specjax import machine as machine_lib
from specjax import text as text_lib
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import defaults as defaults_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import subjects as subjects_lib
from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.peers import engines as peers_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.inference import assemble
from specjax.inference import decode_batch
from specjax.inference import fitness
from specjax.inference import idle as idle_lib
from specjax.inference import paths
from specjax.inference import planning
from specjax.inference import prompt_checks
from specjax.inference import sources as sources_lib
from specjax.models import registry as families

LogFn = Callable[[str], None]
_PACKAGES = ('jax', 'jaxlib', 'flax', 'transformers', 'numpy')


class BenchmarkRequest(NamedTuple):
  """A benchmark as a user asks for it.

  Attributes:
    target: name of the target: a folder, a hub id or 'shape:NAME'.
    drafters: names of drafters, as `sources.resolve` takes them.
    source: file of prompts, or '' for the bundled ones (for a target without a
      tokenizer, random ones).
    peers: names of other engines, of `peers.PEERS`.
    config: `BenchmarkConfig`, validated.
    corpus: file of earlier answers for the drafters that read one, or ''.
    given: names of settings that the user chose, even if the value is the
      default; a value that is not the default counts as chosen.
  """

  target: str
  drafters: tuple[str, ...]
  source: str
  peers: tuple[str, ...]
  config: BenchmarkConfig
  corpus: str = ''
  given: tuple[str, ...] = ()


class Setup(NamedTuple):
  """Models and prompts of a request.

  Attributes:
    target: model that decides.
    sources: drafters of the request.
    prompts: prompts that are decoded.
    data: inputs of the drafters' parameters.
    config: `BenchmarkConfig`, with one value of `quantize`.
    taken: settings from the target's generation_config.json.
  """

  target: model_lib.Model
  sources: list[Source]
  prompts: list[prompts_lib.EncodedPrompt]
  data: DraftData
  config: BenchmarkConfig
  taken: defaults_lib.Defaults = defaults_lib.Defaults()

  def sampling(self, temperature: float) -> Sampling:
    """The values that shape the distribution, at one temperature."""
    return self.taken.sampling(self.config.sampling(temperature))

  def batches(
    self, temperature: float, batch_size: int, apart: Sequence[int] = ()
  ) -> list[cases_lib.PromptBatch]:
    """The prompts in batches; `apart` as in `cases.batches`.

    Prompts that are refilled go in together.
    """
    sampling = self.sampling(temperature)
    size = None if self.config.refill else batch_size
    return cases_lib.batches(
      self.prompts, self.target, self.config, sampling, size, apart
    )

  def plain(self, temperature: float, batch_size: int) -> cases_lib.Case:
    """Plain decoding."""
    warp = self.sampling(temperature).warp_spec()
    return cases_lib.plain(
      self.target, self.config, temperature, batch_size, warp=warp
    )

  def case(
    self,
    source: Source,
    temperature: float,
    batch_size: int,
    *,
    tree: str = '',
    **changes: Any,
  ) -> cases_lib.Case:
    """A speculative case; `changes` as in `BenchmarkConfig.recipe_settings`."""
    warp = self.sampling(temperature).warp_spec()
    return cases_lib.speculative(
      self.target,
      source,
      self.config.recipe_settings(temperature, warp=warp, **changes),
      self.data,
      temperature=temperature,
      batch_size=batch_size,
      config=self.config,
      tree=tree,
    )

  def notes(self, cases: Sequence[cases_lib.Case]) -> list[str]:
    """Sentences about idle options and too few positions in these cases.

    Raises:
      ValueError: an option that no case of its drafter can obey.
    """
    runs = [case.assembled for case in cases]
    found = idle_lib.of_options(self.config, runs, self.config.verifier)
    longest = max((len(prompt.tokens) for prompt in self.prompts), default=0)
    given = 1 if self.target.lm.is_encoder_decoder else longest
    reached = given + self.config.max_new_tokens
    few = [prompt_checks.about_positions(run, reached) for run in runs]
    # Once for each drafter, whatever else differs between its cases.
    return found + [note for note in dict.fromkeys(few) if note]


def named_or_bundled(target: model_lib.Model, path: str, log_fn: LogFn) -> str:
  """The file to read: the bundled one where a target that reads text has none.

  Args:
    target: model that decodes the prompts.
    path: file that was named, or ''.
    log_fn: callback with a line about the bundled file.
  """
  if path or target.tokenizer is None:
    return path
  log_fn('no --input: taking the bundled English sentences')
  return str(text_lib.BUNDLED_PROMPTS)


def prepare(request: BenchmarkRequest, log_fn: LogFn) -> Setup:
  """Loads the models and the prompts; `quantize` must have one value.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  _check(request)
  config = request.config
  (int8,) = config.quantize
  target = sources_lib.load_target(
    request.target,
    dtype=config.dtype,
    seed=config.seed,
    layout=sources_lib.layout_for(
      request.target, config.mesh, math.gcd(*config.batch_size)
    ),
    int8=int8 in ('target', 'both'),
  )
  model_lib.check_target(target)
  note = paths.XLA.note(paths.precision_of(target.params))
  if note:
    log_fn(note)
  sources = load_drafters(request.drafters, target, config, int8)
  earlier = _earlier(request.corpus, sources, target, config)
  answer = _answerer(target, config, log_fn)
  path = named_or_bundled(target, request.source, log_fn)
  prompts = prompts_lib.collect(target, path, config, answer, join=config.join)
  models = [source.model for source in sources if source.model is not None]
  kept = prompts_lib.fitting(prompts, target, config, models)
  if len(kept) < len(prompts):
    log_fn(f'{len(prompts) - len(kept)} prompts are too long and left out')
  rows = [prompt.tokens for prompt in kept]
  # Answers to other prompts: of those to the measured ones a table would know
  # what it is to guess.
  if config.table_prompts and path:
    more = prompts_lib.further(target, path, config)
    rows = answer(prompts_lib.fitting(more, target, config, models))
  index = None
  if earlier or config.warm_corpus or config.corpus_tokens:
    replies = answer(kept) if config.warm_corpus else []
    corpus = subjects_lib.corpus(earlier + replies, target, config)
    index = corpus_lib.index(corpus)
  given = [prompt.tokens for prompt in kept]
  config, taken = defaults_lib.take(
    config, target, given, request.peers, request.given
  )
  data = DraftData(rows=rows, index=index)
  return Setup(target, sources, kept, data, config, taken)


def _check(request: BenchmarkRequest) -> None:
  """Refuses settings that do not fit, and notes idle ones, before loading."""
  config = request.config
  idle = config.sampling(max(config.temperature)).idle()
  if idle:
    warnings.warn(idle, stacklevel=3)
  peers_lib.check(request.peers)
  if len(config.quantize) > 1:
    raise ValueError(
      'Only the sweep compares several values of quantize; give one here.'
    )
  if request.peers and config.refill:
    raise ValueError(
      'A peer decodes whole batches; leave refill at false, or --peer out.'
    )
  (int8,) = config.quantize
  if request.peers and int8 != 'none':
    raise ValueError(
      'A peer reads the weights as they are; leave quantize at none, or --peer '
      'out.'
    )


def most_draft(source: Source) -> int | None:
  """Most tokens that a drafter was made to draft at once; None: no bound."""
  if source.model is None or source.model.config is None:
    return None
  return families.facts(source.model.config).max_draft or None


def load_drafters(
  names: Sequence[str], target: model_lib.Model, config: Any, int8: str = 'none'
) -> list[Source]:
  """Loads the drafters of a request for its target.

  Args:
    names: names as `sources.resolve` takes them; 'none' is left out.
    target: model for which they draft.
    config: `BenchmarkConfig` or `CertifyConfig`.
    int8: models whose matrices are kept in eight bits, of `config.QUANTIZE`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  # Another seed than the target's: a drafter with the same random weights would
  # always agree with it.
  how = sources_lib.Loading(
    dtype=config.dtype,
    int8=int8 in ('drafter', 'both'),
    layout=sources_lib.drafter_layout(target.layout, config.mesh),
    num_draft=config.longest_draft,
    seed=config.seed + 1,
  )
  found = [sources_lib.resolve(name, target, how) for name in names]
  found = [source for source in found if source is not None]
  for source in found:
    fitness.check(target, source)
  return [sources_lib.to_layout(source, target.layout) for source in found]


def _earlier(path: str, sources, target, config) -> list[np.ndarray]:
  """The answers in a corpus file, which stays as it is."""
  if not path:
    return []
  settings = config.recipe_settings(0.0, num_draft=max(config.num_draft))
  planned = [
    assemble.assemble(assemble.target_of(target), source, settings).plan
    for source in sources
  ]
  # A file that nobody reads would be taken for a warm corpus in the results.
  if not any(plan.reads_corpus for plan in planned):
    raise ValueError(planning.NO_READER)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'There is no corpus file {path}; decode.main --corpus writes one.'
    )
  found = planning.open_corpus(
    path, target.tokenizer, corpus_lib.LARGEST_CAPACITY
  )
  return corpus_lib.sequences(found)


def _answerer(
  target: model_lib.Model, config, log_fn: LogFn
) -> prompts_lib.Answer:
  """Makes a function that gives greedy replies of the target.

  Second turns, tables of counts and a warm corpus need them.
  """

  def answer(prompts):
    log_fn(f'answering {len(prompts)} prompts with the target')
    case = cases_lib.plain(target, config, 0.0, 1)
    batches = cases_lib.batches(
      prompts, target, config, config.sampling(0.0), 1
    )
    return [
      # An end token within a conversation, or within a corpus, would end the
      # text for whoever goes on from it.
      [t for t in decode_batch.new_tokens(made, 0) if t not in target.eos_ids]
      for made in case.decode(batches, config.max_new_tokens)
    ]

  return answer


def describe(request: BenchmarkRequest) -> dict[str, Any]:
  """Device, versions and flags, for every row."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'num_devices': jax.device_count(),
    'processor': machine_lib.processor(),
    'cores': peers_lib.threads(request.config),
    'system': platform.platform(),
    'versions': {'python': platform.python_version()}
    | {name: importlib.metadata.version(name) for name in _PACKAGES},
    'flags': {
      name: os.environ[name]
      for name in ('XLA_FLAGS', 'JAX_PLATFORMS', 'OMP_NUM_THREADS', 'NPROC')
      if name in os.environ
    },
    'command': sys.argv[1:],
    'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def machine(environment: dict) -> dict[str, Any]:
  """Fields of a row that name machine and time, from `describe`."""
  names = ('time', 'device', 'platform', 'num_devices', 'processor', 'cores')
  return {name: environment[name] for name in names} | {
    'jax_version': environment['versions']['jax']
  }
