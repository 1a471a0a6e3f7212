"""What to measure: as asked for, as loaded, and on which machine."""

import datetime
import importlib.metadata
import os
import platform
import sys
from typing import Any, Callable, NamedTuple, Optional, Sequence

import jax
import numpy as np

from specjax import text as text_lib
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import subjects as subjects_lib
from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.peers import engines as peers_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import planning
from specjax.inference import sources as sources_lib
from specjax.models import registry as families

LogFn = Callable[[str], None]
_PACKAGES = ('jax', 'jaxlib', 'flax', 'transformers', 'numpy')


class BenchmarkRequest(NamedTuple):
  """What to measure.

  Attributes:
    target: a folder, a hub id or 'shape:NAME'.
    drafters: as `sources.resolve` takes them.
    source: a file of prompts, or '' for random ones (of a shape).
    peers: names of `peers.PEERS`.
    config: `BenchmarkConfig`, validated.
    corpus: a file of earlier answers for the drafters that read one, or ''.
  """

  target: str
  drafters: tuple[str, ...]
  source: str
  peers: tuple[str, ...]
  config: BenchmarkConfig
  corpus: str = ''


class Setup(NamedTuple):
  """What was loaded for a request.

  Attributes:
    target: the target.
    sources: drafters.
    prompts: what is decoded.
    data: what parameters of drafters are made of.
    config: `BenchmarkConfig`, with one value of `quantize`.
  """

  target: model_lib.Model
  sources: list[Source]
  prompts: list[prompts_lib.EncodedPrompt]
  data: DraftData
  config: BenchmarkConfig

  def batches(
    self, temperature: float, batch_size: int
  ) -> list[cases_lib.PromptBatch]:
    """The prompts in batches."""
    sampling = self.config.sampling(temperature)
    return cases_lib.batches(
      self.prompts, self.target, self.config, sampling, batch_size
    )

  def plain(self, temperature: float, batch_size: int) -> cases_lib.Case:
    """Plain decoding."""
    return cases_lib.plain(self.target, self.config, temperature, batch_size)

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
    return cases_lib.speculative(
      self.target,
      source,
      self.config.recipe_settings(temperature, **changes),
      self.data,
      temperature=temperature,
      batch_size=batch_size,
      config=self.config,
      tree=tree,
    )


def prepare(request: BenchmarkRequest, log_fn: LogFn) -> Setup:
  """Loads the models and the prompts; `quantize` must have one value.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  config = request.config
  peers_lib.check(request.peers)
  if len(config.quantize) > 1:
    raise ValueError(
      'Only the sweep compares several values of quantize; give one here.'
    )
  (int8,) = config.quantize
  if request.peers and int8 != 'none':
    raise ValueError(
      'A peer reads the weights as they are; leave quantize at none, or --peer '
      'out.'
    )
  log_fn(f'loading {request.target}')
  target = sources_lib.load_target(
    request.target,
    dtype=config.dtype,
    seed=config.seed,
    layout=mesh_lib.make_layout(config.mesh),
    int8=int8 in ('target', 'both'),
  )
  model_lib.check_target(target)
  sources = load_drafters(request.drafters, target, config, int8)
  earlier = _earlier(request.corpus, sources, target, config)
  answer = _answerer(target, config)
  prompts = prompts_lib.collect(
    target, request.source, config, answer, join=config.join
  )
  longest = max(config.num_draft) if sources else 0
  models = [source.model for source in sources if source.model is not None]
  kept = prompts_lib.fitting(prompts, target, config, longest, models)
  if len(kept) < len(prompts):
    log_fn(f'{len(prompts) - len(kept)} prompts are too long and left out')
  rows = [prompt.tokens for prompt in kept]
  if config.table_prompts and request.source:
    more = prompts_lib.further(target, request.source, config)
    rows = answer(prompts_lib.fitting(more, target, config, longest, models))
  index = None
  if earlier or config.warm_corpus or config.corpus_tokens:
    replies = answer(kept) if config.warm_corpus else []
    corpus = subjects_lib.corpus(earlier + replies, target, config)
    index = corpus_lib.index(corpus)
  return Setup(target, sources, kept, DraftData(rows=rows, index=index), config)


def most_draft(source: Source) -> Optional[int]:
  """Most tokens that a drafter was made to draft at once; None: no bound."""
  if source.model is None or source.model.config is None:
    return None
  return families.facts(source.model.config).max_draft or None


def load_drafters(
  names: Sequence[str], target: model_lib.Model, config, int8: str = 'none'
) -> list[Source]:
  """Loads the drafters of a request for its target.

  Args:
    names: as `sources.resolve` takes them; 'none' is left out.
    target: what they draft for.
    config: `BenchmarkConfig` or `CertifyConfig`.
    int8: whose matrices are kept in eight bits, of `config.QUANTIZE`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
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
    if source.model is not None:
      text_lib.check_same_vocabulary(target.tokenizer, source.model.tokenizer)
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


def _answerer(target: model_lib.Model, config) -> prompts_lib.Answer:
  """Greedy replies of the target, for second turns."""

  def answer(prompts):
    case = cases_lib.plain(target, config, 0.0, 1)
    batches = cases_lib.batches(
      prompts, target, config, config.sampling(0.0), 1
    )
    return [
      [t for t in check_lib.new_tokens(made, 0) if t not in target.eos_ids]
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
    'processor': _processor(),
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
    'time': datetime.datetime.now(datetime.timezone.utc).isoformat(
      timespec='seconds'
    ),
  }


def _processor() -> str:
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      for line in file:
        if line.startswith('model name'):
          return line.split(':', 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()
