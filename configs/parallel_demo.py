"""Drafters on the states of the translation target, with and without masks.

All variants have the same data, steps and layer size.
"""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources
from specjax.training.families import speculator_options

_COMMAND = r"""specjax-train --config={config} --workdir=DRAFTER \
    --config.teacher=TARGET/export --config.data.labelled=labels.jsonl \
    --config.data.valid=valid.tsv"""
VARIANTS = (
  variants.Variant('', 'the default, eagle_parallel', _COMMAND),
  *(
    variants.Variant(name, variant.makes, _COMMAND)
    for name, variant in speculator_options.VARIANTS.items()
  ),
)


def get_config(arg: str = '') -> config_lib.TrainConfig:
  variants.check(arg, VARIANTS)
  config = config_lib.TrainConfig(
    task='drafter',
    name='specjax drafter of pairs',
    teacher='demo_target/export',
    steps=4000,
    log_every=50,
    eval_every=1000,
    save_every=0,
    save_minutes=5.0,
    eval_prompts=64,
    export_dtype='bfloat16',
    model=config_lib.ModelConfig(
      layers=1,
      heads=4,
      head_dim=64,
      mlp=512,
      activation='silu',
      gated=True,
      tie_embeddings=False,
      output_vocab=2048,
    ),
    data=sources.DataConfig(
      kind='pairs',
      labelled='demo_labels.jsonl',
      labelled_fraction=1.0,
      valid='valid.en-de.tsv',
      source_length=92,
      target_length=96,
      batch_rows=16,
      joined_fraction=0.5,
    ),
    optimizer=config_lib.OptimizerConfig(
      learning_rate=2e-3, warmup_steps=200, weight_decay=0.01, ema=0.998
    ),
    objective=config_lib.ObjectiveConfig(name='forward_kl'),
  )
  config.model.width = (
    128  # of `:parallel`; the others are as wide as the target
  )
  return speculator_options.apply_variant(config, arg)
