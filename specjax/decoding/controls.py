"""What a user asks of a generation, as the loop takes it."""

import dataclasses
import types
from typing import Mapping, Sequence, Union

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.decoding import warp as warp_lib


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are chosen; one value for all rows or one for each.

  Attributes:
    temperature: 0 means greedy.
    top_k: 0 keeps every token.
    top_p: in (0, 1].
    min_p: in [0, 1].
    repetition_penalty: positive; 1 changes nothing.
    no_repeat_ngram_size: 0 allows every repetition. One value.
  """

  temperature: Union[float, Sequence[float]] = 0.0
  top_k: Union[int, Sequence[int]] = 0
  top_p: Union[float, Sequence[float]] = 1.0
  min_p: Union[float, Sequence[float]] = 0.0
  repetition_penalty: Union[float, Sequence[float]] = 1.0
  no_repeat_ngram_size: int = 0

  def warp_spec(self) -> warp_lib.WarpSpec:
    """The static switches these values need."""
    return warp_lib.WarpSpec(
      sampled=bool(np.any(np.asarray(self.temperature) > 0)),
      top_k=bool(np.any(np.asarray(self.top_k) > 0)),
      top_p=bool(np.any(np.asarray(self.top_p) < 1)),
      min_p=bool(np.any(np.asarray(self.min_p) > 0)),
      repetition_penalty=bool(np.any(np.asarray(self.repetition_penalty) != 1)),
      no_repeat_ngram_size=self.no_repeat_ngram_size,
    )

  def controls(
    self,
    row_key: base.Array,
    max_new_tokens: Union[int, Sequence[int]],
    eos_ids: Sequence[int] = (),
    rule: Mapping[str, np.ndarray] = types.MappingProxyType({}),
  ) -> base.Controls:
    """Traced controls for a batch.

    Args:
      row_key: typed PRNG keys [B], see `row_keys`.
      max_new_tokens: one budget or one for each row.
      eos_ids: end tokens; empty to ignore them.
      rule: dials of the verification rule, arrays of one value or one a row.

    Returns:
      `base.Controls` with every field [B].
    """
    batch = row_key.shape[0]

    def rows(value, dtype):
      return np.broadcast_to(np.asarray(value, dtype), (batch,))

    # Of numpy: a compiled program takes them over faster than `jnp` would.
    return base.Controls(
      row_key=row_key,
      temperature=rows(self.temperature, np.float32),
      top_k=rows(self.top_k, np.int32),
      top_p=rows(self.top_p, np.float32),
      min_p=rows(self.min_p, np.float32),
      repetition_penalty=rows(self.repetition_penalty, np.float32),
      max_new_tokens=rows(max_new_tokens, np.int32),
      eos_ids=np.asarray(list(eos_ids) or [-1], np.int32),
      rule={name: rows(dial, dial.dtype) for name, dial in rule.items()},
    )


def row_keys(seed: int, ids: Sequence[int]) -> base.Array:
  """One key a row, from a seed and the row's own identity.

  Args:
    seed: of the whole job.
    ids: int [B]; whatever names a request, such as its place in the input, so
      that a row's randomness depends on neither batch nor order.

  Returns:
    Typed keys [B].
  """
  key = jax.random.key(seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.asarray(ids, jnp.uint32)
  )
