"""A file imports only from lower floors; the table here is the design."""

import pytest

from tests.helpers import source_code
from tests.helpers.source_code import LEAVES
from tests.helpers.source_code import Source

# A room is a folder below specjax/, or one of its modules at the top. A file
# imports from its own room and from rooms on lower floors; rooms of one floor
# stand beside each other and do not import each other.
FLOORS = {
  'specjax.base': 0,
  'specjax.cache': 0,
  'specjax.early': 0,
  'specjax.files': 0,
  'specjax.machine': 0,
  'specjax.options': 0,
  'specjax.pieces': 0,
  'specjax.theory': 0,
  'specjax.user_files': 0,
  'specjax.validation': 0,
  'specjax.variants': 0,
  'specjax.control_flow': 1,
  'specjax.distributed': 1,
  'specjax.chat_template': 1,
  'specjax.locks': 1,
  'specjax.prompts': 1,
  'specjax.waiting': 2,
  'specjax.text': 2,
  'specjax.models': 2,
  'specjax.prompt_files': 3,
  'specjax.stop_strings': 3,
  'specjax.checkpoints': 3,
  'specjax.decoding': 3,
  'specjax.inference': 4,
  'specjax.training': 4,
  'specjax': 5,
  'specjax.benchmark': 5,
  'specjax.certify': 6,
  'specjax.commands': 7,
  'configs': 7,
  'decode': 8,
  'train': 8,
}
FORBIDDEN = ('torch', 'tensorflow')
ONLY_COMMANDS = ('absl.flags', 'absl.app')


def room(module: str) -> str:
  """The room that a module stands in; fails for a room without a floor."""
  parts = module.split('.')
  name = '.'.join(parts[: 2 if parts[0] == 'specjax' else 1])
  assert name in FLOORS, f'{name} stands on no floor: add it to the table.'
  return name


def complaints(source: Source) -> list[str]:
  """Imports of a file that break the table."""
  module = source.module
  mine = room(module)
  floor = FLOORS[mine]
  found = []
  for name in sorted(source_code.imports(source)):
    top = name.split('.')[0]
    if top in FORBIDDEN:
      found.append(f'{module} imports {name}, which is no dependency.')
    elif name.startswith(ONLY_COMMANDS) and floor < FLOORS['specjax.commands']:
      found.append(f'{module} imports {name}; only commands read flags.')
    elif top in LEAVES and mine != top:
      found.append(f'{module} imports {name}; leaves are imported by nobody.')
    elif top == 'specjax':
      other = room(name)
      if other != mine and FLOORS[other] >= floor:
        found.append(
          f'{module} (floor {floor}) imports {name} (floor {FLOORS[other]}).'
        )
  return found


@pytest.mark.parametrize(
  'path',
  source_code.files('specjax', *LEAVES),
  ids=source_code.module_name,
)
def test_imports_only_from_lower_floors(path):
  assert complaints(source_code.read(path)) == []


@pytest.mark.parametrize(
  'module, source',
  [
    ('specjax.models.t5', 'from specjax import text'),
    ('specjax.base', 'import specjax.models.t5'),
    ('specjax.decoding.generate', 'from specjax.training import losses'),
    ('specjax.decoding.generate', 'from .. import inference'),
    ('specjax.training.data', 'def f():\n  import specjax.inference.generate'),
    ('specjax.text', 'from specjax.checkpoints import load'),
    ('specjax.inference.generate', 'import torch'),
    ('specjax.checkpoints.load', 'from absl import flags'),
    ('specjax.inference.generate', 'import specjax'),
    ('specjax.commands.cli', 'from configs import decode'),
    ('train.main', 'from decode import main'),
  ],
)
def test_the_walk_sees_a_forbidden_import(module, source):
  assert complaints(Source(module, source))


@pytest.mark.parametrize(
  'module, source',
  [
    ('specjax.decoding.generate', 'from specjax import base'),
    ('specjax.decoding.generate', 'from specjax.decoding import warp'),
    (
      'specjax.commands.cli',
      'from specjax import base\nfrom absl import flags',
    ),
    (
      'decode.main',
      'from specjax.commands import cli\nfrom specjax.base import Prompt',
    ),
    ('specjax.models.t5', 'from . import layers'),
  ],
)
def test_the_walk_allows_lower_floors(module, source):
  assert complaints(Source(module, source)) == []
