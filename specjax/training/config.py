"""Settings of a training run, as a config file returns them.

The dataclasses are mutable because command-line overrides assign to their
fields; a run validates them once and changes nothing afterwards.
"""

import dataclasses
from typing import Any

from specjax import options as options_lib
from specjax import validation
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
    families: options of each training family, as families.NAME.FIELD; from
      Python {'NAME': {'FIELD': value}}.
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
    validation.one_of('task', self.task, TASKS)
    validation.one_of('model.family', self.model.family, registry.kinds())
    validation.one_of('remat', self.remat, REMAT)
    validation.one_of('compute_dtype', self.compute_dtype, DTYPES)
    validation.one_of('export_dtype', self.export_dtype, DTYPES)
    self._validate_numbers()
    self.model.validate()
    self.optimizer.validate()
    self.objective.validate()
    options_lib.check_names(self.families, registry.families(), 'families')
    options = options_lib.of(self.families, self.family)
    options.validate()
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
  old = _renamed(old)
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


def _renamed(old: dict) -> dict:
  """Settings of a run of version 0.1 under the names of today."""
  if 'families' in old or 'model' not in old:
    return old
  made = {name: value for name, value in old.items() if name not in MOVED}
  own = registry.of_kind(old['model']['family']).name
  made['families'] = {
    own: old[name]
    for name, new in MOVED.items()
    if name in old and new == f'families.{own}'
  }
  return made
