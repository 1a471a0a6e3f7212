"""Models of the config files have the sizes that they should."""

import dataclasses
import importlib
import importlib.util
import pathlib
import types

import jax
import numpy as np
import pytest

from specjax import models
from specjax.models.family import TokenIds
from specjax.training.config import TrainConfig
from specjax.training.families import language_model
from specjax.training.families import spec_drafter as spec_drafter_family
from specjax.training.families.family import TrainingInputs

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
MEGABYTE = 1e6


def load(name):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config


@pytest.mark.parametrize(
  'name, vocab, largest',
  [
    ('demo_target', 8192, 26),
    ('demo_drafter', 8192, 3),
    ('text_target', 8192, 40),
  ],
)
def test_exported_size_in_bfloat16(name, vocab, largest):
  config = load(name)()
  made = language_model.new_config(
    config.model, TokenIds(vocab, start=0, pad=0, eos=1)
  )
  if config.model.output_vocab:
    ids = tuple(range(config.model.output_vocab))
    made = made.__class__(**{**vars(made), 'output_ids': ids})
  count = sum(
    int(np.prod(leaf.shape))
    for leaf in jax.tree.leaves(models.abstract_params(made))
  )
  assert 2 * count / MEGABYTE <= largest


def test_the_bundled_spec_drafter_fits_beside_the_others():
  config = load('spec_drafter')()
  target = models.T5Config(8192, 256, 64, 512, 6, 6, 4)
  teacher = type('Teacher', (), {'config': target, 'name': 'target'})
  ids = tuple(range(config.model.output_vocab))
  tokenizer = types.SimpleNamespace(eos_token_id=1, pad_token_id=0)
  config.model.output_vocab = 0
  given = TrainingInputs(config, teacher, None, tokenizer, [])
  made = spec_drafter_family.new_config(given)
  made = dataclasses.replace(made, output_ids=ids)
  count = sum(
    int(np.prod(leaf.shape))
    for leaf in jax.tree.leaves(models.abstract_params(made))
  )
  assert 2 * count / MEGABYTE <= 7


def test_no_variant_warms_up_for_over_half_of_its_steps():
  for path in sorted(CONFIGS.glob('*.py')):
    module = importlib.import_module(f'configs.{path.stem}')
    for variant in getattr(module, 'VARIANTS', ()):
      config = module.get_config(variant.name)
      if isinstance(config, TrainConfig):
        warmup = config.optimizer.warmup_steps
        assert 2 * warmup <= config.steps, (path.stem, variant.name)
