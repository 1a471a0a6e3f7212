"""The demo's drafter, distilled from the demo's target.

  cut -f1 train.en-de.tsv | shuf | paste -d ' ' - - - - - \
      | head -14000 > passages.txt
  python -m train.label --target=TARGET --input=train.en-de.tsv \
      --output=sentences.jsonl --config.batch_size=64
  python -m train.label --target=TARGET --input=passages.txt \
      --output=passages.jsonl --config.batch_size=64
  python -m train.main --config=configs/demo_drafter.py --workdir=DIR \
      --config.teacher=TARGET \
      --config.data.labelled=sentences.jsonl,passages.jsonl \
      --config.data.valid=valid.en-de.tsv

The target writes of a passage what it does not write of its sentences, so both
are labelled.

Narrow, with one decoder layer and a head that knows the 2048 most frequent
target tokens: a drafter is worth what it costs. About 1.4 million parameters.

Variants for comparisons, each with the same budget, on sentences joined after
labelling: `:ce_ground_truth`, `:ce`, `:forward_kl`, `:reverse_kl`, `:jsd`,
`:tv`, `:on_policy`.
"""

from specjax.training import config as config_lib
from specjax.training.data import sources

# What each variant changes of objective and data.
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
  """`arg` names a variant; '' is the bundled drafter."""
  if arg not in _OBJECTIVES:
    known = ', '.join(filter(None, _OBJECTIVES))
    raise ValueError(f'Unknown variant {arg!r}; known are {known}.')
  config = _base(arg)
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
    # One source a row; as many tokens a batch as the packed ones hold.
    config.data.pack = False
    config.data.joined_fraction = 0.0
    config.data.batch_rows = 128
    config.data.source_length = config.data.target_length = 24
    config.data.on_policy_fraction = 0.5
  return config


def _base(arg: str) -> config_lib.TrainConfig:
  """What all variants share."""
  return config_lib.TrainConfig(
    task='drafter',
    name='specjax demo drafter, English to German',
    teacher='demo_target/export',
    log_every=50,
    save_every=0,
    save_minutes=5.0,
    eval_prompts=64,
    export_dtype='bfloat16',
    licence='CC BY 2.0',
    data_note=(
      'English sentences of www.manythings.org/anki and tatoeba.org, '
      'translated by the target'
    ),
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
