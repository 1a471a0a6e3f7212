"""Settings of drafters on a target's hidden states."""

import dataclasses
from typing import Any, NamedTuple

from specjax import validation
from specjax.models.speculator import config as speculator_config

_HERE = 'families.speculator'


@dataclasses.dataclass
class SpeculatorTraining:
  """Construction and training of a `parallel`, `medusa` or `eagle` drafter.

  Attributes:
    masks: whether all slots are filled in one pass by mask tokens
      (ParallelSpec). Without them a drafter is Medusa's heads, or EAGLE's layer
      token by token.
    num_draft: number of slots K that are trained, the first of which needs no
      mask. Decoding may use fewer.
    feature: way in which the target's states enter; auto is none for parallel
      and fuse for medusa and eagle.
    mask_embedding: embedding of mask tokens, one a slot or one for all.
    mask_feature: state at a mask token, in place of the target's.
    anchors: number of groups of masks in a row, drawn anew at every step; 0
      takes all.
    anchor_chunk: number of groups that are run at once; 0 runs all. Memory is
      bounded by rows x chunk x K x (row + chunk x K).
    keep: share of the groups that go on at each further depth (conditional
      drop-token), above 0 and at most 1; 1 keeps all.
    keep_least: least share of the groups that is kept at any depth.
    depth_decay: weight of a depth relative to the one before it, above 0 and at
      most 1.
    feature_weight: weight of the smooth L1 distance between the drafter's state
      and the target's, beside the objective.
    feature_noise: size of the uniform noise on the target's states in training.
  """

  masks: bool = True
  num_draft: int = 8
  feature: str = validation.choice(
    'auto', ('auto', *speculator_config.FEATURES)
  )
  mask_embedding: str = validation.choice(
    'per_slot', speculator_config.MASK_EMBEDDINGS
  )
  mask_feature: str = validation.choice(
    'shared_learned', speculator_config.MASK_FEATURES
  )
  anchors: int = 0
  anchor_chunk: int = 0
  keep: float = 1.0
  keep_least: float = 0.2
  # K = 4: weights [1 .8 .64 .512]. A token counts only where all before it were
  # accepted, so deeper slots are reached more rarely.
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
    validation.check_choices(self, f'{_HERE}.')
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


class SpeculatorVariant(NamedTuple):
  """One of the drafters that a comparison trains.

  Attributes:
    makes: noun phrase, the network.
    family: value of `model.family`.
    changes: fields of `SpeculatorTraining` that differ from the defaults.
  """

  makes: str
  family: str
  changes: dict[str, Any]


# EAGLE weighs the distance of states ten times as much as that of the
# distributions.
VARIANTS = {
  'eagle_parallel': SpeculatorVariant(
    "a layer on the target's states, with masks",
    'eagle',
    {'feature_weight': 10.0},
  ),
  'eagle_parallel_soft': SpeculatorVariant(
    'the same layer without the loss on states', 'eagle', {}
  ),
  'eagle': SpeculatorVariant(
    'the same layer, token by token',
    'eagle',
    {'masks': False, 'feature_weight': 10.0, 'feature_noise': 0.1},
  ),
  'medusa_parallel': SpeculatorVariant(
    "the same layer in the place of Medusa's heads", 'medusa', {}
  ),
  'medusa': SpeculatorVariant(
    "a head a slot on the target's last state", 'medusa', {'masks': False}
  ),
  'parallel': SpeculatorVariant(
    'a small language model of its own, with masks', 'parallel', {}
  ),
}


def apply_variant(config: Any, name: str) -> Any:
  """A `TrainConfig` with the family and settings of a variant.

  Args:
    config: `TrainConfig`, changed in place.
    name: name in `VARIANTS`; '' is the first.

  Raises:
    ValueError: there is no such variant.
  """
  found = name or next(iter(VARIANTS))
  if found not in VARIANTS:
    raise ValueError(
      f'Unknown variant {name!r}; known are {", ".join(VARIANTS)}.'
    )
  variant = VARIANTS[found]
  config.model.family = variant.family
  config.families.speculator = dataclasses.replace(
    config.families.speculator, **variant.changes
  )
  config.name += f' ({found})'
  return config
