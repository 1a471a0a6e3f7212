"""No code outside a registry or its own folder asks what something is.

What a model, a drafter or a rule is like stands in its entry; whoever branched
on its type or name would have to be edited for the next one.
"""

import ast
from collections.abc import Sequence

import pytest

from specjax.decoding.drafters import registry as drafters
from specjax.decoding.verifiers import registry as verifiers
from specjax.models import registry as models
from tests.helpers import source_code
from tests.helpers.source_code import LEAVES
from tests.helpers.source_code import Source

# Files that may know what they are about: the entries and their registries.
OWN = (
  'specjax.decoding.drafters.',
  'specjax.decoding.verifiers.',
  'specjax.models.registry',
  'specjax.training.families.',
  *(f'specjax.models.{family.name}' for family in models.families()),
)
CONTRACTS = ('Drafter', 'DrafterEntry', 'Verifier', 'VerifierEntry')
NAMES = {
  *(entry.name for entry in drafters.entries()),
  *(entry.name for entry in verifiers.entries()),
  *(family.name for family in models.families()),
}
# What people hand over may be one of several things, and the door sorts them.
DOORS = {
  'specjax.commands.parsing': {
    'isinstance(found, DrafterEntry)',
    'isinstance(found, VerifierEntry)',
    'isinstance(found, (Drafter, Verifier, Source, Model))',
  },
  'specjax.inference.assemble': {'isinstance(made, base.Drafter)'},
  'specjax.inference.sources': {
    'isinstance(drafter, DrafterEntry)',
    'isinstance(drafter, model_lib.Model)',
    'isinstance(model, model_lib.Model)',
    'isinstance(found, (Source, DrafterEntry, model_lib.Model))',
  },
  'specjax.inference.verifier_sources': {
    'isinstance(found, (VerifierEntry, base.Verifier))'
  },
}
# Words of other options that happen to be names of drafters as well.
OTHER_WORDS = {
  'specjax.benchmark.config': {"self.quantize != ('none',)"},
  'specjax.benchmark.request': {"int8 != 'none'"},
  'specjax.benchmark.table': {
    "what == 'none'",
    "(key, value) == ('quantize', 'none')",
  },
  'specjax.commands.comparison': {"request.baseline != 'none'"},
  'specjax.commands.tokenizer': {
    "kind not in ('unigram', 'bpe')",
    "kind == 'unigram'",
  },
  'specjax.distributed.mesh': {"axis in ('none', 'None')"},
  'specjax.inference.generation_config': {"mode == 'none'"},
}


def _words(node):
  return {
    inner.value
    for inner in ast.walk(node)
    if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
  }


def _types(node):
  """Last parts of the names in a type or a tuple of types."""
  return {
    getattr(inner, 'attr', getattr(inner, 'id', ''))
    for inner in ast.walk(node)
    if isinstance(inner, (ast.Attribute, ast.Name))
  }


def _is_registered_type(node):
  configs = {family.config.__name__ for family in models.families()}
  return bool(_types(node) & {*CONTRACTS, *configs, 'Model'})


def _asks(node):
  """Whether a node of the syntax tree asks what something registered is."""
  match node:
    case ast.Call(ast.Name('isinstance' | 'issubclass'), [_, kinds]):
      return _is_registered_type(kinds)
    case ast.Call(ast.Name('hasattr' | 'getattr'), [thing, field, *_]):
      about = ast.unparse(thing).lower()
      known = ('config', 'entry', 'drafter', 'verifier', 'rule', 'family')
      return isinstance(field, ast.Constant) and about.endswith(known)
    case ast.Compare(left, _, others):
      sides = (left, *others)
      if any(ast.unparse(side).startswith('type(') for side in sides):
        return any(_is_registered_type(side) for side in sides)
      return any(_words(side) & NAMES for side in sides)
    case ast.MatchValue() | ast.MatchClass():
      return bool(_words(node) & NAMES) or _is_registered_type(node)
  return False


def branches(given: Sequence[Source]) -> list[str]:
  """(module, expression) of every question, one line each."""
  found = []
  for source in given:
    module = source.module
    if f'{module}.'.startswith(OWN):
      continue
    allowed = DOORS.get(module, set()) | OTHER_WORDS.get(module, set())
    found += [
      f'{module}, line {node.lineno}: {ast.unparse(node)}'
      for node in ast.walk(source.tree())
      if _asks(node) and ast.unparse(node) not in allowed
    ]
  return found


def sources():
  return [
    source_code.read(path) for path in source_code.files('specjax', *LEAVES)
  ]


def test_no_code_asks_what_is_registered():
  found = branches(sources())
  if found:
    pytest.fail('\n'.join(found), pytrace=False)


def test_what_is_allowed_is_there():
  by_name = {source.module: source for source in sources()}
  for module, expressions in (*DOORS.items(), *OTHER_WORDS.items()):
    nodes = ast.walk(by_name[module].tree())
    texts = {ast.unparse(x) for x in nodes if isinstance(x, ast.expr)}
    assert expressions <= texts, module


@pytest.mark.parametrize(
  'text',
  [
    "if entry.name == 'suffix': pass",
    "if name in ('draft_model', 'hybrid'): pass",
    "x = {'match', 'coupled'} & {'x'} if rule != 'match' else None",
    'if isinstance(config, T5Config): pass',
    'if isinstance(x, (int, modeling.DecoderConfig)): pass',
    'if type(config) is t5.T5Config: pass',
    'if isinstance(x, DrafterEntry): pass',
    "if hasattr(model.config, 'num_slots'): pass",
    "x = getattr(config, 'num_slots', 0)",
    "match name:\n  case 'suffix':\n    pass",
    'match config:\n  case DecoderConfig():\n    pass',
  ],
)
def test_a_question_is_found(text):
  assert len(branches([Source('specjax.inference.planning', text)])) == 1


@pytest.mark.parametrize(
  'module, text',
  [
    ('specjax.inference.planning', "if plan.is_tree: x = 'suffix'"),
    ('specjax.inference.planning', 'if isinstance(x, str): pass'),
    ('specjax.inference.planning', 'x = getattr(config, name)'),
    ('specjax.decoding.drafters.hybrid', "if name == 'suffix': pass"),
    ('specjax.models.t5.modeling', 'isinstance(x, T5Config)'),
  ],
)
def test_other_code_is_let_be(module, text):
  assert branches([Source(module, text)]) == []
