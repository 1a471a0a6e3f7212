"""Folders of models that are cut over meshes."""

import pytest

from tests.helpers import tiny
from tests.helpers.meshes import DECODER
from tests.helpers.meshes import T5


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('mesh')
  return {
    name: tiny.save(root / name, config, seed=seed)
    for name, config, seed in (
      ('decoder', DECODER, 0),
      ('decoder_draft', tiny.DECODER, 1),
      ('t5', T5, 2),
      ('t5_draft', tiny.T5, 3),
    )
  }
