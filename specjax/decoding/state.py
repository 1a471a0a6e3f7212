"""What the decoding loop carries and what it returns."""

from typing import Optional

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
  """One column a round, for counting afterwards. All int32 [B, R].

  Attributes:
    drafted: proposed tokens (empty slots not counted).
    accepted: emitted tokens that were drafted.
    emitted: emitted tokens; 0 once a row is finished.
  """

  drafted: base.Array
  accepted: base.Array
  emitted: base.Array


@struct.dataclass
class DecodeState:
  """Everything the next round needs; rollback is an integer in `cache`.

  `faults` int32 [B] holds the bits of `contract`, or is None where drafter and
  rule are ours.
  """

  context: base.Context
  last_token: base.Array
  cache: base.PyTree
  drafter: base.PyTree
  status: base.Array
  num_rounds: base.Array
  rounds: Rounds
  faults: Optional[base.Array] = None


@struct.dataclass
class Generation:
  """What was generated.

  Attributes:
    tokens: int32 [B, L], prompt (for an encoder-decoder: the start token)
      followed by the new tokens; zeros after them.
    prompt_length: int32 [B].
    num_tokens: int32 [B], new tokens, an end token included.
    status: int32 [B], one of EOS, LENGTH, NAN (RUNNING if `run` was stopped).
    num_rounds: int32 [], target calls of the batch, prefill not counted.
    rounds: `Rounds`.
    faults: as in `DecodeState`.
  """

  tokens: base.Array
  prompt_length: base.Array
  num_tokens: base.Array
  status: base.Array
  num_rounds: base.Array
  rounds: Rounds
  faults: Optional[base.Array] = None
