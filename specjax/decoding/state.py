"""The carry of the decoding loop, and its result."""

from collections.abc import Callable

from flax import struct

from specjax import base

# Why a row stopped.
RUNNING, EOS, LENGTH, NAN = range(4)


@struct.dataclass
class Params:
  """Parameters of the target and of the drafter (None if it has none)."""

  target: base.PyTree
  drafter: base.PyTree = None


@struct.dataclass
class Rounds:
  """Trace of each row's own rounds, one column each. All int32 [B, R].

  Attributes:
    drafted: proposed tokens (empty slots not counted).
    accepted: emitted tokens that were drafted.
    emitted: emitted tokens; 0 once a row is finished.
  """

  # Drafts of 4 tokens: 2 accepted, then 4, then 3 with an end token second.
  #   drafted  [4 4 4 0 ..]
  #   accepted [2 4 2 0 ..]
  #   emitted  [3 5 2 0 ..]
  drafted: base.Array
  accepted: base.Array
  emitted: base.Array


@struct.dataclass
class DecodeState:
  """Everything the next round needs; rollback is an integer in `cache`.

  `num_rounds` int32 [] counts the rounds of the batch, `row_rounds` int32 [B]
  those in which each row was live. `faults` int32 [B] holds the bits of
  `contract`, or is None where drafter and rule are ours. `log_probs` is None
  where the recipe asks for none.
  """

  # Prompt [p q r] and a round that emitted [a b x]:
  #   context.tokens [p q r a b x 0 ..], length 6, prompt_length 3
  #   last_token     x
  #   cache.length   5, all committed tokens but the last
  context: base.Context
  last_token: base.Array
  cache: base.PyTree
  drafter: base.PyTree
  status: base.Array
  num_rounds: base.Array
  row_rounds: base.Array
  rounds: Rounds
  faults: base.Array | None = None
  log_probs: base.PyTree = None


def runs(state: DecodeState) -> base.Array:
  """bool [B]: rows that are not done."""
  # Every round of a live row emits a token, so that none has more rounds than
  # the trace has columns, unless a rule of a user's own accepts less than none.
  most = state.rounds.emitted.shape[1]
  return (state.status == RUNNING) & (state.row_rounds < most)


def with_keys(
  state: DecodeState, change: Callable[[base.Array], base.Array]
) -> DecodeState:
  """The state with its row keys as bare numbers, or as keys again.

  Between two programs they are numbers: a call that takes or gives typed keys
  goes through Python, 1.5 ms where a round of a small model takes 3.

  Args:
    state: a state.
    change: `jax.random.key_data` or `jax.random.wrap_key_data`.
  """
  controls = state.context.controls
  controls = controls.replace(row_key=change(controls.row_key))
  return state.replace(context=state.context.replace(controls=controls))


@struct.dataclass
class Generation:
  """The result of a generation.

  Attributes:
    tokens: int32 [B, L], prompt (for an encoder-decoder: the start token)
      followed by the new tokens; zeros after them.
    prompt_length: int32 [B].
    num_tokens: int32 [B], new tokens, an end token included.
    status: int32 [B], one of EOS, LENGTH, NAN (RUNNING if `run` was stopped).
    num_rounds: int32 [], target calls of the batch, prefill not counted.
    rounds: `Rounds`.
    faults: bits of `DecodeState`.
    score: float32 [B], of a beam search: log probability of the new tokens over
      their number to the power of the length penalty. None otherwise.
    log_probs: `log_probs.LogProbs` of the new tokens, or None.
  """

  tokens: base.Array
  prompt_length: base.Array
  num_tokens: base.Array
  status: base.Array
  num_rounds: base.Array
  rounds: Rounds
  faults: base.Array | None = None
  score: base.Array | None = None
  log_probs: base.PyTree = None
