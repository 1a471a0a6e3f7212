"""Drafters: one file each, each a factory returning `base.Drafter`."""

from specjax.decoding.drafters.autoregressive import autoregressive
from specjax.decoding.drafters.nothing import nothing
from specjax.decoding.drafters.prompt_lookup import prompt_lookup
from specjax.decoding.drafters.simulated import Script
from specjax.decoding.drafters.simulated import simulated

__all__ = ['Script', 'autoregressive', 'nothing', 'prompt_lookup', 'simulated']
