"""SpecDec's tables at our scale: slots, rules, drafters, batches, quality.

The first drafter is the main one. Sources are passages of six joined sentences;
BLEU is against their translations.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023, section 4.
    https://arxiv.org/abs/2203.16487
"""

from specjax import variants
from specjax.benchmark.specdec import SpecDecConfig

_COMMAND = r"""specjax-benchmark --config={config} --target=T5 \
    --drafter=SPEC_DRAFTER,HEAD,REDUCED,SIX_SIX --input=test.tsv \
    --output=report"""
_MAKES = {'': 'four tables', 'quick': '4 passages', 'single': 'single lines'}
VARIANTS = variants.table(_COMMAND, _MAKES)


def get_config(arg: str = '') -> SpecDecConfig:
  variants.check(arg, VARIANTS)
  config = SpecDecConfig(
    num_draft=(5, 10, 15, 20, 25, 30),
    relaxed=((1, 0.0), (3, 1.0), (5, 3.0), (5, 5.0)),
    table_draft=10,
    batch_size=(1, 2, 4, 8, 16, 32),
    max_new_tokens=96,
    # Source positions for which the bundled models were trained.
    max_prompt_tokens=92,
    num_prompts=32,
    join=6,
    num_beams=5,
    repetitions=5,
  )
  if arg == 'quick':
    config.num_draft = (5, 10)
    config.batch_size = (1, 4)
    config.num_prompts = 4
    config.repetitions = 2
  elif arg == 'single':
    config.join, config.max_prompt_tokens = 1, 0
  return config
