"""Other engines, each in a process of its own, fed over a pipe.

A peer gets the same weights, prompts, precision, threads and number of new
tokens. It never shares a process with JAX: the thread pools of two engines in
one process slow both (a factor of two was measured). Between its turns a peer
is stopped, because its threads would wait actively and take the cores from the
engine whose turn it is (again a factor of two).
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import types
from typing import Any, NamedTuple

import numpy as np

from specjax import base
from specjax.benchmark.cases import PromptBatch
from specjax.benchmark.measure import Engine
from specjax.benchmark.measure import Timing


class Peer(NamedTuple):
  """An engine to compare with.

  Attributes:
    worker: name of its file, beside this one; see `worker`.
    needs: names of its packages.
    plain: whether it decodes without a drafter.
    assisted: whether it decodes with a drafter.
    same_tokens: whether its greedy tokens should equal ours.
    takes_settings: whether it takes the settings that a benchmark takes from
      the target's generation_config.json.
  """

  worker: str
  needs: tuple[str, ...]
  plain: bool = True
  assisted: bool = False
  same_tokens: bool = True
  takes_settings: bool = True


# Our drafters that have a counterpart in peers.
DRAFT_MODEL, LOOKUP = 'draft model', 'lookup'
LIKE = {'draft_model': DRAFT_MODEL, 'prompt_lookup': LOOKUP}

_TORCH = ('torch', 'transformers')
_CTRANSLATE2 = 'ctranslate2_worker.py', ('ctranslate2', *_TORCH)
PEERS = {
  # Plain and assisted generation, and prompt lookup, with our number of draft
  # tokens; the assisted ones with drafts that end where the drafter is unsure
  # (transformers' default); plain generation compiled, with a static cache.
  'transformers': Peer('transformers_worker.py', _TORCH, assisted=True),
  'transformers-adaptive': Peer(
    'transformers_worker.py', _TORCH, plain=False, assisted=True
  ),
  'transformers-compile': Peer('transformers_worker.py', _TORCH),
  'ctranslate2': Peer(*_CTRANSLATE2, takes_settings=False),
  'ctranslate2-int8': Peer(
    *_CTRANSLATE2, same_tokens=False, takes_settings=False
  ),
}


def check(names: Sequence[str]) -> None:
  """Refuses unknown peers and those whose packages are missing.

  Raises:
    ValueError: one sentence.
  """
  for name in names:
    if name not in PEERS:
      raise ValueError(
        f'Unknown peer {name!r}; give one of {", ".join(PEERS)}.'
      )
    missing = [
      p for p in PEERS[name].needs if importlib.util.find_spec(p) is None
    ]
    if missing:
      raise ValueError(
        f'--peer={name} needs the package {missing[0]}, which is not '
        f'installed; pip install {missing[0]}, or leave --peer out.'
      )


def threads(config: Any) -> int:
  """Threads a peer may use: as many as this process may."""
  if config.threads:
    return config.threads
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def job_of(
  peer: str,
  target: str,
  drafter: str | None,
  *,
  lookup: bool = False,
  num_draft: int,
  temperature: float,
  batches: Sequence[PromptBatch],
  model: Any,
  config: Any,
  device: str,
  settings: Mapping[str, Any] = types.MappingProxyType({}),
) -> dict:
  """The job of a worker, as a JSON object.

  Args:
    peer: name of the peer, one of `PEERS`.
    target: folder of the target.
    drafter: folder of the drafter, or None.
    lookup: whether drafts are looked up in the prompt.
    num_draft: draft length K.
    temperature: divisor of the logits; 0 is greedy.
    batches: prompts, in batches.
    model: `Model` of the target.
    config: `BenchmarkConfig`.
    device: name that JAX has for the platform.
    settings: further fields of transformers' GenerationConfig.
  """
  return {
    'peer': peer,
    'target': target,
    'drafter': drafter,
    'lookup': lookup,
    'num_draft': num_draft,
    'temperature': temperature,
    'top_k': config.top_k,
    'top_p': config.top_p,
    'settings': dict(settings),
    'batches': [_rows(batch.prompt) for batch in batches],
    'widths': [int(batch.prompt.tokens.shape[1]) for batch in batches],
    'max_new_tokens': config.max_new_tokens,
    'eos_ids': [int(i) for i in config.end_ids(model.eos_ids)],
    'pad_id': model.pad_id,
    'is_encoder_decoder': model.lm.is_encoder_decoder,
    'start_id': model.lm.start_id,
    'dtype': 'float32' if config.dtype == 'w8a8' else config.dtype,
    'threads': threads(config),
    'seed': config.seed,
    'device': 'cuda' if device in ('gpu', 'cuda') else 'cpu',
  }


def _rows(prompt: base.Prompt) -> list[list[int]]:
  """The ids of a batch without padding."""
  rows = zip(np.asarray(prompt.tokens), np.asarray(prompt.length), strict=True)
  return [row[:length].tolist() for row, length in rows]


@contextlib.contextmanager
def started(job: dict, label: str) -> Iterator[tuple[Engine, dict]]:
  """Starts a peer's process and ends it afterwards.

  Args:
    job: job from `job_of`.
    label: name of the engine.

  Yields:
    (the engine, versions of its packages).

  Raises:
    ValueError: if the peer reports an error or ends early.
  """
  here = pathlib.Path(__file__).parent
  files = [
    str(here / name) for name in ('worker.py', PEERS[job['peer']].worker)
  ]
  environment = dict(os.environ)
  environment['OMP_NUM_THREADS'] = str(job['threads'])
  environment['TOKENIZERS_PARALLELISM'] = 'false'
  # Compiling in its own threads, a peer leaves no processes behind.
  environment['TORCHINDUCTOR_COMPILE_THREADS'] = '1'
  if job['peer'].startswith('ctranslate2'):
    # Its threads sleep between steps otherwise, and waking them costs more
    # than the step.
    environment['OMP_WAIT_POLICY'] = 'ACTIVE'
  process = subprocess.Popen(
    [sys.executable, '-P', *files],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env=environment,
  )

  def run(index: int) -> tuple[Timing, Any]:
    process.send_signal(signal.SIGCONT)
    answer = _ask(process, job['peer'], {'run': index})
    process.send_signal(signal.SIGSTOP)
    return Timing(answer['seconds']), answer

  try:
    ready = _ask(process, job['peer'], job)
    process.send_signal(signal.SIGSTOP)
    yield Engine(label, run, None, ready['seconds']), ready['versions']
  finally:
    process.send_signal(signal.SIGCONT)
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()
    try:
      process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    process.stdout.close()


def _ask(process: subprocess.Popen, peer: str, message: dict) -> dict:
  """Sends one JSON line and reads one."""
  line = ''
  with contextlib.suppress(BrokenPipeError):
    process.stdin.write(json.dumps(message) + '\n')
    process.stdin.flush()
    line = process.stdout.readline()
  if not line:
    raise ValueError(f'The peer {peer} ended early; see its message above.')
  answer = json.loads(line)
  if 'error' in answer:
    raise ValueError(f'The peer {peer} failed: {answer["error"]}')
  return answer
