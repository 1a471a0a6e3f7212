"""Spec-Bench: six categories, chats of two turns, batch 1.

  python -m decode.benchmark --config=configs/bench_spec_bench.py \
      --target=FOLDER --drafter=FOLDER,prompt_lookup --input=question.jsonl

`:quick` takes two questions of each category.

References:
  Xia et al. 2024. https://github.com/hemingkx/Spec-Bench
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  config = BenchmarkConfig(
    num_draft=(4,), num_prompts=0, max_new_tokens=128, repetitions=1
  )
  if arg == 'quick':
    config.num_prompts = 12
    config.max_new_tokens = 32
  elif arg:
    raise ValueError(f'There is no variant {arg!r}; there is quick.')
  return config
