"""Settings of a training run, as a config file returns them.

The dataclasses are mutable because command-line overrides assign to their
fields; a run validates them once and changes nothing afterwards.
"""

import dataclasses

from specjax import validation
from specjax.distributed import mesh as mesh_lib
from specjax.training import losses
from specjax.training.data import sources as sources_lib
from specjax.training.families import speculator_settings

TASKS = ('target', 'drafter')
SLOT_FAMILIES = ('spec_drafter', 'blockwise')
FAMILIES = ('t5', 'decoder') + SLOT_FAMILIES + speculator_settings.FAMILIES
OPTIMIZERS = ('adamw', 'adafactor', 'muon')
SCHEDULES = ('cosine', 'rsqrt', 'constant')
REMAT = ('none', 'full')


@dataclasses.dataclass
class ModelConfig:
  """Shape of a new model; ignored where weights are given.

  Attributes:
    family: 't5' (encoder-decoder), 'decoder', or a drafter for a T5 target:
      'spec_drafter', or 'blockwise' (heads on the target's last state); or one
      for a target of either kind: 'parallel', 'medusa' or 'eagle' (see
      `ParallelSettings`), the width of the last two being the target's.
    width: D.
    layers: decoder layers (and encoder layers unless given).
    encoder_layers: of a T5; 0 takes `layers`.
    heads, head_dim: attention heads and their width.
    kv_heads: key-value heads of a decoder; 0 takes `heads`.
    mlp: width of the feed-forward layer.
    activation: of the feed-forward layer; with `gated`, of its gate.
    gated: two input projections, one of them a gate.
    tie_embeddings: the output projection is the embedding table.
    dropout: share of activations set to 0 in training.
    max_positions: of a decoder.
    output_vocab: a drafter's head knows only this many tokens, the most
      frequent of the training targets; 0 keeps all. Not of 'decoder'.
  """

  family: str = 't5'
  width: int = 256
  layers: int = 6
  encoder_layers: int = 0
  heads: int = 4
  head_dim: int = 64
  kv_heads: int = 0
  mlp: int = 512
  activation: str = 'relu'
  gated: bool = False
  tie_embeddings: bool = True
  dropout: float = 0.0
  max_positions: int = 2048
  output_vocab: int = 0


@dataclasses.dataclass
class OptimizerConfig:
  """How parameters move.

  Attributes:
    name: 'adamw', 'adafactor', or 'muon' (Muon for the matrices inside
      layers, AdamW for the rest).
    learning_rate: at the peak.
    schedule: 'cosine' (to 0 at the last step), 'rsqrt' or 'constant', after
      `warmup_steps` of linear rise.
    weight_decay: decoupled; matrices only.
    b1, b2, eps: of AdamW.
    table_rate: of 'muon': the learning rate of embeddings, norms and biases,
      as a fraction of `learning_rate`.
    clip: largest global norm of a gradient; 0 clips nothing.
    accumulation: batches summed into one step.
    ema: decay of the averaged weights that are evaluated and exported;
      0 keeps none.
  """

  name: str = 'adamw'
  learning_rate: float = 1e-3
  schedule: str = 'cosine'
  warmup_steps: int = 200
  weight_decay: float = 0.0
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  table_rate: float = 0.5
  clip: float = 1.0
  accumulation: int = 1
  ema: float = 0.0


@dataclasses.dataclass
class ObjectiveConfig:
  """What is minimised.

  Attributes:
    name: one of `losses.NAMES`.
    temperature: of both distributions in the soft objectives.
    beta: of 'jsd'.
    label_smoothing: of 'cross_entropy'.
    hard_weight: share of the loss that is cross entropy on the data's tokens,
      beside a soft objective.
    chunk: positions scored at once; 0 scores the whole row. Logits of both
      models exist for one chunk at a time, also in the backward pass.
  """

  name: str = 'cross_entropy'
  temperature: float = 1.0
  beta: float = 0.5
  label_smoothing: float = 0.0
  hard_weight: float = 0.0
  chunk: int = 0


@dataclasses.dataclass
class SlotsConfig:
  """Of the families 'spec_drafter' and 'blockwise'; see `block_mask`.

  Attributes:
    block: masked slots of an example, the longest draft there can be.
    block_min: if above 0, each example has between so many and `block` slots,
      so that one drafter serves every number in between.
    window: verified tokens that a Spec-Drafter sees; `data.target_length` shows
      it the whole prefix.
    cuts: examples made of one row at each step; they share the encoder's pass.
    reveal_first, reveal_last: share of the wrong guesses that glancing reveals,
      at the first and (falling linearly) at the last step.
    source_copy: masked slots begin with the source's embeddings as their
      positions ask for them; without it, with one learned vector.
    init_encoder: begin with the target's embeddings and its encoder layers.
  """

  block: int = 25
  block_min: int = 0
  window: int = 32
  cuts: int = 1
  reveal_first: float = 0.5
  reveal_last: float = 0.3
  source_copy: bool = True
  init_encoder: bool = False


@dataclasses.dataclass
class TrainConfig:
  """A training run.

  Attributes:
    task: 'target' (a model on data) or 'drafter' (distilled from `teacher`).
    name: of the model, in its card.
    tokenizer: folder of the tokenizer; '' takes the teacher's.
    teacher: folder of the target a drafter learns from.
    init_from: folder of exported weights to continue from; '' starts anew.
    steps: optimiser steps of the whole run.
    seed: of initial weights, data order and dropout.
    compute_dtype: 'float32' or 'bfloat16'; parameters are float32.
    remat: 'none', or 'full' to recompute activations in the backward pass.
    mesh: the devices; see `mesh.MeshConfig`. `shape=(-1, 1)` splits
      the batch over all of them.
    log_every, eval_every, save_every: steps between lines of metrics,
      evaluations and checkpoints; 0 for `eval_every` evaluates at the end
      only, and for `save_every` saves at the end only.
    save_minutes: also save when this many minutes passed; 0 does not.
    keep_last: checkpoints kept, beside the best.
    average_last: exported weights are the mean of this many last checkpoints,
      at most `keep_last`; 1 exports the last one (or its EMA). What a stop
      saved between two of `save_every` is not among them.
    eval_batches: held-out batches for the loss.
    eval_prompts: held-out prompts decoded for acceptance, block efficiency.
    eval_draft: draft tokens K of that decoding, at most those that a drafter
      with masks learns.
    eval_new_tokens: budget of each of those prompts.
    export_dtype: dtype of the exported weights.
    licence: of the data, for the model card.
    data_note: where the data come from, for the model card.
  """

  task: str = 'target'
  name: str = 'model'
  tokenizer: str = ''
  teacher: str = ''
  init_from: str = ''
  steps: int = 1000
  seed: int = 0
  compute_dtype: str = 'float32'
  remat: str = 'none'
  mesh: mesh_lib.MeshConfig = dataclasses.field(
    default_factory=mesh_lib.MeshConfig
  )
  log_every: int = 20
  eval_every: int = 500
  save_every: int = 500
  save_minutes: float = 0.0
  keep_last: int = 3
  average_last: int = 1
  eval_batches: int = 8
  eval_prompts: int = 32
  eval_draft: int = 4
  eval_new_tokens: int = 64
  export_dtype: str = 'float32'
  licence: str = ''
  data_note: str = ''
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  data: sources_lib.DataConfig = dataclasses.field(
    default_factory=sources_lib.DataConfig
  )
  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )
  objective: ObjectiveConfig = dataclasses.field(
    default_factory=ObjectiveConfig
  )
  slots: SlotsConfig = dataclasses.field(default_factory=SlotsConfig)
  parallel: speculator_settings.ParallelSettings = dataclasses.field(
    default_factory=speculator_settings.ParallelSettings
  )

  def validate(self):
    """Raises ValueError with one sentence for a setting that cannot work."""
    validation.one_of('task', self.task, TASKS)
    validation.one_of('model.family', self.model.family, FAMILIES)
    validation.one_of('optimizer.name', self.optimizer.name, OPTIMIZERS)
    validation.one_of('optimizer.schedule', self.optimizer.schedule, SCHEDULES)
    validation.one_of('remat', self.remat, REMAT)
    validation.one_of(
      'compute_dtype', self.compute_dtype, ('float32', 'bfloat16')
    )
    validation.one_of(
      'export_dtype', self.export_dtype, ('float32', 'bfloat16')
    )
    losses.check_name(self.objective.name)
    validation.at_least('steps', self.steps, 1)
    validation.between('seed', self.seed, 0, 2**32 - 1)
    for name in ('log_every', 'keep_last', 'average_last', 'eval_draft'):
      validation.at_least(name, getattr(self, name), 1)
    validation.at_least('eval_new_tokens', self.eval_new_tokens, 1)
    for name in ('eval_every', 'save_every', 'eval_batches', 'eval_prompts'):
      validation.at_least(name, getattr(self, name), 0)
    validation.at_least('save_minutes', self.save_minutes, 0)
    if self.average_last > self.keep_last:
      raise ValueError(
        f'average_last={self.average_last} exceeds keep_last={self.keep_last}, '
        'the checkpoints there are; raise keep_last.'
      )
    for name in ('width', 'layers', 'heads', 'head_dim', 'mlp'):
      validation.at_least(f'model.{name}', getattr(self.model, name), 1)
    validation.between('model.dropout', self.model.dropout, 0, 0.95)
    validation.at_least('model.output_vocab', self.model.output_vocab, 0)
    if self.model.output_vocab and (
      self.task != 'drafter'
      or self.model.family == 'decoder'
      or (
        self.model.tie_embeddings
        and self.model.family not in ('blockwise', 'medusa', 'eagle')
      )
    ):
      raise ValueError(
        'model.output_vocab is for drafters with model.tie_embeddings=False, '
        "and not for model.family='decoder'."
      )
    shape = self.model
    if shape.family == 't5' and shape.gated and shape.activation == 'gelu':
      raise ValueError(
        "model.activation='gelu' with model.gated cannot be exported: a T5's "
        "config.json means 'gelu_new' by gated-gelu; take 'gelu_new'."
      )
    self._validate_learning()
    if self.model.family in SLOT_FAMILIES:
      self._validate_slots()
    if self.model.family in speculator_settings.FAMILIES:
      speculator_settings.validate(self)
    self.data.validate()
    self.mesh.validate()
    if self.task == 'drafter' and not self.teacher:
      raise ValueError("task='drafter' needs teacher=FOLDER of its target.")
    if self.task == 'target' and self.teacher:
      raise ValueError(
        f'teacher={self.teacher!r} is for drafters; a target learns from data '
        "alone: leave it out, or set task='drafter'."
      )
    if self.task == 'target' and not self.tokenizer and not self.init_from:
      raise ValueError(
        'A new target needs tokenizer=FOLDER; train.tokenizer makes one.'
      )
    if self.task == 'target' and self.objective.name != 'cross_entropy':
      raise ValueError(
        f'objective.name={self.objective.name!r} compares with a teacher; a '
        "target has none and learns by 'cross_entropy'."
      )
    if self.task == 'target' and self.data.on_policy_fraction:
      raise ValueError('data.on_policy_fraction is for drafters.')

  def _validate_slots(self):
    slots, family = self.slots, self.model.family
    for name in ('block', 'window', 'cuts'):
      validation.at_least(f'slots.{name}', getattr(slots, name), 1)
    validation.between('slots.block_min', slots.block_min, 0, slots.block)
    validation.between('slots.reveal_first', slots.reveal_first, 0, 1)
    validation.between('slots.reveal_last', slots.reveal_last, 0, 1)
    if slots.block > self.data.target_length:
      raise ValueError(
        f'slots.block={slots.block} exceeds data.target_length='
        f'{self.data.target_length}, the positions there are.'
      )
    if self.eval_draft > slots.block:
      raise ValueError(
        f'eval_draft={self.eval_draft} exceeds slots.block={slots.block}.'
      )
    wrong = None
    if self.task != 'drafter':
      wrong = "task='drafter'"
    elif self.objective.name != 'cross_entropy':
      wrong = "objective.name='cross_entropy' (labels come from train.label)"
    elif self.data.kind != 'pairs':
      wrong = "data.kind='pairs'"
    elif self.data.on_policy_fraction:
      wrong = 'data.on_policy_fraction=0'
    if wrong:
      raise ValueError(f'model.family={family!r} needs {wrong}.')

  def _validate_learning(self):
    optimizer, objective = self.optimizer, self.objective
    for name in ('learning_rate', 'eps'):
      validation.positive(f'optimizer.{name}', getattr(optimizer, name))
    validation.at_least('optimizer.accumulation', optimizer.accumulation, 1)
    for name in ('warmup_steps', 'weight_decay', 'clip', 'table_rate'):
      validation.at_least(f'optimizer.{name}', getattr(optimizer, name), 0)
    for name in ('ema', 'b1', 'b2'):
      validation.between(
        f'optimizer.{name}', getattr(optimizer, name), 0, 0.999999
      )
    validation.at_least('objective.chunk', objective.chunk, 0)
    validation.between(
      'objective.label_smoothing', objective.label_smoothing, 0, 0.95
    )
    validation.between('objective.hard_weight', objective.hard_weight, 0, 1)
    validation.positive('objective.temperature', objective.temperature)
    if not 0 < objective.beta < 1:
      raise ValueError(
        'objective.beta must lie strictly between 0 and 1, not '
        f'{objective.beta}.'
      )


def to_dict(config: TrainConfig) -> dict:
  """Nested plain dict of a config; settings of other families are left out."""
  made = dataclasses.asdict(config)
  if config.model.family not in SLOT_FAMILIES:
    del made['slots']
  return made


# What may differ between two runs in one workdir: it changes no parameter.
_FREE = frozenset(
  {
    'log_every',
    'eval_every',
    'save_every',
    'save_minutes',
    'keep_last',
    'average_last',
    'eval_batches',
    'eval_prompts',
    'eval_draft',
    'eval_new_tokens',
    'export_dtype',
    'licence',
    'data_note',
    'name',
    'data.threads',
    'data.valid',
    'data_parallel',  # of older runs; now mesh.shape
    'mesh',
    'objective.chunk',
    'remat',
  }
)


_DEFAULTS = dataclasses.asdict(TrainConfig())


def difference(old: dict, new: dict) -> str:
  """Names the first field that makes `new` another run than `old`, or ''.

  Args:
    old: of `to_dict`, as the folder of a run holds it.
    new: likewise.
  """
  # A setting younger than the run is as it always was.
  kept = {
    k: v for k, v in new.items() if v == _DEFAULTS.get(k, validation.ABSENT)
  }
  found = validation.difference(kept | old, new, _FREE)
  if found is None:
    return ''
  path, theirs, ours = found
  if validation.ABSENT in (theirs, ours):
    where = 'this config' if ours is validation.ABSENT else 'the run in it'
    return f'{path} is missing from {where}'
  return f'{path} is {ours!r} here and {theirs!r} there'
