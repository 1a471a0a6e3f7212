"""Every config file of training gives settings that validate."""

import dataclasses
import importlib.util
import pathlib
import types

import jax
import numpy as np
import pytest

from specjax import models
from specjax.models.family import TokenIds
from specjax.training.families import language_model
from specjax.training.families import spec_drafter as spec_drafter_family
from specjax.training.families import speculator_options
from specjax.training.families.family import TrainingInputs

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'
MEGABYTE = 1e6


def load(name):
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config


VARIANTS = {
  'demo_target': ('', 'sentences', 'quick'),
  'text_target': ('', 'quick'),
  'text_drafter': ('', 'quick'),
  'spec_drafter': ('', 'head', 'reduced', 'six_six', 'quick'),
  'parallel_demo': ('', *speculator_options.VARIANTS),
  'parallel_text': ('', 'quick', *speculator_options.VARIANTS),
  'demo_drafter': (
    '',
    'ce_ground_truth',
    'ce',
    'forward_kl',
    'reverse_kl',
    'jsd',
    'tv',
    'on_policy',
  ),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_variants_validate_and_others_are_refused(name):
  for variant in VARIANTS[name]:
    load(name)(variant).validate()
  with pytest.raises(ValueError, match='nonsense'):
    load(name)('nonsense')


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
