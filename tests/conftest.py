"""Settings every test runs under.

Float32 products are computed in full precision and eight CPU devices are
simulated, so that mesh tests need no processes of their own. Compiled programs
are kept, in JAX_COMPILATION_CACHE_DIR or in a folder beside pytest's own cache:
nearly all the time of a first run is spent compiling.
"""

import importlib.util
import os
import pathlib
import random

import jax
import numpy as np
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')
if os.environ.get('JAX_PLATFORMS', 'cpu') == 'cpu':
  jax.config.update('jax_num_cpu_devices', 8)
if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
  ROOT = pathlib.Path(__file__).resolve().parents[1]
  jax.config.update(
    'jax_compilation_cache_dir', str(ROOT / '.pytest_cache' / 'compiled')
  )
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


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
