"""A small decoder-only target on public-domain and openly licensed text.

About 14 million parameters of the Llama family. The data are US State of the
Union addresses (sotu), the works of Shakespeare (input.txt) and GSM8K.
"""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources

_COMMAND = r"""specjax-tokenizer --input=sotu/train.jsonl --input=input.txt \
    --input=gsm8k/train.jsonl --output=TOKENIZER --noappend_eos
specjax-train --config={config} --workdir=TARGET \
    --config.tokenizer=TOKENIZER --config.data.valid=sotu/valid.jsonl \
    --config.data.train=sotu/train.jsonl,input.txt,gsm8k/train.jsonl"""
VARIANTS = (
  variants.Variant(
    '',
    'a target of 13.8 M parameters',
    _COMMAND,
    '2026-11-22: 700 of the 6,000 steps, with 8 rows, took 44 min on one core '
    'of an AMD EPYC',
  ),
  variants.Variant('quick', 'the mechanics, 100 steps', _COMMAND),
)


def get_config(arg: str = '') -> config_lib.TrainConfig:
  variants.check(arg, VARIANTS)
  config = config_lib.TrainConfig(
    task='target',
    name='specjax text target',
    tokenizer='text_tokenizer',
    steps=6000,
    log_every=50,
    eval_every=1000,
    save_every=0,
    save_minutes=5.0,
    model=config_lib.ModelConfig(
      family='decoder',
      width=384,
      layers=6,
      heads=6,
      head_dim=64,
      mlp=1024,
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
      learning_rate=1e-3, warmup_steps=300, weight_decay=0.1, ema=0.998
    ),
    objective=config_lib.ObjectiveConfig(),
  )
  if arg == 'quick':
    config.steps, config.eval_every = 100, 0
    config.optimizer.warmup_steps = 10
    config.data.max_examples = 300
  return config
