"""Settings of a training run, as a config file returns them.

The dataclasses are mutable because command-line overrides assign to their
fields; a run validates them once and changes nothing afterwards.
"""

import dataclasses
from typing import Any

from specjax import options as options_lib
from specjax import validation
from specjax.decoding import precision
from specjax.distributed import mesh as mesh_lib
from specjax.training.data import sources as sources_lib
from specjax.training.families import registry
from specjax.training.settings import ModelConfig
from specjax.training.settings import ObjectiveConfig
from specjax.training.settings import OptimizerConfig

TASKS = ('target', 'drafter')
REMAT = ('none', 'full')
DTYPES = ('float32', 'bfloat16')

# Groups of options of version 0.1 that have another name now.
MOVED = {
  'parallel': 'families.speculator',
  'slots': 'families.spec_drafter',
}


class _Moved:
  """Stands where a group of options was, and names where it is."""

  def __init__(self, name: str):
    object.__setattr__(self, '_name', name)

  def __getattr__(self, field: str):
    raise ValueError(f'{self._name} has moved: give {MOVED[self._name]}.')

  def __setattr__(self, field: str, value: Any):
    getattr(self, field)


def default_families() -> Any:
  """Options of every registered training family."""
  return options_lib.container(registry.families())


@dataclasses.dataclass
class TrainConfig:
  """A training run.

  Attributes:
    task: kind of the run: target trains a model on data, drafter distils one
      from `teacher`.
    name: name of the model, in its card.
    tokenizer: folder of the tokenizer; '' takes the teacher's.
    teacher: folder of the target that a drafter learns from.
    init_from: folder of exported weights that training begins with; '' draws
      new ones.
    steps: number of optimiser steps of the whole run.
    seed: seed of initial weights, order of the data and dropout.
    compute_dtype: precision of the passes; parameters are float32.
    matmul_precision: precision of float32 products in training. highest
      computes them in float32 on every platform; default leaves them to XLA,
      which takes TF32 on GPUs and bfloat16 on TPUs.
    remat: activations that the backward pass recomputes, which saves memory.
    mesh: device mesh and the placement of the model on it; shape=(-1, 1) splits
      the batch over all devices.
    log_every: steps between two lines of metrics.
    eval_every: steps between two evaluations; 0 evaluates at the end only.
    save_every: steps between two checkpoints; 0 saves at the end only.
    save_minutes: minutes between two checkpoints, beside those of `save_every`;
      0 is none.
    keep_last: number of checkpoints that are kept, beside the best.
    average_last: number of last checkpoints whose mean is exported, at most
      `keep_last`; 1 exports the last one, or its averaged weights (see
      optimizer.ema). What a stop saved between two of `save_every` is not among
      them.
    eval_batches: number of held-out batches for the loss.
    eval_prompts: number of held-out prompts that are decoded for acceptance and
      block efficiency.
    eval_draft: draft length K of that decoding, in tokens; at most what a
      drafter with masks learns.
    eval_new_tokens: most new tokens of an answer in that decoding.
    export_dtype: precision of the exported weights.
    licence: licence of the data, for the model card.
    data_note: origin of the data, for the model card.
    model: shape of a new model.
    data: files to train on, and the batches made of them.
    optimizer: optimiser and schedule.
    objective: objective that is minimised.
    families: options of each training family, as families.NAME.FIELD; from
      Python {'NAME': {'FIELD': value}}.
  """

  task: str = validation.choice('target', TASKS)
  name: str = 'model'
  tokenizer: str = ''
  teacher: str = ''
  init_from: str = ''
  steps: int = 1000
  seed: int = 0
  compute_dtype: str = validation.choice('float32', DTYPES)
  matmul_precision: str = validation.choice('default', precision.MODES)
  remat: str = validation.choice('none', REMAT)
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
  export_dtype: str = validation.choice('float32', DTYPES)
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
  families: Any = dataclasses.field(default_factory=default_families)
  parallel: dataclasses.InitVar[Any] = _Moved('parallel')
  slots: dataclasses.InitVar[Any] = _Moved('slots')

  def __post_init__(self, *moved: Any):
    for name, value in zip(MOVED, moved, strict=True):
      if not isinstance(value, _Moved):
        raise ValueError(f'{name} has moved: give {MOVED[name]}.')

  @property
  def family(self) -> Any:
    """The `TrainingFamily` of `model.family`."""
    return registry.of_kind(self.model.family)

  def validate(self) -> None:
    """Raises ValueError with one sentence for a setting that cannot work."""
    validation.check_choices(self)
    self._validate_numbers()
    self.model.validate()
    self.optimizer.validate()
    self.objective.validate()
    options_lib.check_names(self.families, registry.families(), 'families')
    options = options_lib.of(self.families, self.family)
    options_lib.validate(options, self.family.name)
    self.family.validate(self, options)
    self.data.validate()
    self.mesh.validate()
    if self.task == 'drafter' and not self.teacher:
      raise ValueError("task='drafter' needs teacher=FOLDER of its target.")
    if self.task == 'target':
      self._validate_target()

  def _validate_numbers(self) -> None:
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

  def _validate_target(self) -> None:
    if self.teacher:
      raise ValueError(
        f'teacher={self.teacher!r} is for drafters; a target learns from data '
        "alone: leave it out, or set task='drafter'."
      )
    if not self.tokenizer and not self.init_from:
      raise ValueError(
        'A new target needs tokenizer=FOLDER; train.tokenizer makes one.'
      )
    if self.objective.name != 'cross_entropy':
      raise ValueError(
        f'objective.name={self.objective.name!r} compares with a teacher; a '
        "target has none and learns by 'cross_entropy'."
      )
    if self.data.on_policy_fraction:
      raise ValueError('data.on_policy_fraction is for drafters.')


def to_dict(config: TrainConfig) -> dict:
  """Nested plain dict of a config; options of other families are left out."""
  made = dataclasses.asdict(config)
  own = dataclasses.asdict(options_lib.of(config.families, config.family))
  made['families'] = {config.family.name: own} if own else {}
  made['data']['labelled_fraction'] = config.data.labelled_share()
  return made


# Settings that may differ between two runs in one workdir: they change no
# parameter.
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
    old: result of `to_dict`, as the folder of a run holds it.
    new: result of `to_dict` for the new settings.
  """
  old = _renamed(old)
  # A setting younger than the run is as it always was.
  kept = {
    k: v for k, v in new.items() if v == _DEFAULTS.get(k, validation.ABSENT)
  }
  free = _FREE
  if old.get('steps', 0) <= new['steps']:  # It goes on for longer.
    free |= {'steps'}
  found = validation.difference(kept | old, new, free)
  if found is None:
    return ''
  path, theirs, ours = found
  if validation.ABSENT in (theirs, ours):
    where = 'this config' if ours is validation.ABSENT else 'the run in it'
    return f'{path} is missing from {where}'
  return f'{path} is {ours!r} here and {theirs!r} there'


def _renamed(old: dict) -> dict:
  """Settings of a run of version 0.1 under the names of today."""
  if 'families' in old or 'model' not in old:
    return old
  made = {name: value for name, value in old.items() if name not in MOVED}
  own = registry.of_kind(old['model']['family']).name
  made['families'] = {}
  for name, new in MOVED.items():
    if name in old and new == f'families.{own}':
      made['families'][own] = old[name]
  return made
