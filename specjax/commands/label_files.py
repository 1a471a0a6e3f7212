"""A file of labels as a run begins it, goes on with it and compares it."""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any
import warnings

from specjax import prompts as prompts_lib
from specjax.checkpoints import digests
from specjax.checkpoints import model as model_lib
from specjax.commands import answer_files
from specjax.commands import made
from specjax.inference import batching
from specjax.inference import encoding
from specjax.inference import generate as inference
from specjax.inference import line_settings
from specjax.inference import truncation
from specjax.training.data import labels

# Settings of answers that labels do not hold.
_FREE = frozenset({'logprobs', 'skip_special_tokens'})


def lines(
  rows: Sequence[batching.Row],
  answers: Sequence[inference.Answer],
  prompts: Sequence[prompts_lib.Line],
) -> str:
  """Lines of answers, with the prompts as the target read them.

  Args:
    rows: rows of the answers.
    answers: the answers.
    prompts: lines of the input, whose own settings are kept.
  """
  return ''.join(
    json.dumps(
      labels.record(
        row.prompt_index,
        row.tokens,
        answer.tokens,
        answer.finish_reason,
        _own(prompts[row.prompt_index]),
      )
    )
    + '\n'
    for row, answer in zip(rows, answers, strict=True)
  )


def _own(line: prompts_lib.Line) -> dict[str, Any]:
  """The settings of a line, as it holds them."""
  found = line.settings.items()
  return {
    key: value
    for key, value in found
    if key in line_settings.READERS and value is not None
  }


def owners(request: Any, target: model_lib.Model) -> dict[str, str]:
  """Digests of who answers, without the drafter.

  Args:
    request: `label.LabelRequest`.
    target: the model that it names.

  Raises:
    ValueError: it has no tokenizer.
  """
  if target.tokenizer is None:
    raise ValueError(
      f'{request.target} holds no tokenizer, so its answers cannot be labels.'
    )
  return digests.of_owners(request.target, target.tokenizer)


def head(
  request: Any, job: batching.Job, who: Mapping[str, str]
) -> dict[str, Any]:
  """The first line of the output.

  Args:
    request: `label.LabelRequest`.
    job: job that is about to be decoded.
    who: result of `owners`.
  """
  return labels.head(
    made_by={
      'target': request.target,
      'inputs': list(request.inputs),
      'field': request.field,
    },
    **made.of_decoding(request, job, _FREE),
    **who,
  )


def _old_head(path: str) -> dict[str, Any] | None:
  """The head of a begun output; None where there is no whole line yet.

  Raises:
    ValueError: the file is something else.
  """
  if not os.path.isfile(path):
    return None
  with open(path, 'rb') as file:
    first = file.readline()
  # Killed while it wrote the head, or before.
  if not first.endswith(b'\n') and labels.is_begun(first):
    return None
  found = labels.parse_head(first.decode('utf-8', errors='replace'))
  if found is None:
    raise ValueError(
      f'{path} is no begun file of labels, so it cannot be resumed; take '
      'another --output.'
    )
  return found


def check_settings(request: Any) -> None:
  """Refuses other settings as far as they are known before models are loaded.

  Args:
    request: `label.LabelRequest`.

  Raises:
    ValueError: names the setting and both values, or the output is something
      else.
  """
  old = _old_head(request.output)
  if old is not None:
    mine = made.settings(request.config, made.free() | _FREE)
    made.check_settings(request.output, old['settings'], mine)


def check_head(request: Any, new: dict[str, Any]) -> None:
  """Refuses to go on with what a run of another head began.

  Args:
    request: `label.LabelRequest`.
    new: result of `head`.

  Raises:
    ValueError: names the first difference.
  """
  old = _old_head(request.output)
  if old is not None:
    made.check(request.output, old, new)


def begun(
  request: Any,
  target: model_lib.Model,
  prompts: Sequence[prompts_lib.Line],
  who: Mapping[str, str],
) -> tuple[int, int]:
  """(answers of completed prompts, bytes with the head) of a begun output.

  Args:
    request: `label.LabelRequest`.
    target: model that answers.
    prompts: lines of the input.
    who: result of `owners`.

  Raises:
    ValueError: the output is of another target, or answers other prompts.
  """
  path, per_prompt = request.output, request.config.num_return_sequences
  old = _old_head(path)
  if old is None:
    return 0, 0
  made.check_owners(path, old, who)
  encoded = _encoded(request.config, target, prompts)

  def answers(row, index):
    return _answers(row, index, encoded[index][1], prompts[index])

  return answer_files.count_answered(
    path, len(encoded), per_prompt, answers, head=1
  )


def _encoded(config, target, prompts) -> encoding.Encoded:
  """The prompts as the target reads them."""
  encoded = encoding.encode(target, prompts, config)
  config = line_settings.gather(config, prompts, early=True)
  with warnings.catch_warnings():
    # The plan of the run warns of what is cut off.
    warnings.simplefilter('ignore')
    return truncation.apply(config, target, encoded)


def _answers(row: Mapping, index: int, tokens, line: prompts_lib.Line) -> bool:
  """Whether a kept answer is one to a prompt, with the prompt's settings."""
  found = [row.get(key) for key in ('prompt_index', 'prompt_tokens')]
  return found == [index, list(tokens)] and row.get('settings', {}) == _own(
    line
  )
