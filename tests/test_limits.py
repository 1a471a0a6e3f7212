"""Limits that keep the source readable, and calls that have one place."""

import ast
import collections
from collections.abc import Sequence

import pytest

from tests.helpers import source_code
from tests.helpers.source_code import LEAVES
from tests.helpers.source_code import Source
from tests.helpers.source_code import TOPS

FILE_LINES = 350
FUNCTION_LINES = 60
PARAMETERS = 6
_SKIP = '  # fmt' + ': skip'


def sources(*tops: str) -> list[Source]:
  return [source_code.read(path) for path in source_code.files(*tops)]


def refuse(offenders: Sequence[str]) -> None:
  """Fails with one line an offender; assertions would shorten the list."""
  if offenders:
    pytest.fail('\n'.join(offenders), pytrace=False)


# Each counter makes one sentence of every offender.


def long_files(given: Sequence[Source]) -> list[str]:
  counts = {source.module: len(source.text.splitlines()) for source in given}
  return [
    f'{module} has {count} lines; at most {FILE_LINES} are allowed.'
    for module, count in counts.items()
    if count > FILE_LINES
  ]


def _functions(source):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
  return [x for x in ast.walk(source.tree()) if isinstance(x, kinds)]


def long_functions(given: Sequence[Source]) -> list[str]:
  found = []
  for source in given:
    for node in _functions(source):
      count = node.end_lineno - node.lineno + 1
      if count > FUNCTION_LINES:
        found.append(
          f'{source.module}.{node.name} has {count} lines; at most '
          f'{FUNCTION_LINES} are allowed.'
        )
  return found


def wide_functions(given: Sequence[Source]) -> list[str]:
  """Keyword-only parameters do not count, nor does `self` or `cls`."""
  found = []
  for source in given:
    for node in _functions(source):
      names = [x.arg for x in node.args.posonlyargs + node.args.args]
      count = len(names) - (names[:1] in (['self'], ['cls']))
      if count > PARAMETERS:
        found.append(
          f'{source.module}.{node.name} has {count} positional parameters; at '
          f'most {PARAMETERS} are allowed.'
        )
  return found


def imports_of_tests(given: Sequence[Source]) -> list[str]:
  return [
    f'{source.module} imports {name}; what tests share is in tests/helpers/.'
    for source in given
    for name in sorted(source_code.imports(source))
    if name.split('.')[0] == 'tests' and '.test_' in name
  ]


def shared_class_names(given: Sequence[Source]) -> list[str]:
  places = collections.defaultdict(list)
  for source in given:
    for node in ast.walk(source.tree()):
      if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
        places[node.name].append(source.module)
  return [
    f'{name} is the name of {len(modules)} classes: {", ".join(modules)}.'
    for name, modules in sorted(places.items())
    if len(modules) > 1
  ]


def private_jax(given: Sequence[Source]) -> list[str]:
  return [
    f'{source.module} reads jax._src, which changes without notice.'
    for source in given
    if any(name.startswith('jax._src') for name in source_code.imports(source))
    or any(
      isinstance(node, ast.Attribute) and ast.unparse(node) == 'jax._src'
      for node in ast.walk(source.tree())
    )
  ]


def _leaves_the_process(node):
  match node:
    case ast.Raise(exc=ast.Name('SystemExit')):
      return True
    case ast.Raise(exc=ast.Call(ast.Name('SystemExit'))):
      return True
    case ast.Attribute(ast.Name('os'), '_exit'):
      return True
    case ast.Attribute(ast.Name('sys'), 'exit'):
      return True
    case ast.Call(ast.Name('exit' | 'quit' | '_exit')):
      return True
  return False


def process_exits(given: Sequence[Source]) -> list[str]:
  """`specjax/early.py` does it for a command that is not imported yet."""
  return [
    f'{source.module}, line {node.lineno}, ends the process; only '
    'specjax/commands/ may.'
    for source in given
    if not source.module.startswith(('specjax.commands', 'specjax.early'))
    for node in ast.walk(source.tree())
    if _leaves_the_process(node)
  ]


def asked_platforms(given: Sequence[Source]) -> list[str]:
  """`specjax/models/__init__.py` asks, outside of programs, for all models."""
  found = []
  for source in given:
    if source.module == 'specjax.models':
      continue
    for node in ast.walk(source.tree()):
      names = (getattr(node, field, None) for field in ('id', 'attr', 'name'))
      if 'default_backend' in names:
        found.append(
          f'{source.module}, line {node.lineno}, asks for the platform; take '
          'it as an argument.'
        )
  return found


def _is_table_of_numbers(node):
  inner = [x for x in ast.walk(node) if isinstance(x, ast.Constant)]
  numbers = [x for x in inner if isinstance(x.value, int | float)]
  return isinstance(node, ast.Assign) and 2 * len(numbers) >= len(inner) > 0


def own_layouts(given: Sequence[Source]) -> list[str]:
  """Lines whose layout the formatter skips, but for tables of numbers."""
  found = []
  for source in given:
    lines = enumerate(source.text.splitlines(), 1)
    marked = {number for number, line in lines if line.endswith(_SKIP)}
    tables = ast.walk(source.tree()) if marked else ()
    marked -= {node.end_lineno for node in tables if _is_table_of_numbers(node)}
    found += [
      f'{source.module}, line {number}, has a layout of its own; only tables '
      'of numbers may.'
      for number in sorted(marked)
    ]
  return found


def test_every_folder_is_read():
  for top in TOPS:
    assert sources(top), top
  assert __name__.split('.')[-1] in {
    source.module.split('.')[-1] for source in sources('tests')
  }


def test_no_file_is_long():
  refuse(long_files(sources(*TOPS)))


def test_no_function_is_long():
  refuse(long_functions(sources(*TOPS)))


def test_no_function_has_many_positional_parameters():
  refuse(wide_functions(sources(*TOPS)))


def test_no_test_imports_another():
  refuse(imports_of_tests(sources('tests')))


def test_a_public_class_name_occurs_once():
  refuse(shared_class_names(sources('specjax')))


def test_only_tables_of_numbers_have_a_layout_of_their_own():
  refuse(own_layouts(sources(*TOPS)))


def test_nothing_reads_private_parts_of_jax():
  refuse(private_jax(sources(*TOPS)))


def test_only_commands_end_the_process():
  refuse(process_exits(sources('specjax', *LEAVES)))


def test_models_take_the_platform_as_an_argument():
  refuse(asked_platforms(sources('specjax/models')))


LINE = 'x = 1\n'
BODY = '  x = 1\n'
LONG = FUNCTION_LINES - 1  # allowed lines below a function's head


@pytest.mark.parametrize(
  'counter, module, text',
  [
    (long_files, 'specjax.base', LINE * (FILE_LINES + 1)),
    (long_functions, 'specjax.base', 'def f():\n' + BODY * (LONG + 1)),
    (
      long_functions,
      'specjax.base',
      'class A:\n async def f(self):\n' + BODY * FUNCTION_LINES,
    ),
    (wide_functions, 'specjax.base', 'def f(a, b, c, d, e, f, g):\n  pass'),
    (wide_functions, 'specjax.base', 'def f(a, b, /, c, d, e, f, g):\n  pass'),
    (
      wide_functions,
      'specjax.base',
      'class A:\n  def f(self, a, b, c, d, e, f, g=1):\n    pass',
    ),
    (imports_of_tests, 'tests.test_text', 'from tests import test_floors'),
    (imports_of_tests, 'tests.test_text', 'import tests.test_floors'),
    (imports_of_tests, 'tests.test_text', 'from . import test_floors'),
    (
      imports_of_tests,
      'tests.helpers.tiny',
      'def f():\n  from tests.test_floors import room',
    ),
    (
      shared_class_names,
      'specjax.base',
      'class Cost:\n  pass\n\ndef f():\n  class Cost:\n    pass',
    ),
    (own_layouts, 'specjax.base', "x = ('a', 'b')" + _SKIP),
    (own_layouts, 'specjax.base', 'f(\n  a, b,\n)' + _SKIP),
    (private_jax, 'specjax.base', 'import jax._src.core'),
    (private_jax, 'specjax.base', 'from jax._src import core'),
    (private_jax, 'specjax.base', 'from jax import _src'),
    (private_jax, 'specjax.base', 'import jax\nx = jax._src.core'),
    (process_exits, 'specjax.text', 'import sys\nsys.exit(1)'),
    (process_exits, 'specjax.text', 'import os\nos._exit(1)'),
    (process_exits, 'specjax.text', 'from sys import exit\nexit(1)'),
    (process_exits, 'decode.main', 'raise SystemExit'),
    (process_exits, 'specjax.text', "def f():\n  raise SystemExit('no')"),
    (
      asked_platforms,
      'specjax.models.t5.modeling',
      "def f():\n  return jax.default_backend() == 'cpu'",
    ),
    (
      asked_platforms,
      'specjax.models.common.attention',
      'from jax import default_backend',
    ),
  ],
)
def test_the_counters_see_an_offender(counter, module, text):
  assert len(counter([Source(module, text)])) == 1


@pytest.mark.parametrize(
  'counter, module, text',
  [
    (long_files, 'specjax.base', LINE * FILE_LINES),
    (
      long_functions,
      'specjax.base',
      'def f():\n' + BODY * (FUNCTION_LINES - 1),
    ),
    (
      wide_functions,
      'specjax.base',
      'class A:\n  def f(self, a, b, c, d, e, f, *, g, h):\n    pass',
    ),
    (imports_of_tests, 'tests.test_text', 'from tests.helpers import tiny'),
    (
      shared_class_names,
      'specjax.base',
      'class _Cost:\n  pass\n\ndef f():\n  class _Cost:\n    pass',
    ),
    (own_layouts, 'specjax.base', "x = {'a': 1, 'b': 2}" + _SKIP),
    (private_jax, 'specjax.base', 'import jax\nx = jax.numpy'),
    (process_exits, 'specjax.commands.cli', 'import sys\nsys.exit(1)'),
    (
      process_exits,
      'specjax.text',
      'try:\n  f()\nexcept SystemExit as error:\n  raise ValueError from error',
    ),
    (asked_platforms, 'specjax.models', 'x = jax.default_backend()'),
  ],
)
def test_the_counters_allow_the_rest(counter, module, text):
  assert counter([Source(module, text)]) == []
