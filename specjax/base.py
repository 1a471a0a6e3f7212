"""The nouns and the contracts every part of specjax is written against.

Three kinds of things live here and nothing else:

* data, as `flax.struct.dataclass` pytrees;
* bundles of pure functions, as `NamedTuple`s made by factories;
* the types of those functions.

Shape letters, used everywhere in the library:

  B  batch rows                  K  draft slots
  S  prompt (source) length      T  block slots, T = K + 1; slot 0 holds the
  L  capacity of a token buffer     last committed token
     or a cache                  P  longest path of a draft (K for a chain)
  V  vocabulary                  D  model width

References:
  Leviathan, Kalman, Matias. Fast inference from Transformers via speculative
    decoding. ICML 2023. https://arxiv.org/abs/2211.17192
  Xia et al. Speculative decoding: exploiting speculative execution for
    accelerating seq2seq generation. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
  Xiao et al. ParallelSpec: parallel drafter for efficient speculative
    decoding. 2024. https://arxiv.org/abs/2410.05589
"""

from typing import Any, Callable, NamedTuple, Optional

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
  """

  tokens: Array
  length: Array


@struct.dataclass
class Controls:
  """What each request of a batch asks for. Traced: changing it recompiles
  nothing.

  Attributes:
    row_key: typed PRNG keys [B]; a row's only source of randomness.
    temperature: float32 [B]; 0 means greedy.
    top_k: int32 [B]; 0 keeps every token.
    top_p: float32 [B] in (0, 1]; 1 keeps every token.
    min_p: float32 [B] in [0, 1]; 0 keeps every token.
    repetition_penalty: float32 [B], positive; 1 changes nothing.
    max_new_tokens: int32 [B]; the row's budget.
    eos_ids: int32 [E]; any of them ends a row; -1 entries match nothing.
    lenience: float32 [B] in (0, 1]; used by the lossy `lenient` verifier.
    beta: int32 [B], at least 1, and
    tau: float32 [B], at least 0; used by the lossy `top_candidates` verifier.
  """

  row_key: Array
  temperature: Array
  top_k: Array
  top_p: Array
  min_p: Array
  repetition_penalty: Array
  max_new_tokens: Array
  eos_ids: Array
  lenience: Array
  beta: Array
  tau: Array


@struct.dataclass
class Context:
  """What is committed so far.

  Attributes:
    tokens: int32 [B, L]; for an encoder-decoder these are decoder tokens,
      beginning with the decoder's start token.
    length: int32 [B], number of committed tokens.
    prompt_length: int32 [B], how many of them were given and not generated.
    controls: `Controls`.
  """

  tokens: Array
  length: Array
  prompt_length: Array
  controls: Controls


@struct.dataclass
class Tree:
  """Who follows whom inside a block. `None` in its place means a chain.

  Attributes:
    parent: int32 [B, T]; a slot's parent stands before it; slot 0, the last
      committed token, is its own parent.
    depth: int32 [B, T]; 0 for slot 0. A slot's position is
      `cache.length + depth`.
  """

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

  tokens: Array
  log_probs: Optional[Array] = None
  tree: Optional[Tree] = None


@struct.dataclass
class Verdict:
  """What a verifier decided.

  Attributes:
    num_accepted: int32 [B], accepted draft tokens, 0..P.
    next_token: int32 [B], the correction or bonus token that follows them.
    path: int32 [B, P], block slots (1..K) of the accepted path for a tree,
      arbitrary after `num_accepted`; None for a chain.
  """

  num_accepted: Array
  next_token: Array
  path: Optional[Array] = None


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
  """What one pass over a block yields.

  Attributes:
    logits: float32 [B, n, V], next-token logits of the scored slots.
    hidden: tuple of [B, T, D], states of the layers asked for.
  """

  logits: Array
  hidden: tuple = ()


@struct.dataclass
class View:
  """What a drafter may look at when it proposes. Read-only.

  Attributes:
    context: `Context`, with the rows' keys and controls.
    last_token: int32 [B].
    cache: the target's cache.
  """

  context: Context
  last_token: Array
  cache: PyTree


@struct.dataclass
class Observation:
  """What a drafter is told after each round.

  Attributes:
    tokens: int32 [B, P + 1], the tokens emitted in this round, from the left.
    num_tokens: int32 [B], how many of them count; 0 for a finished row.
    hidden: tuple of [B, P + 1, D]; entry i is the target's state at the slot
      that predicted `tokens[:, i]`.
    length: int32 [B], committed tokens after the round.
    num_accepted: int32 [B], how many of the emitted tokens were drafted.
  """

  tokens: Array
  num_tokens: Array
  hidden: tuple
  length: Array
  num_accepted: Array


class CachedLM(NamedTuple):
  """A language model with an explicit cache, as pure functions.

  Encoder-decoders and decoder-only models differ in `prefill` alone. The same
  bundle is a target, and the model inside an autoregressive drafter.

  Attributes:
    prefill: `(params, prompt: Prompt, *, capacity: int) -> Prefilled`.
    extend: `(params, cache, tokens [B, T], tree=None, slots=None) ->
      (Scored, cache)`. Writes T rows at `cache.length` and scores them in one
      pass; slot i attends to the committed rows and its ancestors (for
      `tree=None` to every earlier slot) at position `length + depth[i]`.
      Does not move `cache.length`. With `slots` int32 [B, n] only those slots
      are projected to the vocabulary and `logits` is [B, n, V].
    commit: `(cache, num_tokens [B], path=None) -> cache`. Moves `length` by
      `num_tokens`: committing fewer rows than were written *is* the rollback,
      and a negative number takes rows back. With `path` int32 [B, P] (block
      slots of the accepted path, slot 0 implied) the rows of the path are
      first moved next to each other.
    select: `(cache, rows [B'], *, same_prompt=False) -> cache`, gathers batch
      rows; `same_prompt` promises that each comes from a row of the same
      prompt.
    keys_values: `(cache, layer: int) -> (keys, values)` of one self-attention
      layer, in the cache's own layout.
    vocab_size: V of the logits, padded table entries cut off.
    max_positions: most decoder positions the model was made for, or None.
    is_encoder_decoder: whether a prompt is a source for an encoder.
    start_id: the decoder's start token (encoder-decoder), or None.
  """

  prefill: Callable[..., Prefilled]
  extend: Callable[..., tuple[Scored, PyTree]]
  commit: Callable[..., PyTree]
  select: Callable[..., PyTree]
  keys_values: Callable[..., tuple[Array, Array]]
  vocab_size: int
  max_positions: Optional[int]
  is_encoder_decoder: bool
  start_id: Optional[int]


class Drafter(NamedTuple):
  """Something that proposes tokens.

  Attributes:
    init: `(params, prompt: Prompt, prefilled: Prefilled, *, capacity: int) ->
      state`; `prefilled` is the target's.
    propose: `(params, state, view: View) -> (Draft, state)`.
    observe: `(params, state, observation: Observation) -> state`.
    num_draft: K, the static number of draft slots (nodes for a tree).
    max_path: P, the longest path of a draft; K for a chain.
    rests: `state -> bool [B]`, rows that will draft nothing in the coming
      round, whatever the text; while all live rows rest, `propose` is left out.
      None: it always has to be asked.
  """

  init: Callable[..., PyTree]
  propose: Callable[..., tuple[Draft, PyTree]]
  observe: Callable[..., PyTree]
  num_draft: int
  max_path: int
  rests: Optional[Callable[[PyTree], Array]] = None


# (context, draft, logits) -> Verdict, where `logits` float32 [B, T, V] are the
# target's logits *after* `warp`.
VerifyFn = Callable[[Context, Draft, Array], Verdict]


class Verifier(NamedTuple):
  """A verification rule and what it needs from a drafter.

  Attributes:
    verify: `VerifyFn`.
    noise: how a drafter that can sample must draw its tokens:
      'argmax'    take the most probable token;
      'round'     independent noise keyed by round, node and role (ratio rules);
      'position'  the target's own position-keyed noise (`coupled`);
      'private'   position-keyed noise of another role (`match`).
    needs_log_probs: whether `Draft.log_probs` is read.
    exact: False for rules that change the target's law; they are labelled
      lossy wherever a user meets them.
    name: as a user writes it.
  """

  verify: VerifyFn
  noise: str
  needs_log_probs: bool
  exact: bool
  name: str
