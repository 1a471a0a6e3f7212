"""What to measure: as asked for, as loaded, and on which machine."""

import datetime
import importlib.metadata
import os
import platform
import sys
from typing import Any, Callable, NamedTuple

import flax
import jax
import jaxlib
import numpy as np

from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark import subjects as subjects_lib
from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.peers import engines as peers_lib
from specjax.checkpoints import load as loading
from specjax.decoding import corpus as corpus_lib
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import drafting

Tell = Callable[[str], None]


class Request(NamedTuple):
  """What to measure.

  Attributes:
    target: a folder, a hub id or 'shape:NAME'.
    drafters: names; see `subjects.DRAFTERS`.
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
  """What was loaded for a request."""

  target: loading.Model
  subjects: list[subjects_lib.Subject]
  prompts: list[prompts_lib.Prompt]
  tables: dict


def prepare(request: Request, tell: Tell) -> Setup:
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
  tell(f'loading {request.target}')
  target = subjects_lib.load(
    request.target,
    dtype=config.dtype,
    seed=config.seed,
    layout=mesh_lib.make_layout(config.mesh),
    int8=int8 in ('target', 'both'),
  )
  drafting.check_target(target)
  subjects = [
    subjects_lib.drafter(name, target, config, int8=int8 in ('drafter', 'both'))
    for name in request.drafters
  ]
  subjects = [subject for subject in subjects if subject]
  earlier = _earlier(request.corpus, subjects, target)
  answer = _answerer(target, config)
  prompts = prompts_lib.collect(target, request.source, config, answer)
  longest = max(config.num_draft) if subjects else 0
  networks = [subject.model for subject in subjects if subject.model]
  kept = prompts_lib.fitting(prompts, target, config, longest, networks)
  if len(kept) < len(prompts):
    tell(f'{len(prompts) - len(kept)} prompts are too long and left out')
  tables = {}
  kinds = {s.kind for s in subjects} & set(subjects_lib.TABLE_ORDER)
  if kinds:
    rows = [prompt.tokens for prompt in kept]
    if config.table_prompts and request.source:
      more = prompts_lib.further(target, request.source, config)
      rows = answer(
        prompts_lib.fitting(more, target, config, longest, networks)
      )
    tables = subjects_lib.tables(rows, target.lm.vocab_size, kinds)
  if earlier or config.warm_corpus or config.corpus_tokens:
    replies = answer(kept) if config.warm_corpus else []
    tables['corpus'] = subjects_lib.corpus(earlier + replies, target, config)
  return Setup(target, subjects, kept, tables)


def _earlier(path: str, subjects, target) -> list[np.ndarray]:
  """The answers in a corpus file, which stays as it is."""
  if not path:
    return []
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'There is no corpus file {path}; decode.main --corpus writes one.'
    )
  readers = [s.drafter for s in subjects if drafting.reads_corpus(s.drafter)]
  drafter = readers[0] if readers else None
  found = drafting.open_corpus(
    path, drafter, target.tokenizer, corpus_lib.LARGEST_CAPACITY
  )
  return corpus_lib.sequences(found)


def _answerer(target: loading.Model, config) -> prompts_lib.Answer:
  """Greedy replies of the target, for second turns."""

  def answer(prompts):
    case = cases_lib.plain(target, config, 0.0, 1)
    decode = assemble.compiled(case.recipe, config.max_new_tokens)
    replies = []
    for batch in cases_lib.batches(prompts, target, config, 0.0, 1):
      made = transfer.to_host(decode(case.params, batch.prompt, batch.controls))
      tokens = check_lib.new_tokens(made, 0)
      replies.append([t for t in tokens if t not in target.eos_ids])
    return replies

  return answer


def describe(request: Request) -> dict[str, Any]:
  """Device, versions and flags, for every row."""
  device = jax.devices()[0]
  return {
    'device': device.device_kind,
    'platform': device.platform,
    'num_devices': jax.device_count(),
    'processor': _processor(),
    'cores': peers_lib.threads(request.config),
    'system': platform.platform(),
    'versions': {
      'python': platform.python_version(),
      'jax': jax.__version__,
      'jaxlib': jaxlib.__version__,
      'flax': flax.__version__,
      'transformers': importlib.metadata.version('transformers'),
      'numpy': np.__version__,
    },
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
