"""`specjax/CHANGES.md` leads from every old name to one that there is."""

import importlib
import re

import specjax
from specjax.inference import moved
from specjax.training import config as train_config
from tests.helpers import source_code

TEXT = (source_code.ROOT / 'specjax' / 'CHANGES.md').read_text(encoding='utf-8')
IMPORTS = TEXT.split('### Import paths')[1]
ROWS = re.findall(r'^\| (`.+) \| (.+) \|$', IMPORTS, re.M)


def exists(path: str) -> bool:
  """Whether a dotted path below specjax leads to something."""
  parts = ['specjax', *path.removeprefix('specjax.').split('.')]
  for size in range(len(parts), 0, -1):
    try:
      found = importlib.import_module('.'.join(parts[:size]))
    except ModuleNotFoundError:
      continue
    for part in parts[size:]:
      # Fields of a dataclass without a default are annotations alone.
      if part in getattr(found, '__annotations__', {}):
        return True
      if not hasattr(found, part):
        return False
      found = getattr(found, part)
    return True
  return False


def test_the_version_is_described():
  assert re.findall(r'^## (.+)$', TEXT, re.M)[0] == specjax.__version__
  readme = (source_code.ROOT / 'README.md').read_text(encoding='utf-8')
  assert '(specjax/CHANGES.md)' in readme


def test_every_moved_option_is_named():
  for name in (*moved.MOVED, *train_config.MOVED):
    last = name.split('.')[-1]
    assert re.search(rf'[`.]{last}[`.]', TEXT), name


def test_the_new_paths_exist():
  assert len(ROWS) > 150
  for old, new in ROWS:
    if new == 'gone':
      continue
    path = new.strip('`')
    assert exists(path), path
    module, _, names = old.partition(': ')
    for name in re.findall(r'`(\w+)`', names):
      assert exists(f'{path}.{name}'), (module, path, name)


def test_a_path_that_leads_nowhere_is_found():
  assert exists('inference.planning.plan')
  assert exists('models.family.ModelFamily.config')
  assert not exists('inference.planning.plans')
  assert not exists('inference.plans')
