"""A file imports only from lower floors; the table here is the design."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEAVES = ('configs', 'decode', 'train')

# (prefix of a module's name, floor, group). Modules of one floor may import
# each other only inside one group; the longest prefix that fits decides.
FLOORS = (
  ('specjax.base', 0, 'core'),
  ('specjax.validation', 0, 'core'),
  ('specjax.control_flow', 0, 'core'),
  ('specjax.distributed.mesh', 0, 'core'),
  ('specjax.distributed.transfer', 0, 'core'),
  ('specjax.models', 1, 'models'),
  ('specjax.text', 1, 'text'),
  ('specjax.checkpoints', 1, 'checkpoints'),
  ('specjax.checkpoints.load', 2, 'loading'),
  ('specjax.decoding', 3, 'decoding'),
  ('specjax.training', 3, 'training'),
  ('specjax.inference.config', 4, 'top'),
  ('specjax.distributed', 4, 'top'),
  ('specjax.inference.drafting', 4, 'top'),
  ('specjax.distributed.rendezvous', 4, 'top'),
  ('specjax.inference.memory', 4, 'top'),
  ('specjax.inference.batching', 4, 'top'),
  ('specjax.inference.generate', 4, 'top'),
  ('specjax.theory', 4, 'top'),
  ('specjax.benchmark', 4, 'top'),
  ('specjax.commands.bundle', 4, 'top'),
  ('specjax.certify', 4, 'top'),
  ('specjax.checkpoints.convert', 4, 'top'),
  ('specjax.commands.cli', 4, 'top'),
  ('specjax.commands.answer_files', 4, 'top'),
  ('specjax.commands.statistics', 4, 'top'),
  ('specjax.commands.train', 4, 'top'),
  ('specjax.commands.label', 4, 'top'),
  ('specjax.commands.decode', 4, 'top'),
  ('specjax.commands.demo', 4, 'top'),
  ('specjax', 5, 'front'),
  ('specjax.assets', 5, 'front'),
  ('configs', 6, 'leaf'),
  ('decode', 6, 'leaf'),
  ('train', 6, 'leaf'),
)
FORBIDDEN = ('torch', 'tensorflow')
ONLY_COMMANDS = ('absl.flags', 'absl.app')


def place(module: str) -> tuple[int, str]:
  fitting = [
    row
    for row in FLOORS
    if module == row[0]
    or (module.startswith(row[0] + '.') and row[0] != 'specjax')
  ]
  assert fitting, f'{module} stands on no floor: add it to the table.'
  return max(fitting, key=lambda row: len(row[0]))[1:]


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def source_files() -> list[pathlib.Path]:
  return sorted(
    path for top in ('specjax',) + LEAVES for path in (ROOT / top).rglob('*.py')
  )


def is_module(name: str) -> bool:
  path = ROOT.joinpath(*name.split('.'))
  return path.with_suffix('.py').exists() or (path / '__init__.py').exists()


def imports(source: str, module: str, is_package: bool) -> set[str]:
  """Full names of what a file imports, also inside functions."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        above = module.split('.')
        above = above[: len(above) - node.level + int(is_package)]
        base = '.'.join(above + ([base] if base else []))
      for alias in node.names:
        inner = f'{base}.{alias.name}'
        local = inner.split('.')[0] in ('specjax',) + LEAVES
        found.add(inner if not local or is_module(inner) else base)
  return found


def complaints(module: str, source: str, is_package: bool = False) -> list[str]:
  """What a file with this text imports against the table."""
  floor, group = place(module)
  found = []
  for name in sorted(imports(source, module, is_package)):
    top = name.split('.')[0]
    if top in FORBIDDEN:
      found.append(f'{module} imports {name}, which is no dependency.')
    elif name.startswith(ONLY_COMMANDS) and floor < 4:
      found.append(f'{module} imports {name}; only commands read flags.')
    elif top in LEAVES and module.split('.')[0] != top:
      found.append(f'{module} imports {name}; leaves are imported by nobody.')
    elif top == 'specjax':
      other, other_group = place(name)
      if name == 'specjax' and floor == 6:
        continue
      if other > floor or (other == floor and other_group != group):
        found.append(
          f'{module} (floor {floor}, {group}) imports {name} '
          f'(floor {other}, {other_group}).'
        )
  return found


@pytest.mark.parametrize('path', source_files(), ids=module_name)
def test_imports_only_from_lower_floors(path):
  source = path.read_text(encoding='utf-8')
  is_package = path.name == '__init__.py'
  assert complaints(module_name(path), source, is_package) == []


@pytest.mark.parametrize(
  'module, source',
  [
    ('specjax.models.t5', 'from specjax import text'),
    ('specjax.base', 'import specjax.models.t5'),
    ('specjax.decoding.generate', 'from specjax.training import losses'),
    ('specjax.decoding.generate', 'from .. import api'),
    ('specjax.training.data', 'def f():\n  import specjax.inference.generate'),
    ('specjax.text', 'from specjax.checkpoints import save'),
    ('specjax.inference.generate', 'import torch'),
    ('specjax.checkpoints.load', 'from absl import flags'),
    ('specjax.inference.generate', 'import specjax'),
    ('specjax.commands.cli', 'from configs import decode'),
    ('train.main', 'from decode import main'),
  ],
)
def test_the_walk_sees_a_forbidden_import(module, source):
  assert complaints(module, source)


@pytest.mark.parametrize(
  'module, source',
  [
    ('specjax.decoding.generate', 'from specjax import base'),
    ('specjax.decoding.generate', 'from specjax.decoding import warp'),
    (
      'specjax.commands.cli',
      'from specjax import base\nfrom absl import flags',
    ),
    ('decode.main', 'from specjax import cli\nfrom specjax.base import Prompt'),
    ('specjax.models.t5', 'from . import layers'),
  ],
)
def test_the_walk_allows_lower_floors(module, source):
  assert complaints(module, source) == []
