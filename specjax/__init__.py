"""Exact speculative decoding and drafter training in JAX.

model = specjax.load('target_folder')
draft = specjax.load('draft_folder')
print(specjax.generate(model, 'Once upon a time', drafter=draft)[0].text)
"""

from specjax.checkpoints.load import load
from specjax.checkpoints.load import Model
from specjax.distributed.mesh import make_layout
from specjax.distributed.mesh import MeshConfig
from specjax.inference.config import DecodeConfig
from specjax.inference.drafting import Hybrid
from specjax.inference.generate import Answer
from specjax.inference.generate import generate
from specjax.inference.memory import estimate_memory

__all__ = [
  'Answer',
  'DecodeConfig',
  'Hybrid',
  'MeshConfig',
  'Model',
  'estimate_memory',
  'generate',
  'load',
  'make_layout',
]
__version__ = '0.1.0'
