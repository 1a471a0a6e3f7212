"""The names that `import specjax` gives."""

import inspect
import types

import pytest

import specjax

OF_VERSION_0_1 = {
  'Answer',
  'DecodeConfig',
  'Hybrid',
  'MeshConfig',
  'estimate_memory',
  'generate',
  'load',
  'make_layout',
}
OF_VERSION_0_2 = {'Corpus', 'Score', 'score', 'summarize'}
CONTRACTS = {
  'CachedLM',
  'Context',
  'Draft',
  'DraftPlan',
  'Drafter',
  'DrafterEntry',
  'EMPTY',
  'Model',
  'Observation',
  'Prefilled',
  'Prompt',
  'Scored',
  'Style',
  'Target',
  'Tree',
  'Verdict',
  'Verifier',
  'VerifierEntry',
  'View',
}
MODULES = {'drafters', 'theory', 'verifiers'}


def test_the_public_names_are_these():
  assert set(specjax.__all__) == (
    OF_VERSION_0_1 | OF_VERSION_0_2 | CONTRACTS | MODULES
  )
  assert len(specjax.__all__) == len(set(specjax.__all__))


@pytest.mark.parametrize(
  'module', [specjax, specjax.drafters, specjax.verifiers]
)
def test_every_public_name_is_there_and_described(module):
  for name in module.__all__:
    found = getattr(module, name)
    if isinstance(found, types.ModuleType) or callable(found):
      assert inspect.getdoc(found), name
