"""Which drafter the demo takes, and what goes into the package."""

import json

import jax
import pytest

from specjax import models
from specjax.checkpoints import hf
from specjax.commands import bundle
from specjax.commands import cli
from specjax.commands import demo
from specjax.inference.config import DecodeConfig
from tests.helpers import speculators
from tests.helpers import tiny
from train import bundle as command


def row(drafter, num_draft, speedup, check='ok', platform='cpu'):
  return {
    'drafter': drafter, 'num_draft': num_draft, 'speedup': speedup,
    'batch_size': 1, 'check': check,
    'environment': {'platform': platform, 'processor': 'x', 'cores': 2,
                    'versions': {}, 'time': ''},
  }  # fmt: skip


@pytest.fixture(name='folders')
def folders_fixture(tmp_path):
  target = tiny.save(tmp_path / 'target', tiny.T5)
  model = tiny.save(tmp_path / 'model', tiny.T5, seed=1)
  config = models.SpecDrafterConfig(
    96, 16, 8, 16, 1, 1, 2, block=8, eos_token_id=(2,)
  )
  params = models.init_params(config, jax.random.key(1))
  spec = str(tmp_path / 'spec')
  hf.save_hf(spec, params, config)
  tiny.tokenizer('t5').save_pretrained(spec)
  return target, model, spec


def test_networks_with_masks_and_drafters_that_go(folders, tmp_path):
  target, model, _ = folders
  heads = str(tmp_path / 'heads')
  hf.save_hf(heads, models.init_params(speculators.EAGLE_T5, jax.random.key(2)),
             speculators.EAGLE_T5)  # fmt: skip
  report = write(
    tmp_path / 'results.json', [row(model, 4, 1.3), row(heads, 6, 1.9)]
  )
  assets = tmp_path / 'assets'
  made = bundle.bundle(target, [model, heads], report, assets)
  assert made['drafter'] == 'demo_parallel_drafter'
  folders = {'demo_target', 'demo_drafter', 'demo_parallel_drafter'}
  assert {p.name for p in assets.iterdir() if p.is_dir()} == folders
  bundle.bundle(target, [heads], report, assets)
  # What was left would be a drafter of another target.
  folders.remove('demo_drafter')
  assert {p.name for p in assets.iterdir() if p.is_dir()} == folders


def test_a_bundled_model_can_be_bundled_again(folders, tmp_path):
  target, model, _ = folders
  assets, path = tmp_path / 'assets', tmp_path / 'results.json'
  bundle.bundle(target, [model], write(path, [row(model, 4, 1.3)]), assets)
  before = (assets / 'demo_target' / 'model.safetensors').read_bytes()
  kept = str(assets / 'demo_target')
  bundle.bundle(kept, [model], str(path), assets)
  after = (assets / 'demo_target' / 'model.safetensors').read_bytes()
  assert before == after
  assert {p.name for p in assets.iterdir()} == {
    'demo_target', 'demo_drafter', demo.CHOICE,
  }  # fmt: skip


def write(path, rows):
  path.write_text(json.dumps({'rows': rows}))
  return str(path)


def test_the_fastest_exact_drafter_is_taken(folders, tmp_path, monkeypatch):
  target, model, spec = folders
  rows = [
    row('none', 0, 1.0, None), row(model, 4, 1.3), row(spec, 6, 1.9),
    row(spec, 8, 1.8), row(spec, 8, 2.5, 'lossy'), row('suffix', 4, 3.0),
  ]  # fmt: skip
  report = write(tmp_path / 'results.json', rows)
  (tmp_path / 'spec' / 'checkpoint.bin').write_text('not wanted')
  assets = tmp_path / 'assets'
  made = bundle.bundle(target, [model, spec], report, assets)
  assert (made['drafter'], made['num_draft']) == ('demo_spec_drafter', 6)
  assert len(made['measured']) == 3
  found = {p.name for p in (assets / 'demo_spec_drafter').iterdir()}
  assert {'config.json', 'model.safetensors', 'tokenizer.json'} <= found
  assert 'checkpoint.bin' not in found
  monkeypatch.setattr(demo, 'ASSETS', assets)
  monkeypatch.setattr(demo, 'DRAFTER', assets / 'demo_drafter')
  folder, config = demo._chosen(DecodeConfig())
  assert folder.endswith('demo_spec_drafter') and config.num_draft == 6
  _, config = demo._chosen(DecodeConfig(num_draft=3))
  assert config.num_draft == 3
  # Without a measurement it is the autoregressive one.
  (assets / demo.CHOICE).unlink()
  folder, config = demo._chosen(DecodeConfig())
  assert folder.endswith('demo_drafter') and config.num_draft == 4


def test_what_is_refused(folders, tmp_path, monkeypatch, capsys):
  target, model, spec = folders
  path = tmp_path / 'results.json'
  assets = tmp_path / 'assets'
  for rows, words in (
    ([row(spec, 6, 1.9, 'FAILED')], 'no exact row at batch size 1'),
    ([row(spec, 6, 1.9, platform='gpu')], 'measured on gpu'),
  ):
    with pytest.raises(ValueError, match=words):
      bundle.bundle(target, [spec], write(path, rows), assets)
  report = write(path, [row(spec, 6, 1.9)])
  with pytest.raises(ValueError, match='would both be demo_drafter'):
    bundle.bundle(target, [model, model], report, assets)
  for name, words in (
    (str(tmp_path / 'nowhere'), 'there is no folder'),
    (spec, 'holds a drafter network, which is no target'),
    (tiny.save(tmp_path / 'swapped', tiny.T5, swap=('cat', 'dog')),
     'first differing id'),
  ):  # fmt: skip
    with pytest.raises((ValueError, OSError), match=words):
      bundle.bundle(name, [spec], report, assets)
  for text in ('{', '[]', '{"rows": [{}]}'):
    path.write_text(text)
    with pytest.raises(ValueError, match='is no results.json'):
      bundle.bundle(target, [spec], report, assets)
  write(path, [row(spec, 6, 1.9)])
  monkeypatch.setattr(bundle, 'LIMIT', 1000)
  with pytest.raises(ValueError, match='is the most that is bundled'):
    bundle.bundle(target, [spec], report, assets)
  assert not assets.exists()
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  assert cli.call(command.main, ['bundle', f'--target={target}']) == 2
  assert '--drafter is needed' in capsys.readouterr().err


@pytest.mark.parametrize(
  'drafters', [['--drafter=a,b', '--drafter=c'], ['--drafter=a,b,c']]
)
def test_drafters_by_commas_or_by_flags(drafters, monkeypatch):
  named = []
  made = {'drafter': 'a', 'num_draft': 2}
  monkeypatch.setattr(
    bundle, 'bundle', lambda target, found, report: named.extend(found) or made
  )
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  arguments = ['bundle', '--target=t', '--report=r', *drafters]
  assert cli.call(command.main, arguments) == 0
  assert named == ['a', 'b', 'c']
