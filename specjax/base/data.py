"""The data that contracts pass around, as `flax.struct.dataclass` pytrees.

Shape letters: see `specjax.base`.
"""

from typing import Any

from flax import struct
import jax

Array = jax.Array
PyTree = Any

# An empty draft slot: nothing was proposed there. Gathers must clamp it and
# mask the result, because index -1 reads the *last* vocabulary entry.
EMPTY = -1


@struct.dataclass
class Prompt:
  """A batch of right-padded token rows.

  For an encoder-decoder this is the source; the decoder starts from its own
  start token. For a decoder-only model it is the prefix to continue.

  Attributes:
    tokens: int32 [B, S]; what stands at or after `length` is ignored.
    length: int32 [B], each at least 1.
    shared: `Shared`, or None where every row is read by itself.
  """

  # [p q r] and [s]: tokens [[p q r] [s 0 0]], length [3 1]
  tokens: Array
  length: Array
  shared: 'Shared | None' = None


@struct.dataclass
class Shared:
  """Tokens that several prompts of a batch share, so that they are read once.

  It only saves time, and a drafter may ignore it: `Prompt.tokens` has every
  prompt whole. With `prefill.each_once` and `prefill.copied` of `decoding`, a
  drafter reads equal prompts once.

  Attributes:
    first: int32 [U], a row of each prompt that differs from the others, some
      row again where there are fewer. None: every row is read.
    copy_of: int32 [B], for each row the place of its prompt in `first`; None
      where that is.
    begun: `Prefilled` of one row that holds the first `columns` tokens, which
      are those of every prompt. It is the reader's own: the target's in
      `CachedLM.prefill`, in `Drafter.init` with the `Drafter.network_cache`.
      None where nothing was read beforehand.
    drafter: the latter cache, until `Drafter.init` gets it as `begun`.
    columns: number of these tokens, less than the shortest prompt has; static.
  """

  # Prompts [p q r] [p q s] [p q r]: first [0 1], copy_of [0 1 0], columns 2,
  # and `begun` is what was made of [p q].
  first: Array | None = None
  copy_of: Array | None = None
  begun: 'Prefilled | None' = None
  drafter: PyTree = None
  columns: int = struct.field(pytree_node=False, default=0)


@struct.dataclass
class TokenLists:
  """Token ids that the warp treats in a way of their own.

  Traced, and padded to few lengths: another list of the same padded length
  recompiles nothing. A list that no row uses is None.

  Attributes:
    suppress_tokens: int32 [S] for all rows, or [B, S] where rows differ: ids
      that are never generated; -1 is padding.
    bias_ids: int32 [S] or [B, S], ids whose logits are changed; -1 is padding.
    bias: float32 [S] or [B, S], the number added to each of them.
    bad_words: int32 [N, W] or [B, N, W], sequences that are never completed, at
      the right end of their rows; -1 is padding.
  """

  # bad_words of [7] and [5, 6], padded to 3 rows of 4:
  #   [[-1 -1 -1 7] [-1 -1 5 6] [-1 -1 -1 -1]]
  suppress_tokens: Array | None = None
  bias_ids: Array | None = None
  bias: Array | None = None
  bad_words: Array | None = None

  def by_row(self) -> 'TokenLists':
    """The lists of which every row has its own; None for the others."""
    return TokenLists(
      _by_row(self.suppress_tokens),
      _by_row(self.bias_ids),
      _by_row(self.bias),
      _by_row(self.bad_words, 2),
    )


def _by_row(ids: Array | None, own: int = 1) -> Array | None:
  """A list with more axes than one that all rows share; None for others."""
  return None if ids is None or ids.ndim == own else ids


@struct.dataclass
class Controls:
  """Settings of each request of a batch.

  Traced: changing a value recompiles nothing.

  Attributes:
    row_key: typed PRNG keys [B]; a row's only source of randomness.
    temperature: float32 [B]; 0 means greedy.
    top_k: int32 [B]; 0 keeps every token.
    top_p: float32 [B] in (0, 1]; 1 keeps every token.
    min_p: float32 [B] in [0, 1]; 0 keeps every token.
    repetition_penalty: float32 [B], positive; 1 changes nothing.
    max_new_tokens: int32 [B]; the row's budget.
    eos_ids: int32 [E] for all rows, or [B, E] where rows differ; any of them
      ends a row; -1 entries match nothing.
    rule: dials of the verification rule in force, a pytree of [B] arrays: a
      dict with an entry for each option of `VerifierEntry.options` that is not
      static. Only the rule itself reads it.
    min_new_tokens: int32 [B], new tokens before which no end token comes.
    presence_penalty: float32 [B], taken off the logits of generated tokens.
    frequency_penalty: float32 [B], the same for each time they were generated.
    lists: `TokenLists`. This and the three before it are None where no row
      uses them.
  """

  row_key: Array
  temperature: Array
  top_k: Array
  top_p: Array
  min_p: Array
  repetition_penalty: Array
  max_new_tokens: Array
  eos_ids: Array
  rule: PyTree = struct.field(default_factory=dict)
  min_new_tokens: Array | None = None
  presence_penalty: Array | None = None
  frequency_penalty: Array | None = None
  lists: TokenLists | None = None

  def by_row(self) -> 'Controls':
    """The arrays whose rows are those of the batch; shared lists are None."""
    lists = None if self.lists is None else self.lists.by_row()
    return self.replace(eos_ids=_by_row(self.eos_ids), lists=lists)

  def with_shared(self, whole: 'Controls') -> 'Controls':
    """A result of `by_row` with the lists that all rows of `whole` share."""
    eos_ids = whole.eos_ids if self.eos_ids is None else self.eos_ids
    lists = self.lists
    if lists is not None:
      shared = {
        name: getattr(whole.lists, name)
        for name, ids in vars(lists).items()
        if ids is None
      }
      lists = lists.replace(**shared)
    return self.replace(eos_ids=eos_ids, lists=lists)


@struct.dataclass
class Context:
  """The committed tokens of a batch.

  Attributes:
    tokens: int32 [B, L]; for an encoder-decoder these are decoder tokens,
      beginning with the decoder's start token.
    length: int32 [B], number of committed tokens.
    prompt_length: int32 [B], how many of them were given and not generated.
    controls: `Controls`.
  """

  # Prompt [p q], one new token a:
  #   tokens [p q a 0 ..], length 3, prompt_length 2
  tokens: Array
  length: Array
  prompt_length: Array
  controls: Controls


@struct.dataclass
class Tree:
  """Parents and depths of a block's slots. `None` in its place: a chain.

  Attributes:
    parent: int32 [B, T]; a slot's parent stands before it; slot 0, the last
      committed token, is its own parent.
    depth: int32 [B, T]; 0 for slot 0. A slot's position is
      `cache.length + depth`.
  """

  # Block [x a b c], a and b below x, c below a:
  #   parent [0 0 0 1], depth [0 1 1 2]
  parent: Array
  depth: Array


@struct.dataclass
class Draft:
  """Proposed tokens.

  Attributes:
    tokens: int32 [B, K]; slot k of a draft is slot k + 1 of the block. `EMPTY`
      where nothing is proposed; in a chain empties stand only at the end.
    log_probs: float32 [B, K, V], the normalised distribution each token was
      really drawn from, warping included (for a tree: the full warped
      distribution at the node's parent, siblings drawn from it in slot order
      without replacement); or None for a point mass. Rows of empty slots are
      -inf. Exactness rests on this being honest.
    tree: `Tree`, or None for a chain.
  """

  # A chain of 2 tokens in 4 slots: [a b EMPTY EMPTY]
  tokens: Array
  log_probs: Array | None = None
  tree: Tree | None = None


@struct.dataclass
class Verdict:
  """A verifier's decision.

  Attributes:
    num_accepted: int32 [B], accepted draft tokens, 0..P.
    next_token: int32 [B], the correction or bonus token that follows them.
    path: int32 [B, P], block slots (1..K) of the accepted path for a tree,
      arbitrary after `num_accepted`; None for a chain.
  """

  # In the block of `Tree`, a and c accepted and e drawn after them:
  #   num_accepted 2, next_token e, path [1 3]
  num_accepted: Array
  next_token: Array
  path: Array | None = None


@struct.dataclass
class Prefilled:
  """A model ready to be extended.

  Attributes:
    cache: the model's cache; it holds every committed token except the last,
      and `cache.length` [B] counts them.
    last_token: int32 [B], the last committed token, not yet in the cache.
    hidden: tuple of [B, S, D], the prompt's states of the layers asked for
      (decoder-only) or the encoder's output (encoder-decoder; then it is not
      aligned with decoder positions).
  """

  cache: PyTree
  last_token: Array
  hidden: tuple = ()


@struct.dataclass
class Scored:
  """The outputs of one pass over a block.

  Attributes:
    logits: float32 [B, n, V], next-token logits of the scored slots.
    hidden: tuple of [B, T, D], states of the layers asked for.
  """

  logits: Array
  hidden: tuple = ()


@struct.dataclass
class View:
  """The inputs of a proposal. Read-only.

  Attributes:
    context: `Context`, with the rows' keys and controls.
    last_token: int32 [B].
    cache: the target's cache.
    live: bool [B], rows that still decode. What is proposed for the others is
      thrown away, so they need no search and no pass of a draft model.
  """

  context: Context
  last_token: Array
  cache: PyTree
  live: Array


@struct.dataclass
class Observation:
  """The commit of a round, as drafters see it afterwards.

  Attributes:
    tokens: int32 [B, P + 1], the tokens emitted in this round, from the left.
    num_tokens: int32 [B], how many of them count; 0 for a finished row.
    hidden: tuple of [B, P + 1, D]; entry i is the target's state at the slot
      that predicted `tokens[:, i]`.
    length: int32 [B], committed tokens after the round.
    num_accepted: int32 [B], how many of the emitted tokens were drafted.
  """

  # P = 3, 2 accepted, then x: tokens [a b x 0], num_tokens 3, num_accepted 2
  tokens: Array
  num_tokens: Array
  hidden: tuple
  length: Array
  num_accepted: Array
