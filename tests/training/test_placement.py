"""Training on meshes: the same losses, and states that stay where they are."""

import jax
import numpy as np
import optax
import pytest

from specjax.training import build
from specjax.training import placement
from tests.helpers import toy
from tests.helpers.mesh_training import losses


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('files')
  toy.write(folder)
  return folder


@pytest.mark.parametrize(
  'optimizer, tolerance',
  [
    pytest.param(optax.sgd(0.05), 1e-5, id='sgd'),
    pytest.param(optax.adamw(1e-3), 1e-4, id='adamw', marks=pytest.mark.slow),
  ],
)
def test_losses_do_not_depend_on_the_mesh(files, optimizer, tolerance):
  wanted, *_ = losses(files, optimizer, (), 20)
  got, before, after, state = losses(files, optimizer, (2, 2, 2), 20)
  np.testing.assert_allclose(got, wanted, rtol=tolerance)
  assert got[-1] < got[0]
  assert before == after
  up = state.params['decoder']['layers_0']['mlp']['up']['weight']
  assert up.sharding.spec == jax.P('model', 'fsdp')
  assert up.addressable_shards[0].data.shape == (32, 16)
  for moment in jax.tree.leaves(state.opt_state):
    if moment.shape == up.shape:
      assert moment.sharding == up.sharding


@pytest.mark.parametrize('own', [range(8), (2, 3, 6, 7)])
def test_a_host_gives_its_own_rows(monkeypatch, files, own):
  config = toy.config(files, mesh__shape=(4, 1, 2), data__batch_rows=8)
  place = placement.placement(config)
  assert place.own == tuple(range(8))
  whole = {'x': np.arange(24).reshape(8, 3), 'y': np.arange(8)}
  given = {name: array[list(own)] for name, array in whole.items()}
  asked = []

  def place_parts(shape, sharding, part):
    """Stands for a host whose devices hold the rows of `own`."""
    for index in sharding.devices_indices_map(shape).values():
      if index[0].indices(8)[0] in own:
        asked.append(index)
        np.testing.assert_array_equal(
          part(index), whole['xy'[len(shape) == 1]][index]
        )

  monkeypatch.setattr(placement.Placement, 'own', tuple(own))
  monkeypatch.setattr(jax, 'make_array_from_callback', place_parts)
  place.put(given)
  assert len(asked) == 2 * 8 * len(own) // 8


def test_what_a_mesh_cannot_hold(files):
  def complaint(**changes):
    config = toy.config(files, **changes)
    with pytest.raises(ValueError) as caught:
      config.validate()
      parts = build.build(config)
      placement.placement(config, parts.model_config)
    return str(caught.value)

  assert 'number of heads' in complaint(mesh__shape=(2, 4))
  text = complaint(mesh__shape=(4, 2), data__batch_rows=6)
  assert 'batch_rows=6' in text and '4 devices' in text
  # What is proposed works: two heads, and eight rows in two parts or in one.
  text = complaint(mesh__shape=(3, 2))
  assert '(3, 2)' in text and text.endswith('shapes that do: (8, 1), (4, 2).')
  text = complaint(mesh__shape=(3, 2), optimizer__accumulation=2)
  assert text.endswith('shapes that do: (4, 2).')
