"""Drafters: one file each, each a factory returning `base.Drafter`."""

from specjax.decoding.drafters.autoregressive import autoregressive
from specjax.decoding.drafters.drawing import Style
from specjax.decoding.drafters.drawing import style_for
from specjax.decoding.drafters.hybrid import hybrid
from specjax.decoding.drafters.hybrid import HybridParams
from specjax.decoding.drafters.hybrid import HybridSpec
from specjax.decoding.drafters.nothing import nothing
from specjax.decoding.drafters.prompt_lookup import prompt_lookup
from specjax.decoding.drafters.simulated import Script
from specjax.decoding.drafters.simulated import simulated
from specjax.decoding.drafters.spec_drafter import slot_drafter
from specjax.decoding.drafters.spec_drafter import SlotSpec
from specjax.decoding.drafters.speculator import parallel
from specjax.decoding.drafters.suffix import suffix
from specjax.decoding.drafters.suffix import SuffixSpec
from specjax.decoding.drafters.table import count_table
from specjax.decoding.drafters.table import Table
from specjax.decoding.drafters.table import table
from specjax.decoding.drafters.token_recycling import token_recycling

__all__ = [
  'HybridParams',
  'HybridSpec',
  'Script',
  'SlotSpec',
  'Style',
  'SuffixSpec',
  'Table',
  'autoregressive',
  'count_table',
  'hybrid',
  'nothing',
  'parallel',
  'prompt_lookup',
  'simulated',
  'slot_drafter',
  'style_for',
  'suffix',
  'table',
  'token_recycling',
]
