"""Totals of answers."""

from collections.abc import Sequence
from typing import Any

from specjax.decoding import stats
from specjax.inference.generate import Answer


def summarize(
  answers: Sequence[Answer],
  seconds: float | None = None,
  compile_seconds: float | None = None,
) -> dict[str, Any]:
  """Totals of answers: the fields that `--stats` of decode.main begins with.

  Args:
    answers: answers of one or several calls of `generate`.
    seconds: time of decoding them, without compilation; None if not known.
    compile_seconds: time of compilation; None if not known.

  Returns:
    A JSON-able dict. `acceptance_by_position` and `accepted_histogram` are
    lists by draft slot; a ratio of nothing is None.
  """
  return of_totals(
    sum((answer.counts for answer in answers), stats.Counts()),
    {
      'num_prompts': sum(answer.sequence == 0 for answer in answers),
      'num_answers': len(answers),
      'truncated_prompts': sum(map(is_truncated, answers)),
    },
    seconds,
    compile_seconds,
  )


def is_truncated(answer: Answer) -> bool:
  """Whether an answer is the first to a prompt that lost tokens."""
  return answer.sequence == 0 and answer.num_truncated > 0


def of_totals(
  total: stats.Counts,
  numbers: dict[str, int],
  seconds: float | None,
  compile_seconds: float | None,
) -> dict[str, Any]:
  """The dict of `summarize` where answers were counted as they came.

  Args:
    total: sum of the answers' counts.
    numbers: numbers that stand in front.
    seconds: argument of `summarize`.
    compile_seconds: argument of `summarize`.
  """
  counts = total.as_dict()
  return {
    **numbers,
    'num_tokens': counts.pop('num_tokens'),
    'seconds': seconds,
    'tokens_per_second': total.num_tokens / seconds if seconds else None,
    'compile_seconds': compile_seconds,
  } | counts
