"""Default settings of `specjax-benchmark`: every drafter once, batch 1."""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=TARGET \
    --drafter=DRAFTER,prompt_lookup --input=prompts.txt --output=report"""
_MAKES = {'': 'speed of each drafter beside plain', 'smoke': '2 short prompts'}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
  if arg == 'smoke':
    return BenchmarkConfig(
      max_new_tokens=16, num_prompts=2, prompt_length=8, repetitions=2
    )
  return BenchmarkConfig()
