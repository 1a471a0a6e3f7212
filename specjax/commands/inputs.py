"""The prompts of a run: read, the same in all processes, and their size."""

from collections.abc import Sequence
from typing import Any

from specjax import prompt_files
from specjax.checkpoints import load as loading
from specjax.commands import openai_batch
from specjax.distributed import processes
from specjax.distributed import watch
from specjax.inference import auto_rows
from specjax.inference import encoding
from specjax.inference import line_settings
from specjax.inference import memory
from specjax.inference import random_models
from specjax.inference import refusals
from specjax.inference import sources


def estimate(
  request: Any, prompts: prompt_files.PromptFiles
) -> tuple[int, memory.MemoryEstimate]:
  """(rows of a batch, memory of each device), by the longest prompt.

  Args:
    request: `decode_file.DecodeRequest`.
    prompts: prompts of the run.

  Raises:
    ValueError, OSError: one sentence.
  """
  sources.check_name(request.drafter)
  config, tokens = request.config, ()
  try:
    config = line_settings.gather(config, prompts, early=True)
    if not random_models.is_shape(request.target):
      tokenizer = loading.load_tokenizer(loading.folder_of(request.target))
      longest = max(prompts, key=lambda line: len(str(line.source)))
      tokens = encoding.rough(tokenizer, longest, config)
  except ValueError:
    if request.on_error == refusals.STOP:
      raise
  given = dict(drafter=request.drafter, prompt_tokens=len(tokens))
  count = len(prompts) * request.config.num_return_sequences
  config = auto_rows.settled(config, request.target, count=count, **given)
  found = memory.estimate_memory(request.target, decode=config, **given)
  return config.batch_size, found


def read(request: Any) -> prompt_files.PromptFiles:
  """The prompts of a `decode_file.DecodeRequest`, as `read_same` reads them."""
  shard = prompt_files.shard_of(request.shard)
  parse = line_settings.parse
  if request.is_batch:
    config = request.config
    parse = openai_batch.parser(config.num_return_sequences, config.logprobs)
  prompts = read_same(
    request.inputs,
    keeps_bad=request.on_error == refusals.SKIP,
    parse=parse,
    is_json=request.is_batch,
  )
  return prompts.shard(*shard)


def read_same(paths: Sequence[str], **how: Any) -> prompt_files.PromptFiles:
  """Files of prompts that must be the same in all processes.

  Args:
    paths: argument of `prompt_files.read_prompts`.
    **how: keywords of it.

  Raises:
    ValueError, OSError: one sentence.
  """
  if prompt_files.STANDARD_INPUT in paths and not watch.is_alone():
    raise ValueError(
      'Several processes cannot share standard input; give --input=FILE, the '
      'same one on every host.'
    )
  prompts = prompt_files.read_prompts(paths, **how)
  processes.check_same(
    f'the prompts in {", ".join(paths)}', prompts.all_digests()
  )
  return prompts
