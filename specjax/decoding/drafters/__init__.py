"""Drafters: one file each; `registry` lists them.

specjax.drafters.custom(factory, params=..., has_log_probs=True)
specjax.drafters.hybrid(model)
specjax.drafters.register(DrafterEntry(...))
"""

from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.custom import custom
from specjax.decoding.drafters.drawing import Style
from specjax.decoding.drafters.entry import Costs
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import DraftPlan
from specjax.decoding.drafters.entry import Source
from specjax.decoding.drafters.entry import Target
from specjax.decoding.drafters.hybrid import hybrid
from specjax.decoding.drafters.registry import entries
from specjax.decoding.drafters.registry import register
from specjax.models.common.rows import insert as insert_rows

__all__ = [
  'Costs',
  'DraftData',
  'DraftPlan',
  'DrafterEntry',
  'Source',
  'Style',
  'Target',
  'custom',
  'drawing',
  'entries',
  'hybrid',
  'insert_rows',
  'register',
]
