"""Drafters: one file each, each a factory returning `base.Drafter`."""

from specjax.decoding.drafters.autoregressive import autoregressive
from specjax.decoding.drafters.nothing import nothing
from specjax.decoding.drafters.prompt_lookup import prompt_lookup
from specjax.decoding.drafters.simulated import Script
from specjax.decoding.drafters.simulated import simulated
from specjax.decoding.drafters.table import count_table
from specjax.decoding.drafters.table import Table
from specjax.decoding.drafters.table import table

__all__ = [
  'Script',
  'Table',
  'autoregressive',
  'count_table',
  'nothing',
  'prompt_lookup',
  'simulated',
  'table',
]
