"""Muon updates maps between spaces, and nothing that is looked up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax import models
from specjax.models import registry
from specjax.training import optimizers
from specjax.training.settings import OptimizerConfig
from tests.helpers import tiny
from tests.helpers import toy
from tests.helpers import training_runs

TRUNK = dataclasses.replace(tiny.DECODER, head_dim=16, num_attention_heads=2)
PARALLEL = models.ParallelConfig(TRUNK, 32, 1, kind='parallel', num_draft=3)
CONFIGS = {
  't5': dataclasses.replace(tiny.T5, tie_word_embeddings=False),
  'gated': dataclasses.replace(tiny.T5, gated=True),
  'decoder': dataclasses.replace(tiny.DECODER, remat=True),
  'learned_positions': dataclasses.replace(tiny.DECODER, rope=None),
  'spec_drafter': models.SpecDrafterConfig(
    96, 16, 8, 32, 1, 1, 2, block=6, window=6
  ),
  'blockwise': models.BlockwiseConfig(96, 16, 8, block=4),
  'parallel': PARALLEL,
  'eagle': dataclasses.replace(PARALLEL, kind='eagle', feature='fuse'),
  'medusa': dataclasses.replace(PARALLEL, kind='medusa', masks=False),
}
# A module by each of these names is a table or scores tokens; every other
# matrix is a map.
TABLES = {
  'embed',
  'head',
  'mask',
  'mask_embed',
  'mask_feature',
  'positions',
  'source_positions',
  'relative_bias',
}


def test_every_family_is_here():
  families = {registry.family_of(config).name for config in CONFIGS.values()}
  assert families >= {'t5', 'decoder', 'spec_drafter', 'blockwise'}
  assert families == {family.name for family in registry.families()}


@pytest.mark.parametrize('name', CONFIGS)
def test_tables_are_no_maps(name):
  shapes = models.abstract_params(CONFIGS[name])
  leaves, _ = jax.tree_util.tree_flatten_with_path(shapes)
  found = {tuple(key.key for key in path): leaf for path, leaf in leaves}
  wanted = {
    path
    for path, leaf in found.items()
    if leaf.ndim == 2 and not TABLES & set(path)
  }
  maps = models.maps(CONFIGS[name])
  assert maps & set(found) == wanted != set()


def test_a_map_gets_an_update_of_equal_singular_values():
  config = CONFIGS['spec_drafter']
  optimizer = optimizers.make_optimizer(
    OptimizerConfig(name='muon', warmup_steps=0, clip=0.0),
    10,
    models.maps(config),
  )
  params = jax.tree.map(
    lambda x: jnp.ones(x.shape), models.abstract_params(config)
  )
  rng = np.random.default_rng(0)
  grads = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)

  def spread(update):
    values = np.linalg.svd(update, compute_uv=False)
    return values[0] / values[-1]

  # Of the gradient it is 40 and more.
  assert spread(updates['copy']['weight']) < 4
  for name in ('positions', 'source_positions'):
    # Adam's first update is the sign of the gradient.
    assert len(np.unique(np.abs(np.round(updates[name]['weight'], 6)))) == 1


def test_a_run_with_moments_of_tables_cannot_go_on(tmp_path, monkeypatch):
  """Runs of version 0.1 had them; a part of such a state is no state."""
  toy.write(tmp_path, train=40, valid=4)
  more = {'optimizer__name': 'muon', 'data__valid': ''}
  with monkeypatch.context() as patch:
    maps = models.maps
    tables = {
      (side, 'relative_bias', 'weight') for side in ('encoder', 'decoder')
    }
    patch.setattr(models, 'maps', lambda config: maps(config) | tables)
    training_runs.run(tmp_path, tmp_path / 'run', steps=4, **more)
  with pytest.raises(ValueError, match='cannot go on') as caught:
    training_runs.run(tmp_path, tmp_path / 'run', steps=8, **more)
  words = str(caught.value)
  assert words.startswith('Checkpoint 4 in ') and words.count('. ') == 0
  assert 'was made by another version of specjax' in words
  assert words.endswith('begin it anew in another --workdir.')
  assert 'damaged' not in words
