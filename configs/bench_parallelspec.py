"""Drafters in one pass beside drafters token by token, on one target.

Measures K = 1, 2, 4, 6, 8 and 12 at temperatures 0 and 1, for chains and for
trees of 16 grown nodes. The report holds milliseconds of drafting by K, the
acceptance of each depth, the speed-up over plain decoding (also by category of
the prompts), and for each pair the predicted and the measured break-even.
"""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=TARGET \
    --drafter=MEDUSA/export,MEDUSA_PARALLEL/export,EAGLE/export \
    --drafter=EAGLE_PARALLEL/export,PARALLEL/export \
    --input=prompts.jsonl --output=report"""
_MAKES = {
  '': 'chains and grown trees, six K',
  'chains': 'the same without trees',
  'trees': 'chains and four trees at K = 5',
  'quick': 'two K, 2 prompts, temperature 0',
}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
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
  return config
