"""Trained by the command: exact answers, and targets that do not fit."""

import warnings

import numpy as np
import pytest

import specjax
from specjax import models
from specjax.commands import train_run
from specjax.inference import assemble
from specjax.inference import memory
from specjax.inference import sources
from specjax.training import config as config_lib
from specjax.training.data import sources as sources_lib
from tests.helpers import speculators
from tests.helpers import tiny


def _run(folder, family, **changes):
  """Trains a drafter on a random target; (target, drafter, log lines)."""
  is_pairs = family == 'medusa'
  shape = tiny.T5 if is_pairs else tiny.DECODER
  target = tiny.save(folder / 'target', shape)
  lines = [f'{a}\t{a}' if is_pairs else f'{a}\n' for a in tiny.CORPUS * 4]
  data = folder / ('train.tsv' if is_pairs else 'train.txt')
  data.write_text('\n'.join(lines), encoding='utf-8')
  config = config_lib.TrainConfig(
    task='drafter',
    teacher=target,
    steps=2,
    save_every=0,
    eval_batches=1,
    eval_prompts=2,
    eval_new_tokens=8,
    model=config_lib.ModelConfig(
      family=family,
      output_vocab=40,
      tie_embeddings=False,
      **dict(width=16, layers=1, heads=2, head_dim=8, mlp=24),
    ),
    data=sources_lib.DataConfig(
      'pairs' if is_pairs else 'text',
      str(data),
      str(data),
      **dict(source_length=32, target_length=32, batch_rows=2),
    ),
    families={'speculator': {'num_draft': 3} | changes},
  )
  with warnings.catch_warnings():
    # Nobody asked for more slots than are learned.
    warnings.filterwarnings('error', message='.* slots')
    out = train_run.run(config, str(folder / 'run'), log_fn=lambda line: None)
  assert set(out.metrics) >= {'acceptance_rate', 'acceptance_1', 'loss'}
  drafter = specjax.load(folder / 'run' / 'export')
  assert drafter.config.acceptance[0] == pytest.approx(
    out.metrics['accepted_at_1'], abs=1e-4
  )
  return specjax.load(target), drafter


_PROMPTS = ['the cat sat', 'a dog', 'one two three four', 'once upon']


def _answers(target, drafter=None, **settings):
  made = specjax.generate(
    target, _PROMPTS, drafter=drafter, max_new_tokens=12, **settings
  )
  return [answer.tokens for answer in made], made


@pytest.mark.slow
@pytest.mark.parametrize(
  'family, changes, tree',
  [
    ('medusa', dict(feature='add'), '0 1 2 00 01 10 000'),
    (
      'eagle',
      dict(masks=False, feature_weight=1.0, feature_noise=0.1),
      '0 1 00 10',
    ),
    ('parallel', dict(mask_embedding='shared'), 'eagle'),
  ],
)
def test_from_a_run_to_exact_answers(tmp_path, family, changes, tree):
  target, drafter = _run(tmp_path, family, **changes)
  assert drafter.lm is None and drafter.config.kind == family
  assert len(drafter.config.output_ids) <= 40
  lent = {'embed', 'head'} & set(drafter.params)
  assert lent == ({'embed', 'head'} if family == 'parallel' else set())
  plain = _answers(target)[0]
  drawn = {'speculator': {'tree': tree}}
  made, answers = _answers(target, drafter, num_draft=3, drafters=drawn)
  assert made == plain
  counts = answers[0].counts
  kept = np.cumprod([rate or 0 for rate in counts.acceptance_by_position])
  mean = counts.num_accepted / counts.num_draft_rounds
  if counts.num_tokens < 12:  # not cut by the budget
    assert mean == pytest.approx(kept.sum())
  if family != 'medusa':
    return  # the rules know nothing of the network
  hot = dict(temperature=1.0, seed=3)
  coupled = dict(hot, verifier='coupled', num_draft=3, drafters=drawn)
  assert _answers(target, drafter, **coupled)[0] == _answers(target, **hot)[0]


def _assemble(target, drafter, num_draft):
  return assemble.assemble(
    assemble.target_of(target),
    sources.of_model(drafter),
    assemble.Settings(num_draft),
  )


def test_another_target_and_too_many_slots(tmp_path):
  drafter = specjax.load(tiny.save(tmp_path / 'a'))._replace(
    config=speculators.EAGLE, params={}, lm=None, name='mine'
  )
  target = specjax.load(tiny.save(tmp_path / 'a'))
  with pytest.raises(ValueError, match='mine was trained for another target'):
    _assemble(target, drafter, 4)
  fitting = drafter._replace(
    config=models.ParallelConfig(
      tiny.DECODER, 32, 1, kind='eagle', num_draft=4, feature='fuse'
    )
  )
  _assemble(target, fitting, 4)
  with pytest.warns(UserWarning, match='trained for 4 slots'):
    _assemble(target, fitting, 6)
  alone = memory.estimate_memory(target.config)
  both = memory.estimate_memory(target.config, drafter=fitting.config)
  assert both.parameters > alone.parameters and both.state >= alone.state
