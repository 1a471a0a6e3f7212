"""The contracts: bundles of pure functions, and the signatures of these.

A bundle is a `NamedTuple` made by a factory; a signature is a `Protocol`, so
that arguments, shapes and results are written down once. Shape letters: see
`specjax.base`.
"""

from typing import NamedTuple, Protocol

from specjax.base.data import Array
from specjax.base.data import Context
from specjax.base.data import Draft
from specjax.base.data import Observation
from specjax.base.data import Prefilled
from specjax.base.data import Prompt
from specjax.base.data import PyTree
from specjax.base.data import Scored
from specjax.base.data import Tree
from specjax.base.data import Verdict
from specjax.base.data import View


# Protocols and not base classes: a plain function of a user's own fits as it
# is, a closure or a partial too.
class Prefill(Protocol):
  """Reads the prompts and makes a cache with room for `capacity` tokens."""

  def __call__(
    self, params: PyTree, prompt: Prompt, *, capacity: int
  ) -> Prefilled: ...


class Extend(Protocol):
  """Writes T rows at `cache.length` and scores them in one pass.

  Slot i attends to the committed rows and its ancestors (for `tree=None` to
  every earlier slot) at position `length + depth[i]`. `cache.length` stays.
  With `slots` int32 [B, n] only those slots are projected to the vocabulary,
  and `logits` is [B, n, V].

    length 3, tokens [x4 a b], tree=None: a sees x1..x4, b sees x1..x4 and a
    length 3, tokens [x4 a b], parent [0 0 0]: b sees x1..x4 and not a
  """

  def __call__(
    self,
    params: PyTree,
    cache: PyTree,
    tokens: Array,
    tree: Tree | None = None,
    slots: Array | None = None,
  ) -> tuple[Scored, PyTree]: ...


class Commit(Protocol):
  """Moves `cache.length` by `num_tokens` int32 [B].

  Committing fewer rows than were written *is* the rollback, and a negative
  number takes rows back. With `path` int32 [B, P] (block slots of the accepted
  path, slot 0 implied) the rows of the path are first moved next to each other.
  """

  # length 3, block [x4 a b c], a accepted: num_tokens 2, so length 5. Rows
  # 5 and 6 still hold b and c, and the next block is written over them.
  # With parent [0 0 0 1] and path [1 3], rows 3 4 5 6 become [x4 a c c], and
  # num_tokens 3 leaves the last one out.
  def __call__(
    self, cache: PyTree, num_tokens: Array, path: Array | None = None
  ) -> PyTree: ...


class Select(Protocol):
  """Gathers batch rows [B']; `same_prompt` promises equal prompts."""

  # Beams of a prompt differ in what they generated alone. An encoder's keys and
  # values then stay where they are, which for a long source is most of a cache.
  def __call__(
    self, cache: PyTree, rows: Array, *, same_prompt: bool = False
  ) -> PyTree: ...


class KeysValues(Protocol):
  """Keys and values of one self-attention layer, in the cache's layout."""

  def __call__(self, cache: PyTree, layer: int) -> tuple[Array, Array]: ...


class Insert(Protocol):
  """Replaces the state of `rows` int32 [n] by that of `fresh` rows [n].

  A row below 0, or beyond the last one, is left out. A state in which no row
  has run yet is all zeros.
  """

  def __call__(self, state: PyTree, fresh: PyTree, rows: Array) -> PyTree: ...


class CachedLM(NamedTuple):
  """A language model with an explicit cache, as pure functions.

  Encoder-decoders and decoder-only models differ in `prefill` alone. The same
  bundle is a target, and the model inside an autoregressive drafter.

  Attributes:
    prefill, extend, commit, select, keys_values: functions of the protocols
      above. `select` and `keys_values` may be None. Without the first there is
      no beam search; without the second no drafter reads the target's cache.
    vocab_size: V of the logits, padded table entries cut off.
    max_positions: most decoder positions the model was made for, or None.
    is_encoder_decoder: whether a prompt is a source for an encoder.
    start_id: the decoder's start token (encoder-decoder), or None.
    insert: function of the protocol above, on caches of one capacity. None:
      finished rows are not replaced while others go on.
  """

  # Functions are hashed by identity, and a bundle by its functions. A bundle
  # made anew compiles every program anew, so factories are cached.
  prefill: Prefill
  extend: Extend
  commit: Commit
  select: Select | None
  keys_values: KeysValues | None
  vocab_size: int
  max_positions: int | None = None
  is_encoder_decoder: bool = False
  start_id: int | None = None
  insert: Insert | None = None


class Init(Protocol):
  """A drafter's state before the first round; `prefilled` is the target's."""

  def __call__(
    self,
    params: PyTree,
    prompt: Prompt,
    prefilled: Prefilled,
    *,
    capacity: int,
  ) -> PyTree: ...


class Propose(Protocol):
  """Proposes the tokens of one round."""

  def __call__(
    self, params: PyTree, state: PyTree, view: View
  ) -> tuple[Draft, PyTree]: ...


class Observe(Protocol):
  """Updates the state by the tokens that the round committed."""

  def __call__(
    self, params: PyTree, state: PyTree, observation: Observation
  ) -> PyTree: ...


class IsIdle(Protocol):
  """bool [B]: rows that will propose no tokens next round."""

  def __call__(self, state: PyTree) -> Array: ...


class NetworkCache(Protocol):
  """The cache of the network inside a drafter, a part of its state."""

  def __call__(self, state: PyTree) -> PyTree: ...


class Drafter(NamedTuple):
  """A proposer of tokens, as pure functions.

  Attributes:
    init, propose, observe: functions of the protocols above.
    num_draft: K, the static number of draft slots (nodes for a tree).
    max_path: P, the longest path of a draft; K for a chain.
    is_idle: function of the protocol above; `propose` is skipped while it is
      true of all live rows. None: `propose` runs in every round.
    insert: replacement of finished rows while others go on. None: the drafter
      decodes whole batches.
    network_cache: the part of a state that is the cache of a network inside,
      which `init` makes with the `prefill` of that network. None: there is no
      such part, and `init` reads every prompt whole.
  """

  init: Init
  propose: Propose
  observe: Observe
  # Static, since K decides the shapes of a block. How many tokens a row drafts
  # is data: with K = 4, two tokens are [a b EMPTY EMPTY].
  num_draft: int
  max_path: int
  # With 0 among the compiled widths, rounds without a draft are plain steps.
  is_idle: IsIdle | None = None
  insert: Insert | None = None
  network_cache: NetworkCache | None = None


class Verify(Protocol):
  """Decides on a draft, given the target's logits *after* `warp`.

  `logits` is float32 [B, T, V]; row t is the law of the token after block slot
  t.
  """

  # A rule applies no temperature and no filter of its own: p and a drafter's q
  # are warped in one place each, by the same switches.
  def __call__(
    self, context: Context, draft: Draft, logits: Array
  ) -> Verdict: ...


class Verifier(NamedTuple):
  """A verification rule and what it needs from a drafter.

  Attributes:
    verify: function of the protocol above.
    noise: way in which a drafter that samples must draw its tokens:
      'argmax'    take the most probable token;
      'round'     independent noise keyed by round, node and role (ratio rules);
      'position'  the target's own position-keyed noise (`coupled`);
      'private'   position-keyed noise of another role (`match`).
    needs_log_probs: whether `Draft.log_probs` is read.
  """

  verify: Verify
  # A drafter that draws with other noise keeps all shapes and the speed, and
  # breaks the law in silence. So the rule states its noise, and the drafter is
  # bound to it.
  noise: str = 'argmax'
  needs_log_probs: bool = False
