"""The project's Python files, and what they import."""

import ast
import functools
import pathlib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEAVES = ('configs', 'decode', 'train')
TOPS = ('specjax', *LEAVES, 'tests')


class Source(NamedTuple):
  """The text of a module."""

  module: str
  text: str
  is_package: bool = False

  def tree(self) -> ast.Module:
    return _parsed(self.text)


_parsed = functools.cache(ast.parse)


def files(*tops: str) -> list[pathlib.Path]:
  """Paths of all Python files below these folders of the root."""
  return sorted(path for top in tops for path in (ROOT / top).rglob('*.py'))


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def read(path: pathlib.Path) -> Source:
  text = path.read_text(encoding='utf-8')
  return Source(module_name(path), text, path.name == '__init__.py')


def is_module(name: str) -> bool:
  path = ROOT.joinpath(*name.split('.'))
  return path.with_suffix('.py').exists() or (path / '__init__.py').exists()


def imports(source: Source) -> set[str]:
  """Full names of what a file imports, also inside functions."""
  found = set()
  for node in ast.walk(source.tree()):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        above = source.module.split('.')
        above = above[: len(above) - node.level + int(source.is_package)]
        base = '.'.join(above + ([base] if base else []))
      for alias in node.names:
        inner = f'{base}.{alias.name}'
        local = inner.split('.')[0] in TOPS
        found.add(inner if not local or is_module(inner) else base)
  return found
