"""The model families of the Spec-Drafter and its head-based baseline."""

import functools

import jax.numpy as jnp

from specjax.models.common import initial as initial_lib
from specjax.models.common import plain_json
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily
from specjax.models.spec_drafter.blockwise import Blockwise
from specjax.models.spec_drafter.config import BlockwiseConfig
from specjax.models.spec_drafter.config import SpecDrafterConfig
from specjax.models.spec_drafter.layers import sinusoids
from specjax.models.spec_drafter.modeling import SpecDrafter
from specjax.models.t5 import family as t5


def facts(config: SpecDrafterConfig) -> ModelFacts:
  """`ModelFacts` of a Spec-Drafter."""
  return ModelFacts(
    **t5.vocabulary_facts(config),
    **t5.layer_facts(config),
    max_source_tokens=config.max_source_positions,
    max_draft=min(config.block, config.max_positions),
    positions=config.max_positions,
  )


def heads_facts(config: BlockwiseConfig) -> ModelFacts:
  """`ModelFacts` of heads on a target's state, which have no attention."""
  alone = dict.fromkeys(('layers', 'heads', 'kv_heads', 'head_dim'), 1)
  return ModelFacts(
    **t5.vocabulary_facts(config),
    **alone,
    max_draft=config.block,
    has_layers=False,
  )


def _label(config) -> str:
  depth = f'{config.num_layers}+{config.num_decoder_layers}'
  return f'Spec-Drafter {depth}, width {config.d_model}'


def _init(config, key):
  ids, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
  module = SpecDrafter(config)
  return module.init(key, ids, mask, ids, ids, mask, 1)['params']


def _initial(config, path, shape):
  if path[-1] != 'bias':
    if 'positions' in path[-2]:
      return sinusoids(*shape), 0.0
    if path[-2] == 'copy':
      return 0.0, 1 / shape[-1]
  query = (config.d_model * config.d_kv) ** -0.5
  return initial_lib.normal(path, shape, table=1.0, query=query)


def _init_heads(config, key):
  state = jnp.zeros((1, config.d_model))
  return Blockwise(config).init(key, state, 1)['params']


def _files(config: type, model_type: str, architecture: str) -> FileFormat:
  return FileFormat(
    model_types={model_type: (architecture,)},
    from_json=functools.partial(plain_json.from_json, config),
    to_json=functools.partial(plain_json.to_json, architecture=architecture),
  )


SPEC_DRAFTER = ModelFamily(
  name='spec_drafter',
  config=SpecDrafterConfig,
  role='drafter',
  facts=facts,
  network=SpecDrafter,
  init=_init,
  files=_files(SpecDrafterConfig, 'specjax_spec_drafter', 'SpecDrafter'),
  initial=_initial,
  has_common_layers=True,
  label=_label,
)

BLOCKWISE = ModelFamily(
  'blockwise',
  BlockwiseConfig,
  'drafter',
  heads_facts,
  network=Blockwise,
  init=_init_heads,
  files=_files(BlockwiseConfig, 'specjax_blockwise', 'Blockwise'),
  initial=lambda config, path, shape: initial_lib.normal(
    path, shape, table=1.0
  ),
  label=lambda config: 'head-based',
)
