"""Settings every test runs under.

Float32 products are computed in full precision and eight CPU devices are
simulated, so that mesh tests need no processes of their own. Compiled programs
are kept in .jax_cache at the root, so that a second run compiles little; set
JAX_COMPILATION_CACHE_DIR to keep them elsewhere, or to '' to keep none.
"""

import gc
import importlib.util
import os
import pathlib
import random

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')
if os.environ.get('JAX_PLATFORMS', 'cpu') == 'cpu':
  jax.config.update('jax_num_cpu_devices', 8)
_CACHE = os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).resolve().parents[1] / '.jax_cache'),
)
jax.config.update('jax_compilation_cache_dir', _CACHE or None)
# The commands, called in this process, would switch the cache on.
jax.config.update('jax_enable_compilation_cache', bool(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
# A compiled program holds some memory mappings, of which Linux grants a process
# 65,530 by default; beyond them the compiler dies of a segmentation fault.
_MAPPINGS = 15_000


@pytest.fixture(autouse=True)
def bounded_mappings():
  """Forgets compiled programs before the process runs out of mappings."""
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > _MAPPINGS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def fresh_compilation():
  """Compiles anew: a program read from the cache reports no aliased bytes."""
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  yield
  jax.config.update('jax_enable_compilation_cache', bool(_CACHE))
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def quick_programs():
  """Programs that run few times: compiling them well costs more than that."""
  jax.config.update('jax_disable_most_optimizations', True)
  jax.clear_caches()
  yield
  jax.config.update('jax_disable_most_optimizations', False)
  jax.clear_caches()


@pytest.fixture(autouse=True)
def fixed_seeds():
  random.seed(0)
  np.random.seed(0)


@pytest.fixture(scope='session')
def torch():
  """PyTorch, for comparisons with reference implementations."""
  if importlib.util.find_spec('torch') is None:
    if os.environ.get('SPECJAX_CI'):
      pytest.fail('PyTorch is missing, so the parity tests cannot run.')
    pytest.skip('PyTorch is not installed; it is the reference here.')
  import torch as module

  return module
