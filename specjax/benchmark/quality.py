"""Quality of outputs, and their nearness to the target's own.

BLEU is sacrebleu's, with its default tokenisation, over the whole corpus;
without the package (extra `test`) it is left out.

References:
  Post. A call for clarity in reporting BLEU scores. WMT 2018.
    https://arxiv.org/abs/1804.08771
"""

from collections.abc import Sequence
import importlib.util

import numpy as np


def bleu(texts: Sequence[str], references: Sequence[str]) -> float | None:
  """Corpus BLEU, 0 to 100; None without sacrebleu or references."""
  if not importlib.util.find_spec('sacrebleu') or not any(references):
    return None
  import sacrebleu

  return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)


def edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
  """Fewest insertions, deletions and replacements between two rows."""
  # left [5, 9], right [5, 7, 9]; row i is the distance of left[:i] to every
  # beginning of right:
  #
  #   [0, 1, 2, 3]
  #   [1, 0, 1, 2]
  #   [2, 1, 1, 1]  -> 1, the inserted 7
  row = np.arange(len(right) + 1)
  other = np.asarray(right)
  for count, token in enumerate(left, 1):
    step = np.minimum(row[1:] + 1, row[:-1] + (other != token))
    new = np.concatenate([[count], step])
    # An insertion costs 1 a place from the left, so the row is the running
    # minimum of value - place: [1, 0, 2, 3] -> [1, -1, 0, 0]
    # -> [1, -1, -1, -1] -> [1, 0, 1, 2].
    place = np.arange(len(new))
    row = np.minimum.accumulate(new - place) + place
  return int(row[-1])


def compare(
  rows: Sequence[Sequence[int]],
  texts: Sequence[str],
  plain_rows: Sequence[Sequence[int]],
  plain_texts: Sequence[str],
  references: Sequence[str],
) -> dict:
  """Quality of outputs, one a prompt.

  Args:
    rows: tokens of the outputs that are judged.
    texts: texts of these outputs.
    plain_rows: tokens of plain greedy decoding of the same prompts.
    plain_texts: texts of plain greedy decoding.
    references: reference translations; '' where there is none.

  Returns:
    'bleu' against the references; against the target's own greedy outputs
    'relative_bleu', 'exact_match' (share of equal rows) and 'edit_distance'
    (edits a token of the target's outputs).
  """
  edits = sum(
    edit_distance(a, b) for a, b in zip(rows, plain_rows, strict=True)
  )
  equal = [list(a) == list(b) for a, b in zip(rows, plain_rows, strict=True)]
  return {
    'bleu': bleu(texts, references),
    'relative_bleu': bleu(texts, plain_texts),
    'exact_match': float(np.mean(equal)),
    'edit_distance': edits / max(sum(map(len, plain_rows)), 1),
  }
