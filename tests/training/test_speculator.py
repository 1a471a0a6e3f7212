"""Group-wise training: what counts, in which layout, and that it learns."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import specjax
from specjax import models
from specjax.commands import train_run
from specjax.inference import assemble
from specjax.inference import memory
from specjax.inference import sources
from specjax.models.speculator import modeling as network_lib
from specjax.training import config as config_lib
from specjax.training.data import sources as sources_lib
from specjax.training.families import speculator as speculator_family
from specjax.training.families import speculator_rows
from specjax.training.families import speculator_settings
from tests.helpers import speculator_logits
from tests.helpers import speculators
from tests.helpers import tiny

Settings = speculator_settings.ParallelSettings
TEACHER = models.Decoder(speculators.TRUNK)


def _batch(rng, segments, vocab=speculators.VOCAB):
  made = speculators.rows(speculators.TOKEN_ONLY, segments)
  segments = np.asarray(made.segments)
  whole = rng.integers(0, vocab, (segments.shape[0], segments.shape[1] + 1))
  weight = (segments > 0) & (np.asarray(made.positions) != 2)
  return {
    'tokens': jnp.asarray(whole[:, :-1]),
    'target': jnp.asarray(whole[:, 1:]),
    'segments': jnp.asarray(segments),
    'positions': made.positions,
    'weight': jnp.asarray(weight, jnp.float32),
  }


def _loss(config, learning=None, **settings):
  learning = learning or config_lib.ObjectiveConfig()
  made = speculator_family.objective(
    config, TEACHER, Settings(**settings), learning
  )
  return jax.jit(made.loss)


@pytest.fixture(name='given', scope='module')
def given_fixture():
  frozen = models.init_params(speculators.TRUNK, jax.random.key(9))
  params = network_lib.own(
    speculators.EAGLE, speculators.params(speculators.EAGLE)
  )
  rng = np.random.default_rng(0)
  return params, frozen, _batch(rng, ['111112222222', '111111111000'])


def test_the_loss_is_the_sum_over_slots(given):
  """Against loops over anchors and depths, on the data's tokens."""
  params, frozen, batch = given
  config, decay = speculators.EAGLE, 0.7
  total, weight, _ = _loss(config, num_draft=4, depth_decay=decay)(
    params, frozen, batch, None
  )
  rows = speculator_rows.rows_of(
    speculator_rows.teacher_of(TEACHER), frozen, batch
  )
  bound = network_lib.bind(config, params, frozen)
  anchors = jnp.broadcast_to(jnp.arange(12), (2, 12))
  logits = speculator_logits.trained_logits(config)(bound, rows, anchors)
  log_q = np.asarray(jax.nn.log_softmax(logits))
  wanted = count = 0.0
  segments = np.asarray(batch['segments'])
  for depth, b in itertools.product(range(4), range(2)):
    for a in range(12 - depth):
      there = segments[b, a + depth]
      if there and there == segments[b, a] and batch['weight'][b, a + depth]:
        wanted -= (
          decay**depth * log_q[b, a, depth, batch['target'][b, a + depth]]
        )
        count += decay**depth
  assert float(weight) == pytest.approx(count)
  assert float(total) == pytest.approx(wanted, rel=1e-5)


def test_chunks_and_fewer_groups_have_the_same_loss(given):
  params, frozen, batch = given
  learning = config_lib.ObjectiveConfig(name='forward_kl')
  whole = _loss(speculators.EAGLE, learning, num_draft=4)(
    params, frozen, batch, None
  )
  learning.chunk = 5
  chunked = _loss(speculators.EAGLE, learning, num_draft=4, anchor_chunk=5)(
    params, frozen, batch, None
  )
  for name in whole[2]:
    assert float(chunked[2][name]) == pytest.approx(float(whole[2][name]), 1e-4)
  assert float(chunked[0]) == pytest.approx(float(whole[0]), rel=1e-5)
  some = _loss(
    speculators.EAGLE,
    learning,
    num_draft=4,
    anchors=6,
    anchor_chunk=3,
    keep=0.6,
  )
  drawn = [
    float(some(params, frozen, batch, jax.random.key(i))[0]) for i in range(60)
  ]
  error = np.std(drawn) / np.sqrt(len(drawn))
  assert error > 0
  # Ratios of small samples are a little biased, hence not three.
  assert abs(np.mean(drawn) - float(whole[0])) < 4 * error + 0.01 * whole[0]


def test_a_kept_slot_keeps_its_group():
  settings = Settings(keep=0.5, keep_least=0.3)
  kept = speculator_rows.kept_groups(20, settings, 6)
  assert kept == [10, 6, 6, 6, 6]
  assert speculator_rows.kept_groups(20, Settings(), 3) == [20, 20]
  parts = speculator_rows.plan(kept, 4)
  assert parts == [(0, 2, 5), (2, 1, 1)]
  assert speculator_rows.plan([7, 7], 3) == [(0, 3, 2)]
  segments = jnp.asarray([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
  chosen = np.asarray(
    speculator_rows.choose_anchors(segments, 3, jax.random.key(1))
  )
  assert sorted(chosen[0]) == [0, 1, 2] and len(set(chosen[1])) == 3


@pytest.mark.slow
def test_it_learns_what_can_be_learnt():
  """Periodic text is known at every depth; noise at none, but its law."""
  config = speculators.TOKEN_ONLY
  learner = speculator_family.objective(
    config, TEACHER, Settings(num_draft=4), config_lib.ObjectiveConfig()
  )
  frozen = models.init_params(speculators.TRUNK, jax.random.key(9))
  optimizer = optax.adam(1e-2)
  rng = np.random.default_rng(5)
  law = rng.dirichlet(np.full(speculators.VOCAB, 0.5))

  def texts(periodic):
    if not periodic:
      return rng.choice(speculators.VOCAB, (150, 8, 25), p=law)
    motif = rng.permuted(np.tile(np.arange(8), (150, 8, 1)), axis=-1)[..., :3]
    return np.tile(motif, 9)[..., :25]

  def batch_of(text):
    ones = jnp.ones(text[..., 1:].shape, jnp.int32)
    places = jnp.arange(24, dtype=jnp.int32) * ones
    return {
      'tokens': text[..., :-1],
      'target': text[..., 1:],
      'segments': ones,
      'positions': places,
      'weight': ones.astype(jnp.float32),
    }

  @jax.jit
  def fit(params, text):
    def step(carry, batch):
      params, state = carry

      def mean(params):
        total, weight, _ = learner.loss(params, frozen, batch, None)
        return total / weight

      updates, state = optimizer.update(jax.grad(mean)(params), state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), batch_of(text))[
      0
    ][0]

  start = network_lib.init(config, jax.random.key(0))
  for periodic in (True, False):
    trained = fit(start, jnp.asarray(texts(periodic)))
    text = texts(periodic)[0]
    rows = speculators.rows(config, ['1' * 24] * 8)
    rows = rows._replace(tokens=jnp.asarray(text[:, :-1]))
    anchors = jnp.broadcast_to(jnp.arange(24), (8, 24))
    logits = np.asarray(
      speculator_logits.trained_logits(config)(trained, rows, anchors)
    )
    for depth in range(4):
      seen = slice(6, 24 - depth)
      label = text[:, 7 + depth :]
      if periodic:
        assert (logits[:, seen, depth].argmax(-1) == label).mean() > 0.97
      else:
        log_q = np.asarray(jax.nn.log_softmax(logits[:, seen, depth]))
        # Expected under the law itself, so that the sample adds no noise.
        cost = -(log_q * law).sum(-1).mean()
        assert cost - -(law * np.log(law)).sum() < 0.15


def test_settings_that_cannot_work():
  def config(family='parallel', **changes):
    made = config_lib.TrainConfig(
      task='drafter',
      teacher='t',
      model=config_lib.ModelConfig(family=family),
      data=sources_lib.DataConfig(train='x'),
    )
    for name, value in changes.items():
      holder, _, field = name.rpartition('__')
      setattr(getattr(made, holder) if holder else made, field, value)
    return made

  config('eagle').validate()
  for made, message in (
    (config(parallel__masks=False), 'ordinary draft model'),
    (config(parallel__feature_weight=1.0), 'feature_weight'),
    (config(parallel__keep=0.0), 'parallel.keep'),
    (config(parallel__num_draft=0), 'num_draft'),
    (config('medusa', parallel__mask_feature='x'), 'mask_feature'),
    (config('eagle', task='target'), "task='drafter'"),
    (
      config('eagle', data__on_policy_fraction=0.5, data__pack=False),
      'on_policy_fraction',
    ),
    (config(model__output_vocab=9), 'tie_embeddings'),
  ):
    with pytest.raises(ValueError, match=message):
      made.validate()
  # A run begun before these settings existed goes on.
  old = config_lib.to_dict(config('t5'))
  del old['parallel']
  assert not config_lib.difference(old, config_lib.to_dict(config('t5')))
  assert config_lib.difference(
    old, config_lib.to_dict(config(parallel__keep=0.5))
  )


def _run(folder, family, **changes):
  """Trains a drafter on a random target; (target, drafter, what was told)."""
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
      family=family, width=16, layers=1, heads=2, head_dim=8, mlp=24,
      output_vocab=40, tie_embeddings=False,
    ),
    data=sources_lib.DataConfig(
      kind='pairs' if is_pairs else 'text', train=str(data), valid=str(data),
      source_length=32, target_length=32, batch_rows=2,
    ),
    parallel=Settings(num_draft=3, **changes),
  )  # fmt: skip
  with warnings.catch_warnings():
    # Nobody asked for more slots than are learned.
    warnings.filterwarnings('error', message='.* slots')
    out = train_run.run(config, str(folder / 'run'), report=lambda line: None)
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
