"""Every public function is annotated; annotations are those of Python 3.11."""

import ast

import pytest

from tests.helpers import source_code
from tests.helpers.source_code import Source

# Modules of Flax describe the arrays of these in their docstrings.
EXEMPT = ('setup', '__call__')


def _functions(body, prefix=''):
  """(name, node) of functions of a module and methods of its classes."""
  for node in body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      yield from _functions(node.body, f'{prefix}{node.name}.')
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      if not node.name.startswith('_') and node.name not in EXEMPT:
        yield prefix + node.name, node


def _bare(name, node):
  """Parameters without a type, and 'return'."""
  given = node.args
  decorators = [ast.unparse(x) for x in node.decorator_list]
  listed = given.posonlyargs + given.args
  if '.' in name and 'staticmethod' not in decorators:
    listed = listed[1:]
  listed = [*listed, *given.kwonlyargs, given.vararg, given.kwarg]
  bare = [x.arg for x in listed if x is not None and x.annotation is None]
  return bare + ['return'] * (node.returns is None)


def bare_functions(source: Source) -> list[str]:
  """One sentence a public function that leaves a type out."""
  if any(part.startswith('_') for part in source.module.split('.')):
    return []
  return [
    f'{source.module}.{name} gives no type of {", ".join(bare)}.'
    for name, node in _functions(source.tree().body)
    if (bare := _bare(name, node))
  ]


def test_public_functions_are_annotated():
  found = [
    sentence
    for path in source_code.files('specjax')
    for sentence in bare_functions(source_code.read(path))
  ]
  if found:
    pytest.fail('\n'.join(found), pytrace=False)


@pytest.mark.parametrize(
  'text, bare',
  [
    ('def f(a): ...', 'a, return'),
    ('def f(a: int, *b, c, **d) -> int: ...', 'c, b, d'),
    ('class A:\n  def f(self, a: int): ...', 'return'),
    ('class A:\n  @staticmethod\n  def f(a) -> int: ...', 'a'),
    ('async def f() : ...', 'return'),
  ],
)
def test_a_missing_type_is_found(text, bare):
  (sentence,) = bare_functions(Source('specjax.x', text))
  assert sentence.endswith(f' gives no type of {bare}.')


@pytest.mark.parametrize(
  'module, text',
  [
    ('specjax.x', 'def f(a: int, *b: int) -> None:\n  def g(c): ...'),
    ('specjax.x', 'def _f(a): ...'),
    ('specjax.x', 'class _A:\n  def f(self): ...'),
    ('specjax.x', 'class A:\n  def __call__(self, x): ...'),
    ('specjax._x', 'def f(a): ...'),
  ],
)
def test_other_functions_are_let_be(module, text):
  assert bare_functions(Source(module, text)) == []
