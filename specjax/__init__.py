"""Exact speculative decoding and drafter training in JAX.

model = specjax.load('target_folder')
draft = specjax.load('draft_folder')
print(specjax.generate(model, 'Once upon a time', drafter=draft)[0].text)
"""

from specjax import early  # noqa: F401  (the first of all)
from specjax import theory
from specjax.base import CachedLM
from specjax.base import Context
from specjax.base import Draft
from specjax.base import Drafter
from specjax.base import EMPTY
from specjax.base import Observation
from specjax.base import Prefilled
from specjax.base import Prompt
from specjax.base import Scored
from specjax.base import Tree
from specjax.base import Verdict
from specjax.base import Verifier
from specjax.base import View
from specjax.checkpoints.load import load
from specjax.checkpoints.model import Model
from specjax.decoding import drafters
from specjax.decoding import verifiers
from specjax.decoding.corpus import Corpus
from specjax.decoding.drafters.drawing import Style
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import DraftPlan
from specjax.decoding.drafters.entry import Target
from specjax.decoding.drafters.hybrid import hybrid as Hybrid
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.distributed.mesh import make_layout
from specjax.distributed.mesh import MeshConfig
from specjax.inference.config import DecodeConfig
from specjax.inference.generate import Answer
from specjax.inference.generate import generate
from specjax.inference.memory import estimate_memory
from specjax.inference.scoring import Score
from specjax.inference.scoring import score
from specjax.inference.summary import summarize

__all__ = [
  'Answer',
  'CachedLM',
  'Context',
  'Corpus',
  'DecodeConfig',
  'Draft',
  'DraftPlan',
  'Drafter',
  'DrafterEntry',
  'EMPTY',
  'Hybrid',
  'MeshConfig',
  'Model',
  'Observation',
  'Prefilled',
  'Prompt',
  'Score',
  'Scored',
  'Style',
  'Target',
  'Tree',
  'Verdict',
  'Verifier',
  'VerifierEntry',
  'View',
  'drafters',
  'estimate_memory',
  'generate',
  'load',
  'make_layout',
  'score',
  'summarize',
  'theory',
  'verifiers',
]
__version__ = '0.2.0'
