"""Earlier outputs that a drafter may copy from: kept, saved and indexed.

A `Corpus` lives on the host and is a bounded ring of whole token sequences,
oldest first, with a separator after each. A compiled program searches its
`Index`: the text and its suffix array, at the capacity's static size, so that a
growing corpus recompiles nothing. The array sorts positions by the text read
*backwards* from them, because a drafter looks for what ends like the tokens it
has. The newest answers are sorted apart from the rest, so that adding one is
cheap; one search looks into both parts.

References:
  Oliaro et al. SuffixDecoding. NeurIPS 2025. https://arxiv.org/abs/2411.04975
  Manber, Myers. Suffix arrays. SIAM J. Comput. 1993 (prefix doubling).
"""

from collections.abc import Iterable, Sequence
import hashlib
import json
import os
import pathlib
from typing import Any

from flax import struct
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import files
from specjax import text as text_lib

# Stands between sequences; equal to no token.
SEPARATOR = -2
MAGIC = b'specjax corpus 1\n'
# Positions and match lengths share an int32 when matches are ranked.
LARGEST_CAPACITY = 2**23
# Default number of entries.
CAPACITY = 2**17
# Suffixes are compared over this many tokens, which bounds the match length.
INDEX_DEPTH = 64


@struct.dataclass
class Index:
  """A searchable corpus; a drafter's parameters.

  Attributes:
    text: int32 [C], sequences with separators; separators after the last.
    order: int32 [C], positions in the order of the text read backwards from
      them: first `size` of older sequences, then `newest` of the latest, sorted
      apart. Positions of separators are left out.
    size: int32 [].
    newest: int32 [].
  """

  # Text [a b / c a /], the last sequence added after the others were sorted:
  #   order [0 1 4 3 0 0], size 2, newest 2
  text: base.Array
  order: base.Array
  size: base.Array
  newest: base.Array


@struct.dataclass
class Corpus:
  """Token sequences of one tokenizer.

  Attributes:
    text: int32 [n] numpy array, each sequence followed by `SEPARATOR`.
    capacity: most entries of `text`; older sequences make room.
    fingerprint: digest of the tokenizer (`text.fingerprint`).
  """

  text: np.ndarray
  capacity: int = struct.field(pytree_node=False)
  fingerprint: str = struct.field(pytree_node=False)

  @classmethod
  def of(
    cls,
    tokenizer: Any,
    sequences: Iterable[str | Sequence[int]] = (),
    capacity: int = CAPACITY,
  ) -> 'Corpus':
    """A corpus of texts that answers may copy from.

    Args:
      tokenizer: tokenizer of the target that will answer.
      sequences: texts, or rows of token ids such as `Answer.tokens`, oldest
        first; the oldest leave when there is no room.
      capacity: most tokens kept, a separator after each sequence included.

    Raises:
      ValueError: the capacity is out of range, or an id negative.
    """
    rows = [
      tokenizer(row, add_special_tokens=False).input_ids
      if isinstance(row, str)
      else row
      for row in sequences
    ]
    return remember(empty(capacity, text_lib.fingerprint(tokenizer)), rows)


def empty(capacity: int, fingerprint: str) -> Corpus:
  """A corpus without sequences.

  Raises:
    ValueError: unless 2 <= capacity <= `LARGEST_CAPACITY`.
  """
  if not 2 <= capacity <= LARGEST_CAPACITY:
    raise ValueError(
      'The capacity of a corpus must be between 2 and '
      f'{LARGEST_CAPACITY} tokens, not {capacity}.'
    )
  return Corpus(np.zeros((0,), np.int32), capacity, fingerprint)


def add(corpus: Corpus, sequences: Iterable[Sequence[int]]) -> Corpus:
  """Appends sequences; the oldest leave, whole, when there is no room.

  Args:
    corpus: the corpus so far; it is not changed.
    sequences: rows of token ids; empty ones are skipped.

  Raises:
    ValueError: if a sequence and its separator exceed the capacity, or an id
      is negative.
  """
  parts = [corpus.text]
  for sequence in sequences:
    row = np.asarray(sequence, np.int32).reshape(-1)
    if row.size + 1 > corpus.capacity:
      raise ValueError(
        f'A sequence of {row.size} tokens needs a corpus with a capacity of '
        f'at least {row.size + 1}, not {corpus.capacity}.'
      )
    if row.size and row.min() < 0:
      raise ValueError(
        f'A corpus holds token ids of at least 0, not {row.min()}.'
      )
    if row.size:
      parts += [row, np.array([SEPARATOR], np.int32)]
  return corpus.replace(text=_fit(np.concatenate(parts), corpus.capacity))


def remember(corpus: Corpus, answers: Iterable[Sequence[int]]) -> Corpus:
  """The corpus with answers added; one too long for it keeps its end."""
  most = corpus.capacity - 1
  return add(corpus, [answer[-most:] for answer in answers])


def sequences(corpus: Corpus) -> list[np.ndarray]:
  """The sequences kept, oldest first."""
  ends = np.flatnonzero(corpus.text == SEPARATOR)
  return [part[part >= 0] for part in np.split(corpus.text, ends)][:-1]


def check_writable(path: str | os.PathLike) -> None:
  """Raises OSError with a sentence if `save` could not write to a file."""
  _make_folder(path)
  files.check_writable(os.fspath(path))


def _make_folder(path: str | os.PathLike) -> None:
  folder = os.path.dirname(os.path.realpath(path))
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise OSError(f'Cannot write to {path}: {error.strerror}.') from None


def save(corpus: Corpus, path: str | os.PathLike) -> None:
  """Writes the corpus to a file, whole or not at all."""
  body = corpus.text.astype('<i4').tobytes()
  header = {
    'fingerprint': corpus.fingerprint,
    'entries': int(corpus.text.size),
    'sha256': hashlib.sha256(body).hexdigest(),
  }
  _make_folder(path)
  data = MAGIC + json.dumps(header).encode() + b'\n' + body
  files.write_bytes(os.fspath(path), data)


def load(path: str | os.PathLike, capacity: int, fingerprint: str) -> Corpus:
  """Reads a corpus, keeping its latest sequences that fit.

  Args:
    path: a file that `save` wrote.
    capacity: most entries; need not be that of the corpus saved.
    fingerprint: digest of the tokenizer in use.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is not a corpus, is damaged, is of another tokenizer, or
      not even its last sequence fits.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no corpus file {path}.')
  data = path.read_bytes()
  damaged = f'{path} is truncated or damaged; delete it to start a new corpus.'
  if len(data) < len(MAGIC) and MAGIC.startswith(data):
    raise ValueError(damaged)
  if not data.startswith(MAGIC):
    raise ValueError(
      f'{path} is not a specjax corpus; give a file written by --corpus.'
    )
  head, _, body = data[len(MAGIC) :].partition(b'\n')
  try:
    header = files.parse_json(head)
    whole = (
      len(body) == 4 * header['entries']
      and hashlib.sha256(body).hexdigest() == header['sha256']
    )
    theirs = header['fingerprint']
  except (ValueError, KeyError, TypeError):
    raise ValueError(damaged) from None
  if not whole:
    raise ValueError(damaged)
  if theirs != fingerprint:
    raise ValueError(
      f'The corpus {path} was written with another tokenizer (fingerprint '
      f'{theirs}, not {fingerprint}); use one corpus file for each tokenizer.'
    )
  text = np.frombuffer(body, '<i4').astype(np.int32)
  kept = _fit(text, empty(capacity, fingerprint).capacity)
  if text.size and not kept.size:
    raise ValueError(
      f'A capacity of {capacity} holds not one sequence of the corpus {path}.'
    )
  return Corpus(kept, capacity, fingerprint)


def index(corpus: Corpus) -> Index:
  """Sorts the corpus for search, on the host: O(n log n) array operations.

  Returns:
    `Index` with arrays of `corpus.capacity` entries, whatever is filled.
  """
  # [a b /] of capacity 5: text [a b / / /], order [0 1 0 0 0], size 2, newest 0
  return _index(corpus, _backward_order(corpus.text))


def extend(
  corpus: Corpus, older: Index, answers: Sequence[Sequence[int]]
) -> tuple[Corpus, Index]:
  """The corpus with answers added, all of which can be found.

  What is new is sorted alone. All is sorted once an eighth of it is new, so
  that the work stays in proportion to what is added.

  Args:
    corpus: the corpus so far.
    older: its index.
    answers: rows of token ids, as for `remember`.
  """
  grown = remember(corpus, answers)
  most = corpus.capacity - 1
  added = sum(min(len(row), most) + 1 for row in answers if len(row))
  # Text [a b / c /] of capacity 6 and the answer [d e] make [c / d e /]:
  #   gone 3, so that older positions [0 1 3] become [0]
  #   the first place behind their last sequence is 2
  gone = corpus.text.size + added - grown.text.size
  earlier = np.asarray(older.order)[: int(older.size)] - gone
  earlier = earlier[earlier >= 0]
  first = int(earlier.max(initial=-2)) + 2
  if 8 * (grown.text.size - first) >= grown.text.size:
    return grown, index(grown)
  latest = first + _backward_order(grown.text[first:])
  return grown, _index(grown, earlier, latest)


def _index(corpus: Corpus, *runs: np.ndarray) -> Index:
  """`Index` of sorted positions: all of them, or the earlier and the latest."""
  text = np.full((corpus.capacity,), SEPARATOR, np.int32)
  text[: corpus.text.size] = corpus.text
  ranked = np.concatenate(runs)
  order = np.zeros((corpus.capacity,), np.int32)
  order[: ranked.size] = ranked
  size, newest = runs[0].size, ranked.size - runs[0].size
  return Index(
    jnp.asarray(text),
    jnp.asarray(order),
    jnp.asarray(size, jnp.int32),
    jnp.asarray(newest, jnp.int32),
  )


def _fit(text: np.ndarray, capacity: int) -> np.ndarray:
  """Drops whole sequences from the front until at most `capacity` remain."""
  # [a / b c / d /]: capacity 5 keeps [b c / d /], 4 keeps [d /].
  if text.size <= capacity:
    return text
  ends = np.flatnonzero(text == SEPARATOR) + 1
  return text[ends[np.searchsorted(ends, text.size - capacity)] :]


def _backward_order(text: np.ndarray) -> np.ndarray:
  """Positions sorted by up to `INDEX_DEPTH` tokens read backwards.

  Reading stops at a separator, and a text that stops sorts before one that
  goes on. Among equal texts the latest position comes first.
  """
  # text [a b c / x b c /], read backwards: a, b a, c b a, x, b x, c b x
  #   available [1 2 3 0 1 2 3 0]
  #   order     [0 1 5 2 6 4]
  position = np.arange(text.size)
  is_token = text >= 0
  before = np.maximum.accumulate(np.where(is_token, -1, position))
  available = position - before  # tokens back to the sequence's start
  rank = np.where(is_token, text + 1, 0).astype(np.int64)
  width = 1
  while width < INDEX_DEPTH:
    # Ranks by `width` tokens, paired with those further back, rank by twice
    # as many.
    older = rank[np.maximum(position - width, 0)]
    older = np.where(available > width, older, 0)
    pair = rank * (older.max(initial=0) + 1) + older
    rank = np.unique(pair, return_inverse=True)[1] + 1
    width *= 2
  order = np.lexsort((-position, rank))
  return order[is_token[order]].astype(np.int32)
