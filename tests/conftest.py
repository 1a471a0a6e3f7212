"""Settings every test runs under.

Float32 products are computed in full precision and eight CPU devices are
simulated, so that mesh tests need no processes of their own. Compiled programs
are kept only where JAX_COMPILATION_CACHE_DIR asks for it: writing them from
several test processes has crashed the XLA CPU client of jaxlib 0.10.2.
"""

import importlib.util
import os
import random

import jax
import numpy as np
import pytest

jax.config.update('jax_default_matmul_precision', 'highest')
if os.environ.get('JAX_PLATFORMS', 'cpu') == 'cpu':
  jax.config.update('jax_num_cpu_devices', 8)
# The commands, called in this process, would switch the cache on.
jax.config.update(
  'jax_enable_compilation_cache',
  bool(os.environ.get('JAX_COMPILATION_CACHE_DIR')),
)


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
