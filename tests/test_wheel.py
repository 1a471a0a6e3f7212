"""The built wheel has all it needs, in a folder without the checkout."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers import source_code

# Everything is looked for below sys.argv[1]; commands by their entry points.
_SCRIPT = """
import contextlib, importlib, io, json, pathlib, sys

site = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(site))
import specjax
from specjax import text
from specjax.benchmark import explorer
from specjax.commands import cli, config_files, demo
from specjax.training import model_card

assert pathlib.Path(specjax.__file__).is_relative_to(site), specjax.__file__
cli.prepare_process = lambda: None
files = [explorer.PAGE, text.BUNDLED_PROMPTS, site / 'specjax' / 'py.typed']
files += [site / 'specjax' / 'CHANGES.md']
for folder in (demo.TARGET, demo.DRAFTER):
  files += [folder / name for name in ('config.json', 'README.md')]
  files += [folder / name for name in ('tokenizer.json', 'model.safetensors')]
missing = [str(file) for file in files if not file.is_file()]

helps, kinds = {}, set()
for line in (next(site.glob('*.dist-info')) / 'entry_points.txt').open():
  name, _, where = line.strip().partition(' = ')
  if not where:
    continue
  module, _, function = where.partition(':')
  module = importlib.import_module(module)
  assert callable(getattr(module, function)), line
  shown = io.StringIO()
  with contextlib.redirect_stdout(shown):
    try:
      module.main([name, '--help'])
    except SystemExit as leaving:
      assert not leaving.code
  helps[name] = shown.getvalue()
  if hasattr(module, 'CONFIG'):
    kinds.add(type(config_files.load(str(module.CONFIG), module.CONFIG.parent)))

folder = site / 'specjax' / 'configs'
loaded = sorted(
  one.name
  for kind in kinds
  for one in config_files.shipped_for(kind, folder)
  if config_files.load(one.name, folder)
)
print(json.dumps({'missing': missing, 'helps': helps, 'configs': loaded}))
"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The contents of a wheel that was built from a copy of the sources."""
  if importlib.util.find_spec('setuptools') is None:
    pytest.skip('setuptools is not installed; it builds the wheel.')
  root = tmp_path_factory.mktemp('wheel')
  leave = shutil.ignore_patterns('.*', '__pycache__', 'build', '*.egg-info')
  shutil.copytree(source_code.ROOT, root / 'sources', ignore=leave)
  subprocess.run(
    [sys.executable, 'setup.py', '-q', 'bdist_wheel', f'--dist-dir={root}'],
    cwd=root / 'sources',
    check=True,
  )
  (wheel,) = root.glob('*.whl')
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(root / 'site')
  shutil.rmtree(root / 'sources')
  return root / 'site'


@pytest.fixture(scope='module')
def found(site, tmp_path_factory):
  """Facts that the script finds from an empty folder."""
  done = subprocess.run(
    [sys.executable, '-c', _SCRIPT, str(site)],
    cwd=tmp_path_factory.mktemp('empty'),
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_its_files_are_found(found):
  assert not found['missing']


@pytest.mark.slow
def test_every_config_and_variant_loads(found):
  files = {name.split('/')[1].split(':')[0] for name in found['configs']}
  shipped = (source_code.ROOT / 'configs').glob('[!_]*.py')
  assert files == {path.name for path in shipped}


@pytest.mark.slow
def test_every_command_shows_its_help(found):
  assert len(found['helps']) == 7
  for name, text in found['helps'].items():
    assert name in text and 'Flags:' in text
    assert ('configs/' in text) == ('--config=' in text)


@pytest.mark.slow
def test_nothing_lies_beside_the_package(site):
  assert {path.name.split('-')[0] for path in site.iterdir()} == {'specjax'}
