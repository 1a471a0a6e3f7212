"""`init_from`: weights of every kind go on; others are refused."""

import jax
import numpy as np
import pytest

from specjax.checkpoints import hf
from specjax.training import build
from tests.helpers import tiny
from tests.helpers import toy

SLOTS = {
  'task': 'drafter',
  'tokenizer': '',
  'model__tie_embeddings': False,
  'families__spec_drafter__block': 8,
  'families__spec_drafter__window': 6,
}

ADDED = ('mask_embed', 'mask_feature')


def save(parts, folder, seed):
  """Writes fresh weights of a run; the folder, and the weights."""
  params = parts.init(jax.random.key(seed))
  hf.save_hf(str(folder), params, parts.model_config)
  parts.tokenizer.save_pretrained(str(folder))
  return str(folder), params


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  """The toy language, and an untrained target for it."""
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder, train=20, valid=4)
  save(build.build(toy.config(folder)), folder / 'target', 0)
  return folder


def settings(files, **changes):
  given = {'teacher': str(files / 'target')} | SLOTS
  return toy.config(files, **given | changes)


@pytest.mark.parametrize('family', ['spec_drafter', 'blockwise'])
def test_drafters_that_fill_slots_go_on(files, tmp_path, family):
  config = settings(files, model__family=family)
  folder, params = save(build.build(config), tmp_path / 'made', 1)
  config.init_from = folder
  again = build.build(config).init(jax.random.key(2))
  jax.tree.map(np.testing.assert_array_equal, again, params)
  other = {'spec_drafter': 'blockwise', 'blockwise': 'spec_drafter'}[family]
  for changes, words in (
    ({'model__family': 't5'}, f'holds a specjax_{family} drafter'),
    ({'model__family': 'medusa'}, 'cannot become a medusa drafter'),
    ({'model__family': other}, f'init_from names a specjax_{family}'),
  ):
    with pytest.raises(ValueError, match=words):
      build.build(settings(files, init_from=folder, **changes))
  if family == 'spec_drafter':
    longer = settings(
      files, model__family=family, init_from=folder, data__source_length=33
    )
    with pytest.raises(ValueError, match='init_from has 32 source positions'):
      build.build(longer)


def test_masks_are_added_to_a_layer_that_drafts_token_by_token(files, tmp_path):
  shape = {'model__family': 'eagle', 'families__speculator__num_draft': 4}
  alone = settings(files, families__speculator__masks=False, **shape)
  folder, params = save(build.build(alone), tmp_path / 'eagle', 1)
  masked = settings(files, init_from=folder, **shape)
  found = dict(build.build(masked).init(jax.random.key(2)))
  masks = {found.pop(name)['weight'].shape[0] for name in ADDED}
  assert masks == {1, 3}
  jax.tree.map(np.testing.assert_array_equal, found, params)
  whole, _ = save(build.build(masked), tmp_path / 'masked', 3)
  alone.init_from = whole
  with pytest.raises(ValueError, match='holds mask_'):
    build.build(alone).init(jax.random.key(2))


def test_tokenizers_that_differ_are_named(files, tmp_path):
  folder = tiny.save(tmp_path / 'other', tiny.T5)
  config = toy.config(files, init_from=folder)
  with pytest.raises(ValueError) as error:
    build.build(config)
  told = str(error.value)
  assert f'tokenizer={config.tokenizer}' in told and folder in told
