"""Runs that are stopped and resumed compile the same programs once."""

import os

import jax
import pytest


@pytest.fixture(scope='package', autouse=True)
def compiled_once(tmp_path_factory):
  """Keeps compiled programs for this package and the processes it starts."""
  name = 'JAX_COMPILATION_CACHE_DIR'
  if os.environ.get(name):
    yield
    return
  folder = str(tmp_path_factory.mktemp('compiled'))
  os.environ[name] = folder
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  yield
  del os.environ[name]
  jax.config.update('jax_compilation_cache_dir', None)
