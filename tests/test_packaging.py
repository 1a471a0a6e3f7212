"""Everything that belongs to the package is installed."""

import importlib
import pathlib
import re
import runpy

import pytest

import specjax
from tests.helpers import hidden

ROOT = pathlib.Path(__file__).resolve().parent.parent
LEAVES = ('configs', 'decode', 'train')


@pytest.fixture
def arguments(monkeypatch):
  """Arguments that setup.py hands to setuptools."""
  setuptools = pytest.importorskip('setuptools', reason='needs setuptools')
  found = {}
  monkeypatch.setattr(setuptools, 'setup', lambda **given: found.update(given))
  runpy.run_path(str(ROOT / 'setup.py'))
  return found


def test_every_source_file_is_installed(arguments):
  assert arguments['version'] == specjax.__version__ == '0.2.0'
  where = arguments['package_dir']
  installed = set()
  for package in arguments['packages']:
    head, _, tail = package.partition('.')
    leaf = tail.split('.')[0]
    path = where.get(f'{head}.{leaf}')
    parts = tail.split('.')[1:] if path else package.split('.')
    folder = ROOT.joinpath(*([path] if path else []), *parts)
    installed |= set(folder.glob('*.py'))
  sources = {
    path for top in ('specjax',) + LEAVES for path in (ROOT / top).rglob('*.py')
  }
  assert sources == installed


def test_every_command_has_its_function(arguments):
  for line in arguments['entry_points']['console_scripts']:
    name, module, function = re.fullmatch(
      r'(specjax-\w+)=specjax\.([\w.]+):(\w+)', line
    ).groups()
    assert callable(getattr(importlib.import_module(module), function)), name


def test_pytorch_is_no_dependency(arguments):
  assert set(arguments['extras_require']) >= {'test', 'cuda', 'tpu', 'plots'}
  needed = arguments['install_requires'] + sum(
    arguments['extras_require'].values(), []
  )
  assert not [line for line in needed if line.startswith(('torch', 'tensorf'))]


_WITHOUT_EXTRAS = """
for module in sys.argv[2].split(','):
  importlib.import_module(module)
from specjax.training import metrics
assert metrics.plot('.') == ''
"""


def test_every_module_needs_the_base_installation_alone(arguments):
  extras = {
    re.match(r'[\w-]+', line)[0].replace('-', '_')
    for name in ('test', 'plots')
    for line in arguments['extras_require'][name]
  }
  modules = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for top in ('specjax',) + LEAVES
    for path in (ROOT / top).rglob('*.py')
    # The peers run in processes of their own, on what they are.
    if path.stem
    not in ('__init__', 'transformers_worker', 'ctranslate2_worker')
  ]
  packages = sorted(extras | {'torch', 'ctranslate2'})
  done = hidden.run(_WITHOUT_EXTRAS, packages, ','.join(modules))
  assert done.returncode == 0, done.stderr


def test_every_document_and_prompt_is_installed(arguments):
  expected = set((ROOT / 'configs' / 'prompts').iterdir())
  found = set()
  for top in ('specjax',) + LEAVES:
    expected |= set((ROOT / top).rglob('*.md'))
    package = top if top == 'specjax' else f'specjax.{top}'
    for pattern in arguments['package_data'][package]:
      found |= set((ROOT / top).glob(pattern))
  assert expected <= found


def test_the_long_description_has_no_relative_links(arguments):
  text = arguments['long_description']
  links = re.findall(r'\]\(([^)]*)\)', text)
  assert links and all(link.startswith('https://') for link in links)
  assert '| decode/ |' in text
