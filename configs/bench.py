"""What `decode.benchmark` measures unless told otherwise.

`--config=configs/bench.py:smoke` is a run of seconds.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  if arg == 'smoke':
    return BenchmarkConfig(
      max_new_tokens=16, num_prompts=2, prompt_length=8, repetitions=2
    )
  if arg:
    raise ValueError(f'There is no variant {arg!r}; there is smoke.')
  return BenchmarkConfig()
