"""Leviathan et al.'s experiment at a small scale.

  python -m decode.benchmark --config=configs/bench_leviathan.py \
      --target=T5 --drafter=T5_SMALL,T5_TINY,bigram,unigram --input=prompts.txt

Drafters of several sizes and two tables of counts, several K, temperatures 0
and 1, batch 1: acceptance, c, the measured factor, theorem 3.8's, and the same
with what a block really costs. The tables count the target's answers to prompts
that are not measured. `:quick` measures less.

References:
  Leviathan et al. 2023, section 4 and tables 2 and 3.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  config = BenchmarkConfig(
    num_draft=(1, 2, 3, 5, 7),
    temperature=(0.0, 1.0),
    verifier=('auto',),
    batch_size=(1,),
    max_new_tokens=64,
    num_prompts=16,
    repetitions=5,
    table_prompts=64,
  )
  if arg == 'quick':
    config.num_draft = (1, 3)
    config.num_prompts = 4
    config.repetitions = 3
    config.table_prompts = 8
  elif arg:
    raise ValueError(f'There is no variant {arg!r}; there is quick.')
  return config
