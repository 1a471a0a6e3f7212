"""Leviathan et al.'s experiment at a small scale.

Drafters of several sizes and two tables of counts, several K, temperatures 0
and 1, batch 1: acceptance, cost ratio, the measured speed-up, theorem 3.8's,
and the same with the measured cost of a block. The tables count the target's
answers to prompts that are not measured.

References:
  Leviathan et al. 2023, section 4 and tables 2 and 3.
"""

from specjax import variants
from specjax.benchmark.config import BenchmarkConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=T5 \
    --drafter=T5_SMALL,T5_TINY,bigram,unigram --input=prompts.txt"""
VARIANTS = (
  variants.Variant('', 'measured speed-ups beside theorem 3.8', _COMMAND),
  variants.Variant('quick', 'the same with 2 K and 4 prompts', _COMMAND),
)


def get_config(arg: str = '') -> BenchmarkConfig:
  variants.check(arg, VARIANTS)
  config = BenchmarkConfig(
    num_draft=(1, 2, 3, 5, 7),
    temperature=(0.0, 1.0),
    verifier=('auto',),
    batch_size=(1,),
    max_new_tokens=64,
    num_prompts=16,
    repetitions=5,
    # Counted on the measured prompts, tables would know the answers.
    table_prompts=64,
  )
  if arg == 'quick':
    config.num_draft = (1, 3)
    config.num_prompts = 4
    config.repetitions = 3
    config.table_prompts = 8
  return config
