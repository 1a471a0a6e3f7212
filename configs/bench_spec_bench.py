"""Spec-Bench: six categories, chats of two turns, batch 1.

References:
  Xia et al. 2024. https://github.com/hemingkx/Spec-Bench
"""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=TARGET \
    --drafter=DRAFTER,prompt_lookup --input=question.jsonl"""
_MAKES = {'': 'speed-ups by category', 'quick': '2 questions of each'}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
  # 480 questions average over noise, so each is decoded once.
  config = BenchmarkConfig(
    num_draft=(4,), num_prompts=0, max_new_tokens=128, repetitions=1
  )
  if arg == 'quick':
    config.num_prompts = 12  # 2 questions of each of the 6 categories
    config.max_new_tokens = 32
  return config
