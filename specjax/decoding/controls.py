"""Sampling settings of a generation, as the loop takes them."""

from collections.abc import Mapping, Sequence
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import token_rows
from specjax.decoding import warp as warp_lib

# Settings that remove tokens before one is drawn.
FILTERS = ('top_k', 'top_p', 'min_p')


@dataclasses.dataclass(frozen=True)
class Sampling:
  """Sampling settings; one value for all rows or one for each.

  Attributes:
    temperature: divisor of the logits; 0 means greedy.
    top_k: number of likeliest tokens kept; 0 keeps every token.
    top_p: probability mass kept, in (0, 1].
    min_p: least probability kept, relative to the likeliest, in [0, 1].
    repetition_penalty: divisor of seen tokens' logits, above 0; 1 is off.
    no_repeat_ngram_size: length of n-grams that occur once; 0 is off. One
      value.
    min_new_tokens: number of new tokens before which no end token comes.
    presence_penalty: number taken off the logits of generated tokens.
    frequency_penalty: the same, for each time a token was generated.
    suppress_tokens: ids that are never generated. Of this and the two below
      there is one for all rows, or a `token_rows.PerRow`.
    logit_bias: numbers added to logits, by token id.
    bad_words: sequences of ids that are never completed.
  """

  temperature: float | Sequence[float] = 0.0
  top_k: int | Sequence[int] = 0
  top_p: float | Sequence[float] = 1.0
  min_p: float | Sequence[float] = 0.0
  repetition_penalty: float | Sequence[float] = 1.0
  no_repeat_ngram_size: int = 0
  min_new_tokens: int | Sequence[int] = 0
  presence_penalty: float | Sequence[float] = 0.0
  frequency_penalty: float | Sequence[float] = 0.0
  suppress_tokens: Sequence[int] = ()
  logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
  bad_words: Sequence[Sequence[int]] = ()

  def warp_spec(self) -> warp_lib.WarpSpec:
    """The static switches these values need."""
    return warp_lib.WarpSpec(
      sampled=bool(np.any(np.asarray(self.temperature) > 0)),
      top_k=bool(np.any(np.asarray(self.top_k) > 0)),
      top_p=bool(np.any(np.asarray(self.top_p) < 1)),
      min_p=bool(np.any(np.asarray(self.min_p) > 0)),
      repetition_penalty=bool(np.any(np.asarray(self.repetition_penalty) != 1)),
      no_repeat_ngram_size=self.no_repeat_ngram_size,
      min_new_tokens=bool(np.any(np.asarray(self.min_new_tokens) > 0)),
      presence_penalty=bool(np.any(np.asarray(self.presence_penalty) != 0)),
      frequency_penalty=bool(np.any(np.asarray(self.frequency_penalty) != 0)),
      suppress_tokens=token_rows.is_used(self.suppress_tokens),
      logit_bias=token_rows.is_used(self.logit_bias),
      bad_words=token_rows.is_used(self.bad_words),
    )

  def idle(self) -> str:
    """A sentence about filters that no row reads; '' where there are none."""
    spec = self.warp_spec()
    named = [name for name in FILTERS if getattr(spec, name)]
    if spec.sampled or not named:
      return ''
    verb = 'change' if len(named) > 1 else 'changes'
    return (
      f'{" and ".join(named)} {verb} nothing at temperature 0, which takes the '
      'likeliest token; give a temperature above 0 to sample.'
    )

  def controls(
    self,
    row_key: base.Array,
    max_new_tokens: int | Sequence[int],
    eos_ids: Sequence[int] = (),
    rule: Mapping[str, np.ndarray] = types.MappingProxyType({}),
    spec: warp_lib.WarpSpec | None = None,
    sizes: token_rows.Sizes | None = None,
  ) -> base.Controls:
    """Traced controls for a batch.

    Args:
      row_key: typed PRNG keys [B], see `row_keys`.
      max_new_tokens: one budget or one for each row.
      eos_ids: end tokens, or `token_rows.PerRow` of them; empty to ignore them.
      rule: dials of the verification rule, arrays of one value or one a row.
      spec: switches of the warp that reads them; by default `warp_spec()`.
      sizes: sizes of the lists; by default those that these rows need.

    Returns:
      `base.Controls` with every field [B] but lists that all rows share. The
      lengths of lists are padded to powers of two (`eos_ids` to at least 1,
      words to at least 4 tokens, the others to at least 8).
    """
    batch = row_key.shape[0]
    spec = spec or self.warp_spec()
    sizes = sizes or token_rows.sizes(self, eos_ids)

    def rows(value, dtype):
      return np.broadcast_to(np.asarray(value, dtype), (batch,))

    # Numpy arrays: a compiled program transfers them faster than `jnp` does.
    return base.Controls(
      row_key=row_key,
      temperature=rows(_float32(self.temperature), np.float32),
      top_k=rows(self.top_k, np.int32),
      top_p=rows(self.top_p, np.float32),
      min_p=rows(self.min_p, np.float32),
      repetition_penalty=rows(self.repetition_penalty, np.float32),
      max_new_tokens=rows(max_new_tokens, np.int32),
      eos_ids=token_rows.eos(eos_ids, sizes.eos_ids),
      rule={name: rows(dial, dial.dtype) for name, dial in rule.items()},
      min_new_tokens=(
        rows(self.min_new_tokens, np.int32) if spec.min_new_tokens else None
      ),
      presence_penalty=(
        rows(self.presence_penalty, np.float32)
        if spec.presence_penalty
        else None
      ),
      frequency_penalty=(
        rows(self.frequency_penalty, np.float32)
        if spec.frequency_penalty
        else None
      ),
      lists=token_rows.lists(self, spec, sizes),
    )


def _float32(temperature: float | Sequence[float]) -> np.ndarray:
  """Temperatures that float32 can hold, those it flushes being 0."""
  given = np.minimum(np.asarray(temperature, np.float64), warp_lib.HOTTEST)
  return np.where(given < warp_lib.COLDEST, 0.0, given)


def row_keys(seed: int, ids: Sequence[int]) -> base.Array:
  """One key a row, from a seed and the row's own identity.

  Args:
    seed: seed of the whole job.
    ids: int [B], name of each request, such as its place in the input, so
      that a row's randomness depends on neither batch nor order.

  Returns:
    Typed keys [B].
  """
  key = jax.random.key(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.asarray(ids, jnp.uint32)
  )
