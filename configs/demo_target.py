"""The bundled target's settings: English to German, T5-type, sentence pairs.

About 10 million parameters. The first stage learns single sentences, in short
rows because attention over them costs less and words find their counterparts
sooner. The second stage learns passages too: an eighth of the rows' examples
are 4 to 8 pairs joined, about half of the tokens, so that long outputs are
learnt.
"""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources as sources_lib

_FIRST = r"""specjax-tokenizer --input=train.tsv --output=TOKENIZER
specjax-train --config={config} --workdir=SENTENCES \
    --config.tokenizer=TOKENIZER \
    --config.data.train=train.tsv --config.data.valid=valid.tsv"""
_SECOND = r"""specjax-train --config={config} --workdir=TARGET \
    --init_from=SENTENCES/export \
    --config.data.train=train.tsv --config.data.valid=valid.tsv"""
VARIANTS = (
  variants.Variant('sentences', 'the first stage', _FIRST),
  variants.Variant(
    '',
    'the second stage: the target',
    _SECOND,
    '2026-11-21: the bundled target took 6 h on 2 cores, in stages',
  ),
  variants.Variant('quick', 'the mechanics, 50 steps', _FIRST),
)


def get_config(arg: str = '') -> config_lib.TrainConfig:
  variants.check(arg, VARIANTS)
  config = config_lib.TrainConfig(
    task='target',
    name='specjax target of pairs',
    tokenizer='demo_tokenizer',
    steps=6000,
    seed=0,
    log_every=20,
    eval_every=500,
    save_every=0,
    save_minutes=4.0,
    keep_last=3,
    eval_prompts=0,
    export_dtype='bfloat16',
    model=config_lib.ModelConfig(
      family='t5', width=256, layers=6, heads=4, head_dim=64, mlp=512
    ),
    data=sources_lib.DataConfig(
      kind='pairs',
      train='train.en-de.tsv',
      valid='valid.en-de.tsv',
      source_length=92,
      target_length=96,
      batch_rows=48,
      joined_fraction=0.12,
    ),
    optimizer=config_lib.OptimizerConfig(
      name='muon',
      # At 4e-3 the loss of the first stage falls faster, but levels off higher.
      learning_rate=2e-3,
      schedule='cosine',
      warmup_steps=200,
      clip=1.0,
      ema=0.998,
    ),
    objective=config_lib.ObjectiveConfig(label_smoothing=0.1),
  )
  # Rows half as long and twice as many: 96 x 46 = 48 x 92 tokens a batch. The
  # rate stays constant, because the second stage goes on from here.
  if arg == 'sentences':
    config.data.joined_fraction = 0.0
    config.data.source_length, config.data.target_length = 46, 48
    config.data.batch_rows = 96
    config.optimizer.schedule = 'constant'
  elif arg == 'quick':
    config.steps, config.eval_every = 50, 50
    config.optimizer.warmup_steps = 5
    config.data.max_examples = 2000
  return config
