"""Drafters in one pass beside their hosts, on one target.

  python -m decode.benchmark --config=configs/bench_parallelspec.py \
      --target=TARGET --input=prompts.jsonl --output=report \
      --drafter=medusa/export,medusa_parallel/export,eagle/export,\
eagle_parallel/export,parallel/export

Measures K = 1, 2, 4, 6, 8 and 12 at temperatures 0 and 1, for chains and for
trees of 16 grown nodes. The report tells milliseconds of drafting by K, the
acceptance of each depth, the speed-up over plain decoding also by category of
the prompts, and what the break-even between one pass and token by token
predicts beside what was measured. `:chains` leaves the trees out, `:trees`
compares trees at K = 5, and `:quick` measures little of everything.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  config = BenchmarkConfig(
    num_draft=(1, 2, 4, 6, 8, 12),
    tree=('', 'grown:16'),
    temperature=(0.0, 1.0),
    max_new_tokens=128,
    num_prompts=24,
    repetitions=5,
  )
  if arg == 'chains':
    config.tree = ('',)
  elif arg == 'trees':
    config.num_draft = (5,)
    config.tree = ('', 'eagle', 'medusa', 'grown:16', 'grown:32')
  elif arg == 'quick':
    config.num_draft = (2, 4)
    config.temperature = (0.0,)
    config.num_prompts, config.repetitions = 2, 2
    config.max_new_tokens = 24
  elif arg:
    raise ValueError(
      f'There is no variant {arg!r}; there are chains, trees and quick.'
    )
  return config
