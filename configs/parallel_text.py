"""Drafters on the states of a decoder-only target, with and without masks.

The teacher may be any Llama-type folder; the data are text files or JSON lines.
All variants have the same data, steps and layer size.
"""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources
from specjax.training.families import speculator_options

_COMMAND = r"""specjax-train --config={config} --workdir=DRAFTER \
    --config.teacher=TARGET --config.data.train=train.txt \
    --config.data.valid=valid.txt"""
VARIANTS = (
  variants.Variant(
    '',
    'the default, eagle_parallel',
    _COMMAND,
    '2026-11-22: 1,400 of the 4,000 steps, with 4 rows, took 8 to 12 min on '
    'one core of an AMD EPYC',
  ),
  *(
    variants.Variant(name, variant.makes, _COMMAND)
    for name, variant in speculator_options.VARIANTS.items()
  ),
  variants.Variant('quick', 'the mechanics, 100 steps', _COMMAND),
)


def get_config(arg: str = '') -> config_lib.TrainConfig:
  variants.check(arg, VARIANTS)
  config = config_lib.TrainConfig(
    task='drafter',
    name='specjax text drafter',
    teacher='text_target/export',
    steps=4000,
    log_every=50,
    eval_every=1000,
    save_every=0,
    save_minutes=5.0,
    eval_prompts=16,
    model=config_lib.ModelConfig(
      width=128,
      layers=1,
      heads=6,
      head_dim=64,
      mlp=1024,
      activation='silu',
      gated=True,
      tie_embeddings=False,
      output_vocab=4096,
    ),
    data=sources.DataConfig(
      kind='text',
      train='sotu/train.jsonl,input.txt,gsm8k/train.jsonl',
      valid='sotu/valid.jsonl',
      text_fields='text,question,answer',
      target_length=256,
      batch_rows=8,
    ),
    optimizer=config_lib.OptimizerConfig(
      learning_rate=2e-3, warmup_steps=200, weight_decay=0.05, ema=0.998
    ),
    objective=config_lib.ObjectiveConfig(name='forward_kl', chunk=64),
  )
  # 64 of a row's 256 positions are anchors in a step, which is a quarter of the
  # work; they are drawn anew, so training covers all. Chunks bound the memory.
  config.families.speculator.anchors = 64
  config.families.speculator.anchor_chunk = 32
  if arg == 'quick':
    config.steps, config.eval_every = 100, 0
    config.optimizer.warmup_steps = 10
    config.data.max_examples = 300
    arg = ''
  return speculator_options.apply_variant(config, arg)
