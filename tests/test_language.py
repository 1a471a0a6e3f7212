"""Words of messages, docstrings and comments."""

import ast
from collections.abc import Iterator, Sequence
import io
import re
import tokenize

import pytest

from tests.helpers import source_code
from tests.helpers.source_code import Source
from tests.helpers.source_code import TOPS

_SPEECH = re.compile(r'\b(tell|tells|telling|told|say|says|saying|said)\b')
_SECTION = re.compile(r'(?m)^ *(?:Args|Attributes):\n((?: +\S.*\n?|\n)+)')
_ARGUMENT = re.compile(r'^ *\*{0,2}\w+(?:, \*{0,2}\w+)*: (\w+)', re.MULTILINE)
_NO_NOUN = ('of', 'what', 'how', 'which', 'if', 'is')
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _docstrings(source: Source) -> Iterator[str]:
  for node in ast.walk(source.tree()):
    if isinstance(node, _DOCUMENTED):
      yield ast.get_docstring(node) or ''


def _comments(source: Source) -> Iterator[str]:
  for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
    if token.type == tokenize.COMMENT:
      yield token.string


def _strings(source: Source) -> Iterator[str]:
  for node in ast.walk(source.tree()):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


def speech(given: Sequence[Source]) -> list[str]:
  """Of things; the texts of a test's data are its own."""
  found = []
  for source in given:
    texts = [*_docstrings(source), *_comments(source)]
    if not source.module.startswith('tests'):
      texts += _strings(source)
    found += [
      f'{source.module} has {match[0]!r} in {text!r}; things do not speak.'
      for text in sorted(set(texts))
      for match in _SPEECH.finditer(text)
    ]
  return found


def clauses(given: Sequence[Source]) -> list[str]:
  return [
    f'{source.module} has a docstring that begins with a clause: {text!r}.'
    for source in given
    for text in _docstrings(source)
    if re.match(r'(What|How|Whose)\b', text)
  ]


def arguments(given: Sequence[Source]) -> list[str]:
  return [
    f'{source.module} describes an argument without a noun: {match[0]!r}.'
    for source in given
    for text in _docstrings(source)
    for section in _SECTION.findall(text)
    for match in _ARGUMENT.finditer(section)
    if match[1] in _NO_NOUN
  ]


COUNTERS = (speech, clauses, arguments)


@pytest.mark.parametrize('counter', COUNTERS)
def test_the_language_is_plain(counter):
  given = [source_code.read(path) for path in source_code.files(*TOPS)]
  found = counter([one for one in given if one.module != __name__])
  if found:
    pytest.fail('\n'.join(found), pytrace=False)


@pytest.mark.parametrize(
  'counter, text',
  [
    (speech, 'x = 1  # the header says so\n'),
    (speech, "raise ValueError(f'{x} tells nothing')\n"),
    (speech, '"""Told by the environment."""\n'.lower()),
    (clauses, 'def f():\n  """What a drafter reads."""\n'),
    (arguments, 'def f(x):\n  """F.\n\n  Args:\n    x: of the rows.\n  """\n'),
    (
      arguments,
      'class A:\n  """A.\n\n  Attributes:\n    a: one\n      line.\n'
      '    x, y: how many.\n  """\n',
    ),
  ],
)
def test_an_offender_is_found(counter, text):
  assert len(counter([Source('specjax.base', text)])) == 1
