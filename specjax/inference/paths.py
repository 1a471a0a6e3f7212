"""Promises of the ways to compute a target's products.

XLA adds up a row of a product in an order of its own for each number of rows,
so that logits depend on the width of a block, on batch size, prompt width and
capacity. In float32 that noise is some 1e-5 of a logit, and tokens stay the
same. Where results are rounded to 8 bits afterwards, the noise becomes a step
of the rounding, and tokens may follow it.
"""

from typing import NamedTuple

import jax

from specjax import base
from specjax.decoding import precision
from specjax.models.common import quantize


class Precision(NamedTuple):
  """A precision in which a target is decoded.

  Attributes:
    name: name in statistics and certificates.
    dtype: `dtype` with which it is loaded.
    int8: whether its matrices alone are kept in eight bits (`quantize`).
  """

  name: str
  dtype: str
  int8: bool = False


PRECISIONS = (
  Precision('float32', 'float32'),
  Precision('bfloat16', 'bfloat16'),
  Precision('w8a8', 'w8a8'),
  Precision('int8', 'float32', True),
)
NAMES = tuple(one.name for one in PRECISIONS)


class Path(NamedTuple):
  """A way to compute, and what it promises over all shapes of a decoding.

  Shapes are block widths, batch sizes, prompt widths and capacities.

  Attributes:
    name: name in certificates.
    precisions: names of the precisions that it computes in.
    equal_tokens: names of those in which tokens are the same in all shapes.
    equal_bits: whether logits are the same to the bit in all shapes.
  """

  name: str
  precisions: tuple[str, ...]
  equal_tokens: tuple[str, ...]
  equal_bits: bool

  def note(self, name: str) -> str:
    """A sentence on a precision without equal tokens; '' on another.

    Args:
      name: name of the precision.
    """
    if name in self.equal_tokens:
      return ''
    return (
      f'In {name} tokens may depend on batch_size and num_draft; in '
      f'{" and ".join(self.equal_tokens)} they do not.'
    )


XLA = Path('xla', NAMES, ('float32',), equal_bits=False)


def precision_of(params: base.PyTree) -> str:
  """Name of the precision that parameters compute in.

  Args:
    params: parameters of a target, arrays or shapes.
  """
  names = {
    getattr(path[-1], 'key', None)
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
    if path
  }
  if quantize.W8A8 in names:
    return 'w8a8'
  if not precision.is_float32(params):
    return 'bfloat16'
  return 'int8' if quantize.WEIGHTS in names else 'float32'
