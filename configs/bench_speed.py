"""Plain and speculative decoding beside other engines, at known sizes.

Every engine makes 128 new tokens for each of two random prompts of 64, at batch
1 and 8.
"""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=shape:t5-small \
    --drafter=simulated:0.8 --peer=transformers,ctranslate2"""
_MAKES = {
  '': 'ms a token of each engine',
  'one': 'batch 1',
  'quick': '32 tokens',
}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
  config = BenchmarkConfig(
    batch_size=(1, 8),
    max_new_tokens=128,
    num_prompts=2,
    prompt_length=64,
    repetitions=7,
    # Engines must make the same number of tokens; random weights end anywhere.
    ignore_eos=True,
  )
  if arg in ('one', 'quick'):
    config.batch_size = (1,)
  if arg == 'quick':
    config.max_new_tokens = 32
    config.repetitions = 3
  return config
