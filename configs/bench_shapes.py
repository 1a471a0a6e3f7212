"""A target's speed and memory beside what the device allows.

  python -m decode.benchmark --config=configs/bench_shapes.py \
      --target=shape:t5-xxl --drafter=simulated:0.8 --output=report

Any target will do; `shape:NAME` is one of that shape with random weights, which
are drawn on the device. Measures, at batch 1 and 8: plain milliseconds a token
beside its bytes at the measured bandwidth, the target over blocks of 1 to 32
tokens, the whole speculative step, and memory beside its estimate. `:quick`
measures little of everything.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  config = BenchmarkConfig(
    num_draft=(4, 8),
    batch_size=(1, 8),
    max_new_tokens=128,
    num_prompts=1,
    prompt_length=64,
    repetitions=5,
    ignore_eos=True,
    dtype='bfloat16',
    widths=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
  )
  if arg == 'quick':
    config.num_draft, config.batch_size = (4,), (1,)
    config.widths = (1, 2, 8)
    config.max_new_tokens, config.repetitions = 16, 2
  elif arg:
    raise ValueError(f'There is no variant {arg!r}; there is quick.')
  return config
