"""Folders of tiny models, and prompts to decode."""

import pytest

from specjax.commands import cli
from tests.helpers import tiny
from tests.helpers.decode_main import LINES


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  return {
    'target': tiny.save(root / 'target', seed=0),
    'drafter': tiny.save(root / 'drafter', seed=1),
    'swapped': tiny.save(root / 'swapped', seed=1, swap=('cat', 'dog')),
    't5': tiny.save(root / 't5', tiny.T5, seed=2),
  }


@pytest.fixture
def source(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('\n'.join(LINES) + '\n')
  return str(path)


@pytest.fixture
def no_cache_of_the_users(monkeypatch):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
