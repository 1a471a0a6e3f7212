"""Settings of drafters on a target's hidden states."""

import dataclasses
from typing import Any

from specjax import validation
from specjax.models.speculator import config as speculator_config

_HERE = 'families.speculator'


@dataclasses.dataclass
class SpeculatorTraining:
  """How a `parallel`, `medusa` or `eagle` drafter is built and trained.

  Attributes:
    masks: ParallelSpec, all slots in one pass by mask tokens. Off: Medusa's
      heads, or EAGLE's token-by-token layer.
    num_draft: K slots trained, the first of which needs no mask. Decoding may
      use fewer.
    feature: how the target's states enter: 'none', 'fuse' or 'add'; 'auto' is
      'none' for `parallel` and 'fuse' for the others.
    mask_embedding: 'per_slot' or 'shared'.
    mask_feature: a mask's state: 'shared_learned', 'per_slot_learned',
      'repeat_last' or 'zeros'.
    anchors: groups of masks a row, drawn anew every step; 0 takes all.
    anchor_chunk: groups run at once; 0 runs all at once. Memory is bounded by
      rows x chunk x K x (row + chunk x K).
    keep: share of the groups that go on at each further depth (conditional
      drop-token); 1 keeps all.
    keep_least: least share kept at any depth.
    depth_decay: weight of depth d is its d-th power.
    feature_weight: of the smooth L1 distance between the drafter's state and
      the target's, added to the objective.
    feature_noise: the target's states are moved by uniform noise of this size
      in training.
  """

  masks: bool = True
  num_draft: int = 8
  feature: str = 'auto'
  mask_embedding: str = 'per_slot'
  mask_feature: str = 'shared_learned'
  anchors: int = 0
  anchor_chunk: int = 0
  keep: float = 1.0
  keep_least: float = 0.2
  depth_decay: float = 0.8
  feature_weight: float = 0.0
  feature_noise: float = 0.0

  def feature_of(self, family: str) -> str:
    """The resolved `feature`."""
    if self.feature != 'auto':
      return self.feature
    return 'none' if family == 'parallel' else 'fuse'

  def validate(self) -> None:
    """Raises ValueError with one sentence for a setting that cannot work."""
    for name, value, allowed in (
      ('feature', self.feature, ('auto', *speculator_config.FEATURES)),
      (
        'mask_embedding',
        self.mask_embedding,
        speculator_config.MASK_EMBEDDINGS,
      ),
      ('mask_feature', self.mask_feature, speculator_config.MASK_FEATURES),
    ):
      validation.one_of(f'{_HERE}.{name}', value, allowed)
    for name, least in (
      ('num_draft', 1),
      ('anchors', 0),
      ('anchor_chunk', 0),
      ('feature_weight', 0),
      ('feature_noise', 0),
    ):
      validation.at_least(f'{_HERE}.{name}', getattr(self, name), least)
    for name in ('keep', 'keep_least', 'depth_decay'):
      validation.share(f'{_HERE}.{name}', getattr(self, name))


def validate(config: Any, settings: SpeculatorTraining) -> None:
  """Raises ValueError if a `TrainConfig` of these drafters cannot work."""
  kind = config.model.family
  if config.task != 'drafter':
    raise ValueError(f"model.family={kind!r} is for task='drafter'.")
  if config.data.on_policy_fraction:
    raise ValueError(
      f'data.on_policy_fraction needs a drafter that generates by itself; a '
      f'{kind} drafter does not.'
    )
  if kind == 'parallel' and not settings.masks:
    raise ValueError(
      f'{_HERE}.masks=False makes an ordinary draft model; train model.family'
      "='decoder' or 't5' instead."
    )
  if kind == 'parallel' and settings.feature_weight:
    raise ValueError(
      f'{_HERE}.feature_weight compares states of equal width: it is for '
      'medusa and eagle drafters.'
    )
  if (
    kind == 'parallel'
    and config.model.output_vocab
    and (config.model.tie_embeddings)
  ):
    raise ValueError(
      'model.output_vocab is for drafters with model.tie_embeddings=False.'
    )


# The drafters that one compares: family and what is unlike the defaults.
# EAGLE weighs the distance of states ten times as much as that of the
# distributions.
VARIANTS = {
  'eagle_parallel': ('eagle', {'feature_weight': 10.0}),
  'eagle_parallel_soft': ('eagle', {}),
  'eagle': (
    'eagle',
    {'masks': False, 'feature_weight': 10.0, 'feature_noise': 0.1},
  ),
  'medusa_parallel': ('medusa', {}),
  'medusa': ('medusa', {'masks': False}),
  'parallel': ('parallel', {}),
}


def apply_variant(config: Any, name: str) -> Any:
  """A `TrainConfig` with the family and settings of a variant.

  Args:
    config: changed in place.
    name: of `VARIANTS`; '' is the first.

  Raises:
    ValueError: there is no such variant.
  """
  found = name or next(iter(VARIANTS))
  if found not in VARIANTS:
    raise ValueError(
      f'Unknown variant {name!r}; known are {", ".join(VARIANTS)}.'
    )
  config.model.family, changes = VARIANTS[found]
  settings = config.families.speculator
  config.families.speculator = dataclasses.replace(settings, **changes)
  config.name += f' ({found})'
  return config
