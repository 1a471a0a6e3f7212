"""The nouns and the contracts every part of specjax is written against.

Data are `flax.struct.dataclass` pytrees (`data`); contracts are `NamedTuple`s
of pure functions made by factories, with their signatures as `Protocol`s
(`contracts`). Nothing else lives here.

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

from specjax.base.contracts import CachedLM
from specjax.base.contracts import Commit
from specjax.base.contracts import Drafter
from specjax.base.contracts import Extend
from specjax.base.contracts import Init
from specjax.base.contracts import Insert
from specjax.base.contracts import IsIdle
from specjax.base.contracts import KeysValues
from specjax.base.contracts import NetworkCache
from specjax.base.contracts import Observe
from specjax.base.contracts import Prefill
from specjax.base.contracts import Propose
from specjax.base.contracts import Select
from specjax.base.contracts import Verifier
from specjax.base.contracts import Verify
from specjax.base.data import Array
from specjax.base.data import Context
from specjax.base.data import Controls
from specjax.base.data import Draft
from specjax.base.data import EMPTY
from specjax.base.data import Observation
from specjax.base.data import Prefilled
from specjax.base.data import Prompt
from specjax.base.data import PyTree
from specjax.base.data import Scored
from specjax.base.data import Shared
from specjax.base.data import TokenLists
from specjax.base.data import Tree
from specjax.base.data import Verdict
from specjax.base.data import View

__all__ = [
  'Array',
  'CachedLM',
  'Commit',
  'Context',
  'Controls',
  'Draft',
  'Drafter',
  'EMPTY',
  'Extend',
  'Init',
  'Insert',
  'IsIdle',
  'KeysValues',
  'NetworkCache',
  'Observation',
  'Observe',
  'Prefill',
  'Prefilled',
  'Prompt',
  'Propose',
  'PyTree',
  'Scored',
  'Select',
  'Shared',
  'TokenLists',
  'Tree',
  'Verdict',
  'Verifier',
  'Verify',
  'View',
]
