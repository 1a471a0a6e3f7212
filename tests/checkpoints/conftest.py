"""Folders that the tests here change."""

import jax
import pytest

from specjax import cache
from specjax import models
from specjax.checkpoints import hf
from tests.helpers import tiny
from tests.helpers.folders import CONFIG


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
  """GGUF files are turned into folders of the test's own."""
  monkeypatch.setenv(cache.VARIABLE, str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def params():
  return models.init_params(CONFIG, jax.random.key(0))


@pytest.fixture
def folder(params, tmp_path):
  """A whole tiny model with a tokenizer of 96 ids and a table of 104 rows."""
  path = tmp_path / 'model'
  hf.save_hf(str(path), params, CONFIG)
  tiny.tokenizer().save_pretrained(path)
  return path
