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
  total = sum((answer.counts for answer in answers), stats.Counts())
  counts = total.as_dict()
  return {
    'num_prompts': sum(answer.sequence == 0 for answer in answers),
    'num_answers': len(answers),
    'truncated_prompts': sum(
      answer.sequence == 0 and answer.num_truncated > 0 for answer in answers
    ),
    'num_tokens': counts.pop('num_tokens'),
    'seconds': seconds,
    'tokens_per_second': total.num_tokens / seconds if seconds else None,
    'compile_seconds': compile_seconds,
  } | counts
