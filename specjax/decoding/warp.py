"""The one function that turns logits into the distribution asked for.

The baseline, the drafter, the verifier and the bonus token all call `warp`, so
that p and q always mean the same adjusted distributions; half of the biased
implementations known differ in exactly this. The arithmetic is that of the
`transformers` logits processors, and so is the order where it matters: bias,
repetition penalty, frequency and presence penalty (which are vLLM's), what
forbids tokens, temperature, top-k, top-p, min-p. What depends on the history is
evaluated at every slot of a block with the draft tokens on its own path.

What forbids tokens leaves the same ones in any order: suppressed tokens, bad
words, least number of new tokens, no-repeat n-gram. The order of these decides
what gives way at a slot where none would be left, the last one first: where
n-grams and bad words together forbid every token, an n-gram is repeated.
(transformers takes token 0 there, forbidden or not, and cannot sample.)
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from specjax.base import Array
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Tree
from specjax.decoding import filters
from specjax.decoding import processors
from specjax.decoding import sampling

# Temperatures below the first are 0: processors flush such numbers. Those
# above the second are the second: in float32 both make a uniform law.
COLDEST = float(np.finfo(np.float32).tiny)
HOTTEST = 1e30


@dataclasses.dataclass(frozen=True)
class WarpSpec:
  """Static switches; the values are data (`Controls`) and vary by row.

  Attributes:
    sampled: some row may have a temperature above 0. Without it only the
      penalties are applied and the result is meant for an argmax, unless
      `one_hot_unsampled`.
    top_k: some row may have top_k > 0.
    top_p: some row may have top_p < 1.
    min_p: some row may have min_p > 0.
    repetition_penalty: some row may have a penalty other than 1.
    no_repeat_ngram_size: no n-gram of this size occurs twice; 0 is off.
    one_hot: whether rows of temperature 0 become one-hot, as every exact rule
      wants. Without it they keep their logits as the penalties left them, for a
      rule that decides on their gaps (`lenient`).
    one_hot_unsampled: rows become one-hot without `sampled` too: for a rule of
      the user's own, which may draw from them.
    min_new_tokens: some row may have min_new_tokens > 0.
    presence_penalty: some row may have a presence penalty other than 0.
    frequency_penalty: some row may have a frequency penalty other than 0.
    suppress_tokens: some token is never generated.
    logit_bias: some token's logit is changed.
    bad_words: some sequence of tokens is never completed.
  """

  sampled: bool = False
  top_k: bool = False
  top_p: bool = False
  min_p: bool = False
  repetition_penalty: bool = False
  no_repeat_ngram_size: int = 0
  one_hot: bool = True
  one_hot_unsampled: bool = False
  min_new_tokens: bool = False
  presence_penalty: bool = False
  frequency_penalty: bool = False
  suppress_tokens: bool = False
  logit_bias: bool = False
  bad_words: bool = False

  @property
  def reads_path(self) -> bool:
    """Whether a slot's law depends on the draft tokens in front of it."""
    return bool(
      self.repetition_penalty
      or self.no_repeat_ngram_size
      or self.min_new_tokens
      or self.presence_penalty
      or self.frequency_penalty
      or self.bad_words
    )

  @property
  def moves_argmax(self) -> bool:
    """Whether the likeliest token may be another than the network's."""
    return self.reads_path or self.suppress_tokens or self.logit_bias


def chain_paths(draft_tokens: Array) -> tuple[Array, Array]:
  """Each block slot's path in a chain.

  Args:
    draft_tokens: int32 [B, K], `EMPTY` (-1) at the end where none is drafted.

  Returns:
    path int32 [B, K + 1, K] and path_length int32 [B, K + 1]; slot t follows
    the first t draft tokens. Empty ones do not count.
  """
  # draft [a b EMPTY]: every path [a b EMPTY], path_length [0 1 2 2]
  batch, num_draft = draft_tokens.shape
  path = jnp.broadcast_to(
    draft_tokens[:, None, :], (batch, num_draft + 1, num_draft)
  )
  filled = jnp.cumprod(draft_tokens >= 0, axis=1).sum(axis=1)
  slots = jnp.arange(num_draft + 1)
  return path, jnp.minimum(slots[None, :], filled[:, None]).astype(jnp.int32)


def tree_paths(
  draft_tokens: Array, tree: Tree, max_path: int
) -> tuple[Array, Array]:
  """Each block slot's path in a tree.

  Args:
    draft_tokens: int32 [B, K].
    tree: `Tree` of T = K + 1 slots.
    max_path: P, at least the largest depth.

  Returns:
    path int32 [B, T, P], the tokens from the root's child down to the slot
    itself, and path_length int32 [B, T], the slot's depth.
  """
  # draft [a b c], parent [0 0 0 1], P = 2:
  #   path [[. .] [a .] [b .] [a c]], path_length [0 1 1 2]
  batch, num_slots = tree.parent.shape
  tokens = jnp.pad(draft_tokens, ((0, 0), (1, 0)), constant_values=-1)
  column = jnp.arange(max_path)
  path = jnp.full((batch, num_slots, max_path), -1, jnp.int32)
  slot = jnp.broadcast_to(jnp.arange(num_slots), (batch, num_slots))
  for _ in range(max_path):
    depth = jnp.take_along_axis(tree.depth, slot, axis=1)
    token = jnp.take_along_axis(tokens, slot, axis=1)
    here = column == (depth - 1)[..., None]  # slot 0 has depth 0: nowhere
    path = jnp.where(here, token[..., None], path)
    slot = jnp.take_along_axis(tree.parent, slot, axis=1)
  return path, jnp.minimum(tree.depth, max_path).astype(jnp.int32)


def warp(
  spec: WarpSpec,
  logits: Array,
  context: Context,
  path: Array | None = None,
  path_length: Array | None = None,
) -> Array:
  """Applies a batch's controls to logits.

  Args:
    spec: static switches.
    logits: [B, n, V], the model's.
    context: committed tokens and controls.
    path: int32 [B, n, P], draft tokens that follow the committed ones in each
      slot's history; -1 entries are ignored. None: no draft tokens, or tokens
      that are not known.
    path_length: int32 [B, n], number of entries of `path` that count; without
      `path` the number of unknown tokens, which only `min_new_tokens` reads.

  Returns:
    float32 [B, n, V]. With `spec.sampled`, rows of temperature 0 are 0 at the
    argmax (after the penalties) and -inf elsewhere, other rows are logits over
    the temperature with removed tokens at -inf, not normalised.
  """
  x = _processed(spec, logits.astype(jnp.float32), context, path, path_length)
  if not spec.sampled:
    return _one_hot(x) if spec.one_hot_unsampled else x
  controls = context.controls
  temperature = controls.temperature[:, None, None]
  greedy = temperature < COLDEST
  cold = _one_hot(x) if spec.one_hot else x
  temperature = jnp.where(greedy, 1.0, jnp.minimum(temperature, HOTTEST))
  top = _finite_max(x)
  # A small temperature makes infinities of large logits, and differences of
  # infinities: there the largest logit becomes 0. Logit 9, temperature 2e-38:
  # 0 in place of 4.5e38, which is above the largest float32.
  shift = jnp.where(jnp.abs(top) < HOTTEST * temperature, 0.0, top)
  warm = (x - shift) / temperature
  keep = _kept(spec, x, (x - top) / temperature, controls)
  if keep is not None:
    warm = jnp.where(keep, warm, -jnp.inf)
  return jnp.where(greedy, cold, warm)


def _processed(spec, x, context, path, path_length) -> Array:
  """Logits after all that stands before the temperature, float32 [B, n, V]."""
  history = context, path, path_length
  lists = context.controls.lists
  if spec.logit_bias:
    x = processors.add_bias(x, lists.bias_ids, lists.bias)
  if spec.repetition_penalty:
    x = processors.penalise_repetition(x, *history)
  if spec.frequency_penalty or spec.presence_penalty:
    x = processors.penalise_generated(
      x,
      *history,
      frequency=spec.frequency_penalty,
      presence=spec.presence_penalty,
    )
  # The last one gives way first, so what is never wanted stands before what
  # only shapes the text.
  if spec.suppress_tokens:
    banned = processors.members(x.shape[-1], lists.suppress_tokens)
    x = processors.forbid(x, banned[:, None])
  if spec.bad_words:
    banned = processors.completions(lists.bad_words, x.shape, *history)
    x = processors.forbid(x, banned)
  if spec.min_new_tokens:
    early = processors.early_ends(x.shape, context, path_length)
    x = processors.forbid(x, early)
  if spec.no_repeat_ngram_size:
    banned = processors.repeats(spec.no_repeat_ngram_size, x.shape, *history)
    x = processors.forbid(x, banned)
  return x


def _kept(spec, x, scaled, controls) -> Array | None:
  """bool [B, n, V]: tokens that the filters leave; None without a filter.

  Args:
    spec: static switches.
    x: logits before the temperature, which rank the tokens.
    scaled: those over the temperature, the largest at 0.
    controls: values of the filters.
  """
  keep = None
  if spec.top_k:
    keep = filters.top_k(x, controls.top_k[:, None])
    x = jnp.where(keep, x, -jnp.inf)
  if not (spec.top_p or spec.min_p):
    return keep
  weights = jnp.exp(scaled)
  if keep is not None:
    weights = jnp.where(keep, weights, 0.0)
  if spec.top_p:
    inside = filters.top_p(x, weights, controls.top_p[:, None])
    keep = inside if keep is None else keep & inside
  if spec.min_p:
    inside = filters.min_p(x, weights, controls.min_p[:, None])
    keep = inside if keep is None else keep & inside
  return keep


def _one_hot(x):
  """0 at the argmax of each row and -inf elsewhere."""
  # [1 3 2]: [-inf 0 -inf]
  top = sampling.argmax(x)[..., None] == jnp.arange(x.shape[-1])
  return jnp.where(top, 0.0, -jnp.inf)


def _finite_max(x: Array) -> Array:
  top = jnp.max(x, axis=-1, keepdims=True)
  return jnp.where(jnp.isfinite(top), top, 0.0)


def histories(spec: WarpSpec, draft: Draft, max_path: int) -> tuple:
  """Draft tokens on each slot's path, where the warp looks at history.

  Args:
    spec: the static switches.
    draft: the proposal.
    max_path: P.

  Returns:
    `paths` and `depth` of `warp`; None where the warp looks at none.
  """
  if not spec.reads_path:
    return None, None
  if draft.tree is None:
    return chain_paths(draft.tokens)
  return tree_paths(draft.tokens, draft.tree, max_path)
