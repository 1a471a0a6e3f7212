"""Spec-Drafters trained end to end for a toy target, by the shipped recipe."""

import hashlib
import json

import jax
import numpy as np
import pytest

import specjax
from specjax import models
from specjax.commands import label as label_command
from specjax.commands import train_run
from specjax.inference import sources
from specjax.inference.config import DecodeConfig
from specjax.training import build
from tests.helpers import tiny
from tests.helpers import toy
from tests.helpers.settings import assign

SLOTS = 'families__spec_drafter__'
DRAFTER = {
  'task': 'drafter',
  'tokenizer': '',
  'save_every': 0,
  'data__batch_rows': 16,
  'data__train': '',
  'data__labelled_fraction': 1.0,
  'model__family': 'spec_drafter',
  'model__encoder_layers': 2,
  'model__tie_embeddings': False,
  'model__output_vocab': 60,
  'optimizer__schedule': 'rsqrt',
  'optimizer__warmup_steps': 40,
  'objective__label_smoothing': 0.1,
  'eval_draft': 6,
  SLOTS + 'block': 8,
  SLOTS + 'block_min': 3,
  SLOTS + 'window': 6,
  SLOTS + 'cuts': 4,
}


def quiet(line):
  del line


def digest(folder):
  return hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  """A target that knows the toy language, and its own outputs."""
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder)
  config = toy.config(folder, steps=450, save_every=0, data__batch_rows=16)
  config.data.valid = ''
  train_run.run(config, str(folder / 'target'), log_fn=quiet)
  label_command.label(
    label_command.LabelRequest(
      target=str(folder / 'target' / 'export'),
      drafter='',
      inputs=(str(folder / 'train.tsv'),),
      field='source',
      output=str(folder / 'own.jsonl'),
      limit=0,
      config=DecodeConfig(max_new_tokens=16, batch_size=32),
    )
  )
  return folder


def settings(files, **changes):
  given = {
    'teacher': str(files / 'target' / 'export'),
    'data__labelled': str(files / 'own.jsonl'),
  }
  return toy.config(files, **DRAFTER | given | changes)


def test_a_trained_drafter_saves_target_calls(files, tmp_path):
  """Also: the target stays as it is, and average, export and load agree."""
  export = files / 'target' / 'export'
  before = digest(export)
  # Held-out sources are of another kind here; those seen show what was learnt.
  config = settings(
    files,
    steps=160,
    save_every=5,
    average_last=2,
    data__valid=str(files / 'train.tsv'),
  )
  out = train_run.run(config, str(tmp_path), log_fn=quiet)
  assert out.metrics['acceptance_rate'] > 0.8
  assert out.metrics['block_efficiency'] > 4
  assert digest(export) == before
  drafter = specjax.load(tmp_path / 'export')
  card = (tmp_path / 'export' / 'README.md').read_text()
  assert 'specjax_spec_drafter drafter' in card and '160 steps' in card
  assert drafter.config.max_source_positions == 32
  target = specjax.load(export)
  prompts = [source for source, _ in toy.pairs(8, first=30)]
  plain = specjax.generate(target, prompts, max_new_tokens=16)
  made = specjax.generate(
    target, prompts, drafter=drafter, num_draft=6, max_new_tokens=16
  )
  assert [a.tokens for a in made] == [a.tokens for a in plain]
  calls = sum(a.counts.num_target_calls for a in made)
  assert 4 * calls < sum(len(a.tokens) for a in made)
  _refused_with_the_drafter(target, drafter, tmp_path)


def test_an_encoder_may_begin_as_the_targets(files):
  parts = build.build(
    settings(files, families__spec_drafter__init_encoder=True)
  )
  params = parts.init(jax.random.key(0))
  teacher = parts.teacher.params
  np.testing.assert_array_equal(
    params['embed']['weight'], teacher['embed']['weight']
  )
  ours, theirs = params['encoder'], teacher['encoder']
  jax.tree.map(
    np.testing.assert_array_equal, ours['layers_0'], theirs['layers_0']
  )
  # The drafter is deeper than this target.
  assert 'layers_1' in ours and 'layers_1' not in theirs


def _top_candidates(**dials):
  return {
    'verifier': 'top_candidates',
    'verifiers': {'top_candidates': dials},
  }


def _refused_with_the_drafter(target, drafter, tmp_path):
  """A target and a drafter that do not fit are refused before decoding."""
  rows = [[5] * 40]
  for prompts, changes, words in (
    (rows, {}, 'Prompt 1 has 40 tokens, but the drafter .* at most 32'),
    ('ba do', {'num_draft': 9}, 'at most 8 tokens at once'),
    ('ba do', {'num_draft': -1}, 'num_draft must be'),
    ('ba do', _top_candidates(beta=0), 'beta must be'),
    ('ba do', _top_candidates(tau=-0.5), 'tau must be'),
    ('ba do', _top_candidates(beta=10**6), 'beta must be at most'),
  ):
    with pytest.raises(ValueError, match=words):
      specjax.generate(target, prompts, drafter=drafter, **changes)
  other = specjax.load(tiny.save(tmp_path / 'other', tiny.T5))
  with pytest.raises(ValueError, match='The tokenizer of .* differs'):
    specjax.generate(other, 'the cat', drafter=drafter)
  with pytest.raises(ValueError, match='name it without hybrid'):
    sources.resolve(f'hybrid:{drafter.name}')


def test_heads_learn_from_the_frozen_state_of_another_size(files, tmp_path):
  """A second, larger target; and the data's own targets in place of labels."""
  larger = toy.config(
    files,
    steps=150,
    save_every=0,
    data__batch_rows=16,
    model__width=48,
    model__encoder_layers=2,
  )
  larger.data.valid = ''
  train_run.run(larger, str(tmp_path / 'target'), log_fn=quiet)
  config = settings(
    files,
    steps=60,
    teacher=str(tmp_path / 'target' / 'export'),
    model__family='blockwise',
    model__mlp=16,
    data__labelled='',
    data__labelled_fraction=0.0,
    data__train=str(files / 'train.tsv'),
    data__valid=str(files / 'train.tsv'),
  )
  parts = build.build(config)
  before = jax.tree.map(np.array, parts.frozen)
  out = train_run.run(config, str(tmp_path / 'heads'), log_fn=quiet)
  assert out.metrics['block_efficiency'] > 1.15
  jax.tree.map(np.testing.assert_array_equal, before, parts.frozen)
  heads = specjax.load(tmp_path / 'heads' / 'export')
  assert isinstance(heads.config, models.BlockwiseConfig)
  wide = specjax.load(tiny.save(tmp_path / 'wide', tiny.T5))
  wide = wide._replace(
    config=models.T5Config(**{**vars(wide.config), 'd_model': 40}),
    tokenizer=heads.tokenizer,
  )
  with pytest.raises(ValueError, match='states of width 48'):
    specjax.generate(wide, [[3, 4]], drafter=heads)


def test_settings_that_cannot_work(files, tmp_path):
  text = tiny.save(tmp_path / 'text', tiny.DECODER)
  for changes, words in (
    ({SLOTS + 'block': 0}, 'spec_drafter.block must be at least 1'),
    ({SLOTS + 'block': 40, 'eval_draft': 4}, 'exceeds data.target_length'),
    ({'eval_draft': 9}, 'eval_draft=9 exceeds families.spec_drafter.block=8'),
    ({SLOTS + 'block_min': 9}, 'spec_drafter.block_min must lie between'),
    ({SLOTS + 'reveal_first': 1.5}, 'spec_drafter.reveal_first must lie'),
    ({'objective__name': 'forward_kl'}, "needs objective.name='cross_entropy'"),
    ({'data__kind': 'text'}, "needs data.kind='pairs'"),
    (
      {'task': 'target', 'tokenizer': 'x', 'model__output_vocab': 0},
      "needs task='drafter'",
    ),
    ({'teacher': text}, 'drafts for T5 targets'),
    ({SLOTS + 'init_encoder': True, 'model__mlp': 32}, 'd_ff is 64 there'),
    ({'init_from': str(files / 'target' / 'export')}, 'init_from names a t5'),
  ):
    changes.setdefault('model__output_vocab', 60)
    with pytest.raises(ValueError, match=words):
      build.build(assign(settings(files), **changes))


def test_old_runs_know_nothing_of_slots(files):
  old = json.loads((files / 'target' / 'config.json').read_text())
  assert 'slots' not in old
