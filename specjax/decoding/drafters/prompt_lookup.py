"""Drafts by copying what followed the last few tokens earlier.

References:
  Saxena. Prompt lookup decoding. 2023.
  Leviathan et al. 2023, section 2 (any approximation, also a copy, is exact).
"""

import dataclasses
import functools

import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding.drafters import entry
from specjax.models.common import rows as rows_lib

MATCHES = ('latest', 'earliest')


@dataclasses.dataclass
class PromptLookupOptions:
  """Options of `prompt_lookup`.

  Attributes:
    max_ngram: longest match, in tokens.
    min_ngram: shortest match that gives a draft, in tokens.
    match: match that is copied, of several longest ones.
    periodic: whether a match close to the end is continued periodically.
  """

  max_ngram: int = 3
  min_ngram: int = 1
  match: str = validation.choice('latest', MATCHES)
  periodic: bool = True

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    prompt_lookup(num_draft=1, **dataclasses.asdict(self))


@functools.cache
def prompt_lookup(
  *,
  num_draft: int,
  max_ngram: int = 3,
  min_ngram: int = 1,
  match: str = 'latest',
  periodic: bool = True,
  search_source: bool = False,
) -> base.Drafter:
  """Copies the continuation of the longest n-gram match.

  The searched text is the context and, for an encoder-decoder, also the
  source. With `match='earliest', periodic=False` this is what transformers
  calls prompt lookup (`max_ngram` is its `max_matching_ngram_size`); vLLM's
  `ngram` has the same two lengths.

  Args:
    num_draft: K, at least 1.
    max_ngram: longest suffix of the context to look for.
    min_ngram: shortest match that is worth a draft.
    match: match to copy of several longest, 'latest' or 'earliest'.
    periodic: continue a match close to the end periodically, so that a loop of
      any period fills all K slots; otherwise a copy stops at the end.
    search_source: whether the prompt is an encoder's source.

  Returns:
    A drafter of point masses (`Draft.log_probs` is None).

  Raises:
    ValueError: the lengths are not 1 <= min_ngram <= max_ngram, or `match`
      is another word.
  """
  _check(num_draft, min_ngram, max_ngram, match)

  def init(params, prompt, prefilled, *, capacity):
    del params, prefilled, capacity
    return prompt if search_source else ()

  def copied(text, suffix, periodic):
    """The copy from one text, a `Context` or `Prompt`, and its match."""
    end, run = _best_match(text.tokens, text.length - 1, suffix, match)
    period = text.length - 1 - end
    tokens = _copy(text.tokens, end, period, num_draft)
    return tokens if periodic else _cut(tokens, period), run

  def propose(params, source, view):
    del params
    suffix = _suffix(view.context, max_ngram)
    tokens, run = copied(view.context, suffix, periodic)
    if search_source:
      other, source_run = copied(source, suffix, False)
      # Of equal matches the text's own is taken, which is the later one.
      tokens = jnp.where((source_run > run)[:, None], other, tokens)
      run = jnp.maximum(run, source_run)
    found = run >= min_ngram
    return base.Draft(jnp.where(found[:, None], tokens, base.EMPTY)), source

  made = base.Drafter(init, propose, _observe, num_draft, num_draft)
  return made._replace(insert=rows_lib.insert)


def _observe(params, source, observation):
  """Nothing is learnt: the context holds all that is searched."""
  del params, observation
  return source


def _check(num_draft, min_ngram, max_ngram, match) -> None:
  validation.at_least('num_draft', num_draft, 1)
  if not 1 <= min_ngram <= max_ngram:
    raise ValueError(
      'prompt lookup needs 1 <= min_ngram <= max_ngram, not '
      f'{min_ngram} and {max_ngram}.'
    )
  validation.one_of('match', match, MATCHES, str)


def _suffix(context: base.Context, max_ngram: int) -> base.Array:
  """The last tokens, newest first: int32 [B, max_ngram], EMPTY before 0."""
  at = context.length[:, None] - 1 - jnp.arange(max_ngram)
  tokens = jnp.take_along_axis(context.tokens, jnp.maximum(at, 0), axis=1)
  return jnp.where(at >= 0, tokens, base.EMPTY)


def _best_match(tokens, limit, suffix, match):
  """Where the longest earlier copy of the suffix ends.

  Args:
    tokens: int32 [B, M], the text searched.
    limit: int32 [B]; a match ends before it, so that something follows.
    suffix: int32 [B, n], newest first.
    match: 'latest' or 'earliest', of the longest.

  Returns:
    end int32 [B], index of the match's last token, and run int32 [B], its
    length (0: no match).
  """
  # tokens [x a b y a b], limit 5, suffix [b a]: run [0 0 2 0 0 0], end 2
  width = tokens.shape[1]
  equal = []
  for back in range(suffix.shape[1]):
    shifted = jnp.pad(
      tokens, ((0, 0), (back, 0)), constant_values=base.EMPTY - 1
    )[:, :width]
    equal.append(shifted == suffix[:, back : back + 1])
  run = jnp.sum(jnp.cumprod(jnp.stack(equal).astype(jnp.int32), 0), 0)
  index = jnp.arange(width)
  run = jnp.where(index < limit[:, None], run, 0)
  place = index if match == 'latest' else width - 1 - index
  # run [0 2 0 2], width 4: keys [0 9 2 11] for the latest, [3 10 1 8] for the
  # earliest; the run weighs more than any place.
  end = jnp.argmax(run * width + place, axis=1)
  return end, jnp.take_along_axis(run, end[:, None], axis=1)[:, 0]


def _cut(tokens, length):
  """`EMPTY` from slot `length` on."""
  # [y a b y a], length 3: [y a b EMPTY EMPTY]
  return jnp.where(
    jnp.arange(tokens.shape[1]) < length[:, None], tokens, base.EMPTY
  )


def _copy(tokens, end, period, num_draft):
  """Tokens after `end`, repeated with the given period: int32 [B, K]."""
  # tokens [x a b y a b], end 2, period 3, K = 5: [y a b y a]
  step = jnp.arange(num_draft) % jnp.maximum(period, 1)[:, None]
  at = jnp.minimum(end[:, None] + 1 + step, tokens.shape[1] - 1)
  return jnp.take_along_axis(tokens, at, axis=1)


def _plan(target, source, options, num_draft, rows) -> entry.DraftPlan:
  del source, rows
  return entry.DraftPlan(
    num_draft,
    num_draft,
    widths=entry.chain_widths(2, num_draft),
    rerouted=entry.weighing_as('match'),
    static=(
      ('search_source', target.lm.is_encoder_decoder),
      *dataclasses.asdict(options).items(),
    ),
  )


ENTRY = entry.DrafterEntry(
  'prompt_lookup',
  'copies what followed the last tokens earlier in the text',
  _plan,
  entry.bind_static(prompt_lookup),
  options=PromptLookupOptions,
)
