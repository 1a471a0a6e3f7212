"""The demo: models trained here translate English to German.

Eight sentences and two passages, one at a time, are decoded plainly and
speculatively by turns. The printed figures are measured in this run.
"""

import dataclasses
import pathlib
from typing import Any

import jax

from specjax import prompt_files
from specjax import text as text_lib
from specjax.checkpoints import load as loading
from specjax.commands import cli
from specjax.commands import comparison
from specjax.commands import statistics as run_statistics
from specjax.inference import batching
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference import summary
from specjax.inference.config import DecodeConfig

ASSETS = pathlib.Path(__file__).resolve().parents[1] / 'assets'
TARGET = ASSETS / 'demo_target'
DRAFTER = ASSETS / 'demo_drafter'
REPEATS = 5
# Most source positions for which the bundled models were trained.
MAX_SOURCE = 92

PROMPTS = tuple(prompt_files.read_lines(str(text_lib.BUNDLED_PROMPTS)))


def run(
  prompt: str,
  config: DecodeConfig,
  target: str | None = None,
  drafter: str | None = None,
  dtype: str | None = None,
) -> dict[str, Any]:
  """Translates and measures; prints to standard output.

  Args:
    prompt: English sentence; '' for the built-in ones.
    config: settings of decoding. Sentences go one at a time, and samples are
      coupled to plain sampling unless a verifier is named.
    target: folder of a model of `configs/demo_target.py`; None for the bundled.
    drafter: name as `sources.resolve` takes it; None for the bundled.
    dtype: precision; None for float32.

  Returns:
    The numbers that were printed.

  Raises:
    FileNotFoundError: a model is neither named nor bundled.
    ValueError: the sentence is too long, or a batch is asked for.
  """
  if config.batch_size not in (1, DecodeConfig().batch_size):
    raise ValueError(
      'The demo translates one sentence at a time; leave batch_size at 1.'
    )
  target = target or _bundled(TARGET, 'target')
  drafter = drafter or _bundled(DRAFTER, 'drafter')
  dtype = dtype or 'float32'
  config = dataclasses.replace(config, batch_size=1, dtype=dtype)
  # Under `coupled` the tokens are those of plain sampling, so 'identical
  # tokens' is a check at any temperature.
  if config.temperature and config.verifier == 'auto':
    config = dataclasses.replace(config, verifier='coupled')
  prompts = [prompt] if prompt else list(PROMPTS)
  model = loading.load(target, dtype=dtype)
  job = _one_width(
    planning.plan(model, prompts, drafter=drafter, config=config)
  )
  plain_job = dataclasses.replace(
    _one_width(planning.plan(model, prompts, config=config)),
    batches=job.batches,
  )
  device = jax.devices()[0].device_kind
  cli.note(f'English to German on {device}, {dtype}, batch size 1.')
  found = _measure(job, plain_job)
  print(_table(found, job, dtype), flush=True)
  return found


def _measure(job: batching.Job, plain_job: batching.Job) -> dict[str, Any]:
  """Decodes both ways by turns, shows the answers and returns statistics."""
  compile_seconds = inference.warm_up(job)
  _show(job)
  compile_seconds += inference.warm_up(plain_job)
  turns = comparison.by_turns(plain_job, job, lambda times: times == REPEATS)
  plain, speculative = turns.tokens_per_second
  found = summary.summarize(turns.answers, None, compile_seconds)
  return found | {
    'seconds': turns.seconds[1],
    'tokens_per_second': speculative,
    'plain_tokens_per_second': plain,
    'speedup': speculative / plain,
    'timed': turns.left_out,
    'identical': run_statistics.same_tokens(turns.answers, turns.plain),
  }


def _bundled(folder: pathlib.Path, role: str) -> str:
  if not (folder / 'config.json').is_file():
    raise FileNotFoundError(
      f'No {role} is bundled with this version; train one with '
      f'configs/demo_{role}.py and name it with --{role}.'
    )
  return str(folder)


def _one_width(job: batching.Job) -> batching.Job:
  """All prompts at the widest one's width: one program to compile."""
  longest = max(len(row.tokens) for row in job.rows)
  # A blank sentence has tokens all the same, such as its end.
  blank = not any(row.prompt.strip() for row in job.rows)
  if blank or not job.config.max_new_tokens:
    raise ValueError(
      'There is nothing to translate: give a sentence that is not blank, and '
      'max_new_tokens of at least 1.'
    )
  if longest > MAX_SOURCE:
    raise ValueError(
      f'The sentence has {longest} tokens, but the demo model was trained on '
      f'at most {MAX_SOURCE}; shorten it.'
    )
  width = max((batch.width for batch in job.batches), default=0)
  batches = tuple(batch._replace(width=width) for batch in job.batches)
  return dataclasses.replace(job, batches=batches, refill=None)


def _show(job: batching.Job) -> None:
  """Prints each answer as soon as it is there."""
  for batch in inference.stream(job):
    for answer in batch.answers:
      print(f'  {answer.prompt}\n> {answer.text}\n', flush=True)
    cli.check_interrupt()


def _table(found: dict[str, Any], job: batching.Job, mode: str) -> str:
  total = found['num_answers']
  slots = job.assembled.plan.num_draft
  rows = [
    ('plain', f'{found["plain_tokens_per_second"]:.0f} tokens/s ({mode})'),
    ('speculative', f'{found["tokens_per_second"]:.0f} tokens/s ({mode})'),
    ('speed-up', f'{found["speedup"]:.2f}{found["timed"]}'),
    ('block efficiency', run_statistics.number(found['block_efficiency'], 2)),
    (
      'acceptance rate',
      run_statistics.acceptance(found, f'{slots} draft slots'),
    ),
    ('identical tokens', f'{found["identical"]} of {total}'),
  ]
  return '\n'.join(f'{name + ":":<18}{value}' for name, value in rows)
