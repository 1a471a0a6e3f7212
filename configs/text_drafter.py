"""A draft model for the decoder-only target of `text_target.py`."""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources

_COMMAND = r"""specjax-train --config={config} --workdir=DRAFTER \
    --config.teacher=TARGET/export --config.data.valid=sotu/valid.jsonl \
    --config.data.train=sotu/train.jsonl,input.txt,gsm8k/train.jsonl"""
VARIANTS = (
  variants.Variant(
    '',
    'a drafter of 1.5 M parameters, forward KL',
    _COMMAND,
    '2026-11-22: 500 of the 4,000 steps, with 8 rows, took 14 min on one core '
    'of an AMD EPYC',
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
      family='decoder',
      width=128,
      layers=2,
      heads=4,
      head_dim=32,
      mlp=384,
      activation='silu',
      gated=True,
    ),
    data=sources.DataConfig(
      kind='text',
      train='sotu/train.jsonl,input.txt,gsm8k/train.jsonl',
      valid='sotu/valid.jsonl',
      text_fields='text,question,answer',
      target_length=256,
      batch_rows=16,
    ),
    optimizer=config_lib.OptimizerConfig(
      learning_rate=2e-3, warmup_steps=200, weight_decay=0.05, ema=0.998
    ),
    objective=config_lib.ObjectiveConfig(name='forward_kl', chunk=64),
  )
  if arg == 'quick':
    config.steps, config.eval_every = 100, 0
    config.optimizer.warmup_steps = 10
    config.data.max_examples = 300
  return config
