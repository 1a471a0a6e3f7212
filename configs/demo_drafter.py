"""A draft model for the bundled translator, distilled from it.

The target's answer to a passage is not what it answers to its sentences, so
both are labelled. The drafter is narrow, with one decoder layer and a head that
knows the 2,048 most frequent target tokens: about 1.4 million parameters. The
named variants compare objectives, each with the same budget, on sentences that
are joined after labelling.
"""

from specjax import variants
from specjax.training import config as config_lib
from specjax.training.data import sources

_COMMAND = r"""cut -f1 train.tsv | shuf | paste -d ' ' - - - - - \
    | head -14000 > passages.txt
specjax-label --target=TARGET --input=train.tsv --output=sentences.jsonl \
    --config.batch_size=64
specjax-label --target=TARGET --input=passages.txt --output=passages.jsonl \
    --config.batch_size=64
specjax-train --config={config} --workdir=DRAFTER \
    --config.teacher=TARGET \
    --config.data.labelled=sentences.jsonl,passages.jsonl \
    --config.data.valid=valid.tsv"""
_LABELLED = r"""specjax-train --config={config} --workdir=DRAFTER \
    --config.teacher=TARGET --config.data.labelled=sentences.jsonl \
    --config.data.valid=valid.tsv"""
_DATA = r"""specjax-train --config={config} \
    --workdir=DRAFTER \
    --config.teacher=TARGET --config.data.train=train.tsv \
    --config.data.valid=valid.tsv"""
VARIANTS = (
  variants.Variant(
    '',
    'a drafter of 1.4 M parameters, cross entropy on labels',
    _COMMAND,
    '2026-11-22: the bundled drafter took 40 min on one core, in stages',
  ),
  variants.Variant('ce', 'cross entropy on labels', _LABELLED),
  variants.Variant('forward_kl', 'forward KL on labels', _LABELLED),
  variants.Variant('reverse_kl', 'reverse KL on labels', _LABELLED),
  variants.Variant('jsd', 'Jensen-Shannon divergence on labels', _LABELLED),
  variants.Variant('tv', 'total variation on labels', _LABELLED),
  variants.Variant(
    'on_policy', "forward KL, half the batches the drafter's own", _LABELLED
  ),
  variants.Variant(
    'ce_ground_truth', "cross entropy on the data's targets", _DATA
  ),
)

# Objective of each variant.
_OBJECTIVES = {
  '': 'cross_entropy',
  'ce_ground_truth': 'cross_entropy',
  'ce': 'cross_entropy',
  'forward_kl': 'forward_kl',
  'reverse_kl': 'reverse_kl',
  'jsd': 'jsd',
  'tv': 'total_variation',
  'on_policy': 'forward_kl',
}


def get_config(arg: str = '') -> config_lib.TrainConfig:
  variants.check(arg, VARIANTS)
  config = _base(arg)
  # A comparison needs the order of the objectives, not the best drafter: a
  # sixth of the steps, and the same ones for all.
  if arg:
    config.steps, config.eval_every = 2000, 0
  else:
    config.steps, config.eval_every = 12000, 3000
    config.data.joined_fraction = 0.0
    config.optimizer.name, config.optimizer.learning_rate = 'muon', 4e-3
    config.optimizer.warmup_steps, config.optimizer.ema = 50, 0.999
  if arg == 'ce_ground_truth':
    config.data.labelled_fraction = 0.0
    config.data.train, config.data.labelled = 'train.en-de.tsv', ''
  if arg == 'on_policy':
    # The drafter samples an answer to each source, so sources are not packed:
    # one source a row, and as many tokens a batch as the packed ones hold.
    config.data.pack = False
    config.data.joined_fraction = 0.0
    config.data.batch_rows = 128
    config.data.source_length = config.data.target_length = 24
    config.data.on_policy_fraction = 0.5
  return config


def _base(arg: str) -> config_lib.TrainConfig:
  """The settings that all variants share."""
  return config_lib.TrainConfig(
    task='drafter',
    name='specjax draft model of pairs',
    teacher='demo_target/export',
    log_every=50,
    save_every=0,
    save_minutes=5.0,
    eval_prompts=64,
    export_dtype='bfloat16',
    model=config_lib.ModelConfig(
      family='t5',
      width=96,
      layers=1,
      encoder_layers=2,
      heads=3,
      head_dim=32,
      mlp=384,
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
      learning_rate=3e-3, warmup_steps=200, weight_decay=0.01, ema=0.998
    ),
    objective=config_lib.ObjectiveConfig(name=_OBJECTIVES[arg]),
  )
