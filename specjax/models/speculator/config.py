"""Settings of drafter networks that are trained for one target.

Three kinds, each with mask tokens (ParallelSpec) or without:

| kind       | masks | what it is                                            |
|------------|-------|-------------------------------------------------------|
| `parallel` | yes   | a small language model of its own, masks in its input |
| `medusa`   | no    | one residual head a slot on the target's last state   |
| `medusa`   | yes   | a Transformer layer in their place, drafting in a pass|
| `eagle`    | no    | a layer on the target's states, token by token        |
| `eagle`    | yes   | the same layer, drafting in one pass                  |

`medusa` and `eagle` have neither embeddings nor a head: they use the target's.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from specjax import validation
from specjax.models.common.output_ids import check_output_ids
from specjax.models.common.rope import Rope
from specjax.models.decoder import family as decoder
from specjax.models.decoder.config import DecoderConfig
from specjax.models.facts import ModelFacts
from specjax.models.family import Shape
from specjax.models.family import TokenIds

KINDS = ('parallel', 'medusa', 'eagle')
MASK_EMBEDDINGS = ('per_slot', 'shared')
MASK_FEATURES = ('shared_learned', 'per_slot_learned', 'repeat_last', 'zeros')
FEATURES = ('none', 'fuse', 'add')
ARCHITECTURES = {
  f'specjax_{kind}': f'Specjax{kind.capitalize()}Drafter' for kind in KINDS
}


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """Settings of a drafter network. Hashable.

  Attributes:
    trunk: its Transformer layers; `vocab_size` is that of the target's
      embedding table. Of `medusa` heads only widths and vocabulary count.
    target_width, target_layers: width and number of decoder layers of the
      target it was trained for. With the vocabulary they identify the target.
    kind: one of `KINDS`.
    masks: drafts all slots in one pass by mask tokens.
    num_draft: K, slots trained. Slot 1 is the last committed token's own
      output, so there are K - 1 mask tokens.
    feature: use of the target's states: 'none', 'fuse' (a matrix over
      embedding and state side by side) or 'add'.
    mask_embedding: 'per_slot', or one 'shared' by all masks.
    mask_feature: stand-in for a mask's unknown state, one of
      `MASK_FEATURES`.
    encoder_width: width of an encoder-decoder target, whose encoded source
      every layer reads; 0 for a decoder-only target.
    start_id: the decoder's start token of an encoder-decoder target.
    head_scale: factor of the final states before the head (T5).
    output_ids: tokens that the head scores, in rising order; () for all.
      The others have probability 0.
    acceptance: acceptance rate by depth that was measured after training, by
      greedy decoding of held-out prompts; () where nothing was measured.
  """

  trunk: DecoderConfig
  target_width: int
  target_layers: int
  kind: str = 'parallel'
  masks: bool = True
  num_draft: int = 8
  feature: str = 'none'
  mask_embedding: str = 'per_slot'
  mask_feature: str = 'shared_learned'
  encoder_width: int = 0
  start_id: int | None = None
  head_scale: float = 1.0
  output_ids: tuple = ()
  acceptance: tuple = ()

  @property
  def model_type(self) -> str:
    return f'specjax_{self.kind}'

  @property
  def is_heads(self) -> bool:
    """Whether it is Medusa's heads, without a Transformer layer."""
    return self.kind == 'medusa' and not self.masks

  @property
  def is_shared(self) -> bool:
    """Whether embeddings and head are the target's."""
    return self.kind != 'parallel'

  @property
  def num_masks(self) -> int:
    """Rows of trained mask embeddings."""
    if not self.masks or self.num_draft == 1:
      return 0
    # K = 4: slot 1 is the real token's own, slots 2 to 4 have rows 0 to 2.
    return 1 if self.mask_embedding == 'shared' else self.num_draft - 1

  @property
  def vocab_size(self) -> int:
    return self.trunk.vocab_size

  @property
  def dtype(self) -> str:
    return self.trunk.dtype

  @property
  def decoder_start_token_id(self) -> int | None:
    return self.start_id

  @property
  def eos_token_id(self) -> tuple:
    return self.trunk.eos_token_id

  @property
  def pad_token_id(self) -> int | None:
    return self.trunk.pad_token_id

  def validate(self) -> None:
    """Raises ValueError, naming the field, if the settings make no network."""
    self.trunk.validate()
    for name, value, allowed in (
      ('kind', self.kind, KINDS),
      ('feature', self.feature, FEATURES),
      ('mask_embedding', self.mask_embedding, MASK_EMBEDDINGS),
      ('mask_feature', self.mask_feature, MASK_FEATURES),
    ):
      validation.one_of(name, value, allowed, str)
    validation.plain_fields(self)
    rates = self.acceptance
    if not all(validation.is_number(x) and 0 <= x <= 1 for x in rates):
      raise ValueError(
        f'acceptance must hold rates from 0 to 1, not {self.acceptance}.'
      )
    validation.at_least('num_draft', self.num_draft, 1)
    if self.kind == 'parallel' and not (self.masks and self.feature == 'none'):
      raise ValueError(
        'A parallel drafter reads tokens alone and has masks; without masks '
        'it would be an ordinary draft model.'
      )
    if self.kind == 'eagle' and self.feature == 'none':
      raise ValueError(
        "An eagle drafter reads the target's states: feature must be 'fuse' "
        "or 'add'."
      )
    if self.is_shared and self.trunk.hidden_size != self.target_width:
      raise ValueError(
        f'A {self.kind} drafter is as wide as its target '
        f'({self.target_width}), not {self.trunk.hidden_size}.'
      )
    if self.trunk.rope is None and not self.is_heads:
      raise ValueError('The layers of a drafter need rotary positions.')
    tied = self.trunk.tie_word_embeddings and not self.is_shared
    check_output_ids(self.output_ids, self.vocab_size, tied, rising=True)


def with_run_settings(config: ParallelConfig, **changes: Any) -> ParallelConfig:
  """Changes fields of the layers, such as `dtype` or `remat`."""
  return dataclasses.replace(
    config, trunk=dataclasses.replace(config.trunk, **changes)
  )


# Of the running process, and not of the weights.
_NOT_STORED = ('dtype', 'remat', 'dropout_rate', 'shards')


# Fields of the layers that are checked before anything is made of them.
_TRUNK_KINDS = {
  list: 'sliding_layers eos_token_id',
  dict: 'rope local_rope',
}


def to_hf(config: ParallelConfig) -> dict:
  """Returns the config.json of `config`."""
  made = dataclasses.asdict(config)
  for name in _NOT_STORED:
    made['trunk'].pop(name, None)
  made['model_type'] = config.model_type
  made['architectures'] = [ARCHITECTURES[config.model_type]]
  return made


def from_hf(config: Mapping[str, Any]) -> ParallelConfig:
  """Reads a config.json that `to_hf` wrote.

  Raises:
    ValueError: a setting is missing, unknown or out of range.
  """
  names = {field.name for field in dataclasses.fields(ParallelConfig)}
  given = {name: config[name] for name in names if name in config}
  validation.json_kinds(given, {dict: 'trunk', list: 'output_ids acceptance'})
  try:
    trunk = dict(given.pop('trunk'))
    validation.json_kinds(trunk, _TRUNK_KINDS)
    for name in _NOT_STORED:
      trunk.pop(name, None)
    for name in ('rope', 'local_rope'):
      if trunk.get(name) is not None:
        trunk[name] = Rope(**trunk[name])
        validation.plain_fields(trunk[name])
    # JSON has lists where the config, a key of caches, needs tuples.
    for name in ('sliding_layers', 'eos_token_id'):
      trunk[name] = tuple(trunk.get(name) or ())
    for name in ('output_ids', 'acceptance'):
      given[name] = tuple(given.get(name) or ())
    made = ParallelConfig(trunk=DecoderConfig(**trunk), **given)
  except (KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'config.json of this {config["model_type"]} drafter is not complete: '
      f'{error}.'
    ) from None
  made.validate()
  return made


def new_trunk(target: ModelFacts, kind: str, shape: Shape) -> DecoderConfig:
  """Layers of a new network; as wide as the target where they share tables.

  Args:
    target: facts of the target.
    kind: one of `KINDS`.
    shape: sizes of the layers.
  """
  own = kind == 'parallel'
  ids = TokenIds(target.vocab_size, target.start_id, target.pad_id, 0)
  made = decoder.new(shape, ids)
  # `TokenIds` has room for one end token, and a target may have several.
  made = dataclasses.replace(made, eos_token_id=target.eos_ids)
  if own:
    return made
  # Lent tables are read as the target reads them, with its scale and its cap.
  # Whether they are tied is the target's affair: `bind` lends both.
  return dataclasses.replace(
    made,
    hidden_size=target.width,
    tie_word_embeddings=False,
    embed_scale=target.embed_scale,
    final_logit_softcapping=target.logit_softcap,
  )


def of_target(target: ModelFacts, kind: str) -> dict[str, Any]:
  """Fields of `ParallelConfig` that a network takes over from its target."""
  made = dict(target_width=target.width, target_layers=target.layers)
  if target.is_encoder_decoder:
    made |= dict(
      encoder_width=target.width,
      start_id=target.start_id,
      head_scale=1.0 if kind == 'parallel' else target.head_scale,
    )
  return made


class Trunk(NamedTuple):
  """The layers of a model, as a network can begin with them.

  Attributes:
    config: config of the layers.
    kind: kind of the drafter network that has them; None for a language model.
    output_ids: tokens that its head scores; () for all.
  """

  config: DecoderConfig
  kind: str | None = None
  output_ids: tuple = ()


def trunk_of(config: Any) -> Trunk | None:
  """`Trunk` of a model, or None where it has other layers."""
  if isinstance(config, ParallelConfig):
    return Trunk(config.trunk, config.kind, config.output_ids)
  return Trunk(config) if isinstance(config, DecoderConfig) else None


# Networks of a comparison: kind, and whether they have masks. The first two
# differ in their training loss alone.
NETWORKS = {
  'eagle_parallel': ('eagle', True),
  'eagle_parallel_soft': ('eagle', True),
  'eagle': ('eagle', False),
  'medusa_parallel': ('medusa', True),
  'medusa': ('medusa', False),
  'parallel': ('parallel', True),
}


def random_config(
  name: str, target: ModelFacts, *, num_draft: int, dtype: str
) -> ParallelConfig:
  """A network of one layer, to be timed with random weights.

  Args:
    name: name in `NETWORKS`.
    target: facts of the target. A network with embeddings of its own is a
      quarter as wide.
    num_draft: K, slots.
    dtype: compute dtype.
  """
  kind, masks = NETWORKS[name]
  same = {
    name: getattr(target, name)
    for name in ('heads', 'kv_heads', 'head_dim', 'mlp')
  }
  shape = Shape(width=max(target.width // 4, 8), layers=1, **same)
  trunk = dataclasses.replace(new_trunk(target, kind, shape), dtype=dtype)
  return ParallelConfig(
    trunk=trunk,
    kind=kind,
    masks=masks,
    num_draft=num_draft,
    feature='none' if kind == 'parallel' else 'fuse',
    **of_target(target, kind),
  )
