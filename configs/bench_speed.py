"""Plain and speculative decoding beside other engines, at known sizes.

  python -m decode.benchmark --config=configs/bench_speed.py \
      --target=shape:t5-small --drafter=simulated:0.8 \
      --peer=transformers,ctranslate2

Every engine makes 128 new tokens for each of a few random prompts of 64, at
batch 1 and 8. `:one` measures batch 1 alone, `:quick` less of everything.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  config = BenchmarkConfig(
    batch_size=(1, 8),
    max_new_tokens=128,
    num_prompts=2,
    prompt_length=64,
    repetitions=7,
    ignore_eos=True,
  )
  if arg in ('one', 'quick'):
    config.batch_size = (1,)
  elif arg:
    raise ValueError(f'There is no variant {arg!r}; there are one and quick.')
  if arg == 'quick':
    config.max_new_tokens = 32
    config.repetitions = 3
  return config
