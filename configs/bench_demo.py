"""Which drafter the demo should take: see `train.bundle`.

  python -m decode.benchmark --config=configs/bench_demo.py \
      --target=TARGET --drafter=DRAFTER,SPEC_DRAFTER --input=test.en-de.tsv \
      --output=report

Sentences one at a time, exact rules alone, every length of draft that may pay.
"""

from specjax.benchmark.config import BenchmarkConfig


def get_config(arg: str = '') -> BenchmarkConfig:
  if arg:
    raise ValueError(f'There is no variant {arg!r}.')
  return BenchmarkConfig(
    num_draft=(2, 3, 4, 6, 8, 10),
    max_new_tokens=96,
    num_prompts=24,
    max_prompt_tokens=92,
    repetitions=5,
  )
