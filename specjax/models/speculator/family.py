"""The model family of drafters on a target's hidden states."""

from specjax.models.decoder import family as decoder
from specjax.models.facts import ModelFacts
from specjax.models.family import FileFormat
from specjax.models.family import ModelFamily
from specjax.models.speculator import config as config_lib
from specjax.models.speculator import modeling
from specjax.models.speculator.config import ParallelConfig


def facts(config: ParallelConfig) -> ModelFacts:
  """`ModelFacts` of a drafter network."""
  return decoder.facts(config.trunk)._replace(
    positions=None,
    is_encoder_decoder=config.encoder_width > 0,
    start_id=config.start_id,
    output_ids=config.output_ids,
    max_draft=config.num_draft,
    has_layers=not config.is_heads,
  )


def _initial(config, path, shape):
  module, leaf = path[-2:]
  if leaf != 'bias' and module.startswith('heads_'):
    return 0.0, 1e-3
  if module in ('mask_embed', 'mask_feature'):
    path = (*path[:-2], 'embed', leaf)
  return decoder.initial(config.trunk, path, shape)


FAMILY = ModelFamily(
  'speculator',
  ParallelConfig,
  'drafter',
  facts,
  network=modeling.Parallel,
  init=modeling.init,
  files=FileFormat(
    model_types={
      kind: (name,) for kind, name in config_lib.ARCHITECTURES.items()
    },
    from_json=config_lib.from_hf,
    to_json=config_lib.to_hf,
  ),
  initial=_initial,
  has_common_layers=True,
  replace=config_lib.with_run_settings,
)
