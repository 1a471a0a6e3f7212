"""Speed and memory of a target beside the limits of the device.

Any target serves; `shape:NAME` has that shape and random weights, which are
drawn on the device. Measures at batch 1 and 8: plain milliseconds a token
beside its bytes at the measured bandwidth, the target over blocks of 1 to 32
tokens, the whole speculative step, and memory beside its estimate.
"""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=shape:t5-xxl \
    --drafter=simulated:0.8 --output=report"""
_MAKES = {'': 'steps, blocks and memory', 'quick': 'batch 1, three widths'}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
  config = BenchmarkConfig(
    num_draft=(4, 8),
    batch_size=(1, 8),
    max_new_tokens=128,
    # Random weights answer any prompt alike, and no end token may stop a row.
    num_prompts=1,
    prompt_length=64,
    repetitions=5,
    ignore_eos=True,
    # The precision in which such models are served; float32 is twice the bytes.
    dtype='bfloat16',
    widths=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
  )
  if arg == 'quick':
    config.num_draft, config.batch_size = (4,), (1,)
    config.widths = (1, 2, 8)
    config.max_new_tokens, config.repetitions = 16, 2
  return config
