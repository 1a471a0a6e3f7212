"""A note beside a file of answers: what made them.

FILE.made.json is written whole before the first answer, and a run that goes on
with FILE compares. It holds digests of the target, its tokenizer and its chat
template, the settings that decide tokens and digests of all prompts. A drafter
is named where tokens depend on it: not where every token is the target's own
sample and is the same in all shapes.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

from specjax import files
from specjax import validation
from specjax.checkpoints import digests
from specjax.inference import batching
from specjax.inference import paths
from specjax.inference.config import DecodeConfig
from specjax.prompt_files import DIGEST_LETTERS
from specjax.prompt_files import PromptFiles

_MARK, _VERSION = 'specjax_made', 1
# Settings of decoding on which no answer depends.
_FREE = frozenset({'mesh', 'costs', 'corpus_tokens', 'explain'})
# Those on which answers depend under some rules and precisions alone.
_DRAFTING = frozenset({'num_draft', 'verifier', 'verifiers', 'drafters'})
_SHAPES = frozenset({'batch_size', 'window', 'prefill_chunk'})


def path_of(output: str) -> str:
  """Name of the note beside an output."""
  return f'{output}.made.json'


def free(is_drafted: bool = False, is_batched: bool = False) -> frozenset[str]:
  """Names of settings on which no answer depends.

  Args:
    is_drafted: whether tokens depend on drafts.
    is_batched: whether they depend on the batch.
  """
  found = _FREE if is_drafted else _FREE | _DRAFTING
  return found if is_batched else found | _SHAPES


def settings(config: DecodeConfig, without: frozenset[str]) -> dict[str, Any]:
  """Settings of a run in force, as JSON has them.

  Args:
    config: settings of decoding.
    without: names of those that are left out.
  """
  found = dataclasses.asdict(config.filled())
  found = {key: value for key, value in found.items() if key not in without}
  return json.loads(json.dumps(found, default=str))


def of_job(
  request: Any, job: batching.Job, prompts: PromptFiles
) -> dict[str, Any]:
  """The note of a run.

  Args:
    request: `decode_file.DecodeRequest`.
    job: job that is about to be decoded.
    prompts: its prompts.
  """
  return {
    _MARK: _VERSION,
    **digests.of_owners(request.target, job.tokenizer),
    **of_decoding(request, job),
    'shard': request.shard,
    'prompts': prompts.all_digests(),
  }


def of_decoding(
  request: Any, job: batching.Job, without: frozenset[str] = frozenset()
) -> dict[str, Any]:
  """The fields of a note about the way of decoding.

  Args:
    request: request with a `config` and the name of a `drafter`.
    job: job that is about to be decoded.
    without: names of more settings that are left out.
  """
  is_drafted, is_batched = _depends(job)
  found = settings(request.config, free(is_drafted, is_batched) | without)
  found |= {'drafter': request.drafter} if is_drafted else {}
  return {
    # Another drafter gives the same tokens where these are the target's own.
    'drafter': _of_drafter(request.drafter) if is_drafted else '',
    'settings': found,
    'from_generation_config': json.loads(
      json.dumps(dict(job.from_generation_config), default=str)
    ),
  }


def _depends(job: batching.Job) -> tuple[bool, bool]:
  """Whether tokens of a job depend on its drafts, and on its batches."""
  assembled = job.assembled
  precision = paths.precision_of(assembled.target.params)
  # What is rounded may follow the shapes, which depend on batch and drafts.
  is_rounded = bool(paths.XLA.note(precision))
  keeps = assembled.rule.keeps_target_sample and not is_rounded
  is_drafted = assembled.drafts and not keeps
  return is_drafted, is_rounded or not assembled.is_row_independent


def _of_drafter(name: str) -> str:
  """Digest of a drafter by its name, of its weights and its own code."""
  # 'hybrid:FOLDER' and 'FILE.py:NAME' have two parts, FOLDER has one.
  found = []
  for part in name.split(':'):
    if os.path.isfile(part):
      with open(part, 'rb') as file:
        found.append(hashlib.file_digest(file, 'sha256').hexdigest())
    else:
      found.append(digests.of_target(part))
  return hashlib.sha256(' '.join(found).encode()).hexdigest()


def read(output: str) -> dict[str, Any] | None:
  """The note beside an output, None where there is none.

  Raises:
    ValueError: it is something else.
  """
  path = path_of(output)
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      found = files.parse_json(file.read())
  except ValueError:
    found = None
  kinds = dict.fromkeys([*digests.OWNERS, 'shard', 'prompts'], str)
  kinds |= {'settings': dict, 'from_generation_config': dict}
  good = isinstance(found, dict) and found.get(_MARK) == _VERSION
  if not good or not all(isinstance(found.get(k), kinds[k]) for k in kinds):
    raise ValueError(
      f'{path} is no note of what made {output}, so that cannot be resumed; '
      'remove the note to go on without it.'
    )
  return found


def write(output: str, made: dict[str, Any]) -> None:
  """Writes the note of an output; raises OSError with one sentence."""
  files.write_text(path_of(output), json.dumps(made, indent=1) + '\n')


def check_prompts(
  output: str, old: dict[str, Any], prompts: PromptFiles, count: int
) -> None:
  """Refuses to go on with other prompts.

  Args:
    output: path of the output.
    old: its note.
    prompts: prompts of this run.
    count: number of the first prompts that are answered.

  Raises:
    ValueError: names the first one that differs.
  """
  size = DIGEST_LETTERS
  for index in range(count):
    before = old['prompts'][index * size : (index + 1) * size]
    if before != prompts.digest(index):
      raise ValueError(
        f'{output} was begun with another prompt in the place of '
        f'{prompts[index].where} (its text, an earlier turn, a role or a '
        'setting differs), so it cannot be resumed; give the input it was '
        'begun with.'
      )


def check_settings(
  output: str, old: dict[str, Any], mine: dict[str, Any]
) -> None:
  """Refuses other settings, as far as they are known before models are loaded.

  Args:
    output: path of the output.
    old: settings that it was begun with.
    mine: settings of this run that are known.

  Raises:
    ValueError: names the setting and both values.
  """
  _refuse(output, {k: v for k, v in old.items() if k in mine}, mine)


def check_owners(
  output: str, old: dict[str, Any], made: dict[str, Any]
) -> None:
  """Refuses to go on with what others began.

  Args:
    output: path of the output.
    old: its note.
    made: note of this run, or the part of it that is known.

  Raises:
    ValueError: names the first who differs.
  """
  for key, word in digests.OWNERS.items():
    if key in made and old[key] != made[key]:
      one, other = (x[key][:12] or 'none' for x in (old, made))
      raise ValueError(
        f'{output} was begun with another {word} (digest {one}, not {other}), '
        'so it cannot be resumed; give the models it was begun with, or '
        'another --output.'
      )


def check(output: str, old: dict[str, Any], made: dict[str, Any]) -> None:
  """Refuses to go on with what another run began.

  Args:
    output: path of the output.
    old: its note.
    made: note of this run.

  Raises:
    ValueError: names the first difference and both values.
  """
  check_owners(output, old, made)
  for key in ('settings', 'from_generation_config'):
    _refuse(output, old[key], made[key])


def _refuse(output: str, old: dict[str, Any], new: dict[str, Any]) -> None:
  found = validation.difference(old, new)
  if found is None:
    return
  one, other = (
    'nothing' if value is validation.ABSENT else repr(value)
    for value in (found.one, found.other)
  )
  raise ValueError(
    f'{output} was begun with {found.path}={one} and not {other}, so it cannot '
    'be resumed; give the settings it was begun with, or another --output.'
  )
