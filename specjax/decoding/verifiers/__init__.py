"""Verification rules: given a draft and the target's logits, what is kept.

| name             | exact for | keeps                                         |
|------------------|-----------|-----------------------------------------------|
| `greedy`         | argmax    | what equals the target's argmax               |
| `sampling`       | sampling  | a token with probability min(1, p / q)        |
| `block`          | sampling  | the longest prefix that passes a joint test   |
| `coupled`        | sampling  | what equals the target's sample; noise shared |
| `match`          | sampling  | what equals the target's sample               |
| `lenient`        | *lossy*   | a token with probability min(1, p / (l q))    |
| `top_candidates` | *lossy*   | tokens among the target's best few            |
| `traversal`      | sampling  | as `block`, of a tree                         |
| `typical`        | *lossy*   | a token that the target finds plausible       |
"""

import functools

from specjax.base import Verifier
from specjax.decoding import sampling as _noise
from specjax.decoding.verifiers import tree as _tree
from specjax.decoding.verifiers.block import block
from specjax.decoding.verifiers.greedy import greedy
from specjax.decoding.verifiers.match import coupled
from specjax.decoding.verifiers.match import match
from specjax.decoding.verifiers.ratio import lenient
from specjax.decoding.verifiers.ratio import sampling
from specjax.decoding.verifiers.top_candidates import top_candidates
from specjax.decoding.verifiers.traversal import traversal
from specjax.decoding.verifiers.typical import typical
from specjax.decoding.verifiers.without_replacement import rejection

_PLAIN = {
  'greedy': greedy,
  'sampling': sampling,
  'block': block,
  'lenient': lenient,
  'top_candidates': top_candidates,
  'traversal': traversal,
  'typical': typical,
}
# With trees; noise is drawn as the rule says, by slot.
_TREE = {
  'greedy': _tree.greedy,
  'sampling': rejection,
  'traversal': traversal,
  'typical': typical,
}
_TARGET_SAMPLE = {'coupled': coupled, 'match': match}
_TREE_SAMPLE = {'coupled': _tree.coupled, 'match': _tree.match}
TREE_NAMES = tuple(_TREE) + tuple(_TREE_SAMPLE)

NAMES = (
  'greedy',
  'sampling',
  'block',
  'coupled',
  'match',
  'lenient',
  'top_candidates',
  'traversal',
  'typical',
)

__all__ = ['NAMES', 'TREE_NAMES', 'make']


@functools.lru_cache(maxsize=None)
def make(name: str, sampler: str = 'gumbel', *, max_path: int = 0) -> Verifier:
  """The rule of that name; the same object every time.

  Args:
    name: one of `NAMES`.
    sampler: how `coupled` and `match` draw the target's samples, 'gumbel' or
      'inverse_cdf'; the other rules take no part in it.
    max_path: 0 for drafts that are chains; for trees, their longest path.

  Raises:
    ValueError: on another name or sampler, or a rule without a tree form.
  """
  if sampler not in _noise.SAMPLERS:
    raise ValueError(
      f'Unknown sampler {sampler!r}: it must be one of '
      f'{", ".join(_noise.SAMPLERS)}.'
    )
  if max_path and name in NAMES:
    if name in _TREE:
      return _TREE[name](max_path)
    if name in _TREE_SAMPLE:
      return _TREE_SAMPLE[name](max_path, sampler)
    raise ValueError(
      f'The rule {name!r} verifies chains only; for a tree use one of '
      f'{", ".join(TREE_NAMES)}.'
    )
  if name in _TARGET_SAMPLE:
    return _TARGET_SAMPLE[name](sampler)
  if name in _PLAIN:
    return _PLAIN[name]()
  raise ValueError(
    f'Unknown verification rule {name!r}: it must be one of {", ".join(NAMES)}.'
  )
