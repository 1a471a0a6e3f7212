"""Costs of a round's parts: by the rule, measured, or kept."""

import json
import math
import stat

import jax
import pytest

import specjax
from specjax import cache
from specjax.distributed import processes
from specjax.inference import assemble
from specjax.inference import costs
from specjax.inference import generate as inference
from specjax.inference import timing
from tests.helpers import costs as helpers
from tests.helpers import own
from tests.helpers import tiny

HOT = dict(temperature=0.9, verifier='match')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  return tiny.save(folder / 'target'), tiny.save(folder / 'drafter', seed=1)


@pytest.fixture(scope='module')
def target(folders):
  return specjax.load(folders[0])


@pytest.fixture(scope='module')
def hybrid(folders):
  return specjax.Hybrid(specjax.load(folders[1]))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
  """An empty cache folder."""
  where = tmp_path / 'cache'
  monkeypatch.setenv(cache.VARIABLE, str(where))
  return where


@pytest.fixture
def clock(monkeypatch):
  return helpers.fake_clock(monkeypatch)


def test_the_rule_measures_and_reads_nothing(target, place, monkeypatch):
  helpers.keep(helpers.plan(target))
  monkeypatch.setattr(timing, 'interleaved', None)
  monkeypatch.setattr(costs, 'WORTH_SECONDS', 0.0)
  for mode, settings in (
    ('rule', HOT),
    ('rule', {}),
    ('auto', HOT | {'verifier': 'typical'}),
    ('auto', dict(dtype='bfloat16')),
  ):
    job = helpers.plan(target, costs=mode, batch_size=1, **settings)
    assert job.data.costs == costs.rule(job.assembled, job.batch_size)
    assert len(helpers.run(job)) == 3
  assert len(helpers.files(place)) == 1


def test_measured_once_and_then_read(target, place, clock, monkeypatch):
  job = helpers.plan(target, costs='measure', **HOT)
  assert job.data.costs.origin == 'rule' and not helpers.files(place)
  plain = helpers.run(helpers.plan(target, drafter=None, **HOT))
  assert helpers.run(job) == plain
  (file,) = helpers.files(place)
  assert file == place / 'costs' / costs.key(job.assembled, 4)
  assert stat.S_IMODE(place.stat().st_mode) == 0o700
  found = json.loads(file.read_text())
  assert found['draft'] == 0 and found['blocks'] == pytest.approx({'4': 5.0})
  taken = list(clock)
  assert taken
  for mode in ('measure', 'auto'):
    job = helpers.plan(target, costs=mode, **HOT)
    assert job.data.costs.origin == 'measured'
    assert job.data.costs.blocks == pytest.approx({4: 5.0})
    assert helpers.run(job) == plain
  assert clock == taken
  # Of another batch size nothing is known.
  assert (
    helpers.plan(target, costs='auto', batch_size=2).data.costs.origin == 'rule'
  )


def test_the_model_beside_a_search_is_timed_too(target, hybrid, place, clock):
  job = helpers.plan(target, hybrid, costs='measure', num_draft=6)
  helpers.run(job)
  found = json.loads(helpers.files(place)[0].read_text())
  assert found['blocks'] == pytest.approx({'4': 5.0, '6': 7.0})
  assert found['draft'] == pytest.approx(3.0)


def test_a_real_measurement(target, place, monkeypatch):
  """Real programs; the time is counted in steps, whatever the machine."""
  seconds = []
  timer = timing.timer

  def counting(*arguments):
    made = timer(*arguments)

    def one(steps):
      seconds.append(made(steps))
      return seconds[-1]

    return one

  monkeypatch.setattr(timing, 'timer', counting)
  helpers.run(helpers.plan(target, costs='measure'))
  job = helpers.plan(target)
  assert job.data.costs.origin == 'measured'
  assert all(0 < x < math.inf for x in job.data.costs.blocks.values())
  # The bound holds but for what else this machine is doing.
  assert sum(seconds) < 3 * costs.SECONDS


@pytest.mark.parametrize('count', [2, 4])
@pytest.mark.parametrize('step', [1e-6, 1e-4, 0.003, 0.01, 0.03, 0.1, 0.2])
def test_two_seconds_are_enough_for_a_target_of_any_speed(step, count):
  spent = [0.0]

  def timer(steps):
    taken = 1e-5 + step * steps
    spent[0] += taken
    return taken

  found = timing.interleaved(
    [timer] * count,
    samples=3,
    seconds=costs.SECONDS / (8 * count),
    limit=costs.SECONDS,
  )
  assert found == pytest.approx([1e3 * step] * count)
  assert spent[0] < costs.SECONDS


def test_a_long_job_is_measured_after_its_first_batch(
  target, place, clock, monkeypatch
):
  plain = helpers.run(helpers.plan(target, drafter=None, batch_size=1, **HOT))
  assert helpers.run(helpers.plan(target, batch_size=1, **HOT)) == plain
  assert not clock
  monkeypatch.setattr(costs, 'WORTH_SECONDS', 0.0)
  lines = []
  job = helpers.plan(target, batch_size=1, **HOT)
  batches = inference.stream(job, lines.append)
  answers = (answer for batch in batches for answer in batch.answers)
  found = [next(answers).tokens]
  assert not clock
  found += [answer.tokens for answer in answers]
  assert clock and found == plain
  assert lines == ['Measuring what a block costs on this machine.']


def test_costs_are_data_of_the_program(target, hybrid):
  """Other costs, another behaviour, the same compiled program."""
  for drafter in ('suffix', hybrid):
    calls = []
    for dear in (0.0, 1e6):
      helpers.keep(helpers.plan(target, drafter), 1.0 + dear, dear)
      job = helpers.plan(target, drafter)
      assert job.data.costs.origin == 'measured'
      compiled = assemble._jitted._cache_size()
      answers = [a for b in inference.stream(job) for a in b.answers]
      calls.append((compiled, [a.tokens for a in answers]))
      calls.append(sum(a.counts.num_drafted for a in answers))
    (_, first), drafted, (before, second), nothing = calls
    assert first == second
    assert drafted > 0 and nothing == 0
    assert assemble._jitted._cache_size() == before


@pytest.mark.parametrize(
  'verifier', ['sampling', 'block', 'lenient', 'match', 'coupled', own.AGREE]
)
def test_costs_decide_no_text(target, hybrid, verifier):
  """Under rules whose tokens depend on the draft they are not asked."""
  settings = dict(verifier=verifier, temperature=0.9, seed=4)
  before = helpers.run(helpers.plan(target, hybrid, costs='rule', **settings))
  helpers.keep(helpers.plan(target, hybrid), 1e6, 1e6)
  job = helpers.plan(target, hybrid, **settings)
  # Rules that weigh probabilities run as `coupled`.
  keeps = verifier in ('sampling', 'block', 'match', 'coupled')
  assert job.data.costs.origin == ('measured' if keeps else 'rule')
  assert helpers.run(job) == before
  # Asked for, they are.
  job = helpers.plan(target, hybrid, costs='measure', **settings)
  assert job.data.costs.origin == 'measured'


def test_costs_decide_no_text_of_trees(target):
  tree = dict(drafters={'suffix': {'tree': 2}}, verifier='typical')
  settings = dict(temperature=0.9, seed=4, **tree)
  before = helpers.run(helpers.plan(target, costs='rule', **settings))
  helpers.keep(helpers.plan(target, **settings))
  job = helpers.plan(target, **settings)
  assert job.data.costs.origin == 'rule' and helpers.run(job) == before


@pytest.mark.parametrize('dtype', ['bfloat16', 'w8a8'])
def test_costs_decide_nothing_where_a_width_changes_tokens(folders, dtype):
  target = specjax.load(folders[0], dtype=dtype)
  helpers.keep(helpers.plan(target, dtype=dtype))
  assert helpers.plan(target, dtype=dtype).data.costs.origin == 'rule'
  job = helpers.plan(target, dtype=dtype, costs='measure')
  assert job.data.costs.origin == 'measured'


def test_whose_costs_they_are(target, hybrid, folders):
  def key(model=target, drafter='suffix', **settings):
    job = helpers.plan(model, drafter, **settings)
    return costs.key(job.assembled, job.batch_size)

  one = key()
  assert one == key(seed=3, temperature=0.5, max_new_tokens=3)
  other = jax.tree.map(lambda x: 2 * x, target.params)
  assert one == key(target._replace(params=other))
  layout = specjax.make_layout(specjax.MeshConfig((2, 4)))
  different = [
    one,
    key(batch_size=2),
    key(num_draft=5),
    key(drafter=hybrid),
    key(specjax.load(folders[0], dtype='bfloat16'), dtype='bfloat16'),
    key(specjax.load(folders[0], layout=layout)),
  ]
  assert len(set(different)) == len(different)
  assert all(name.endswith('.json') for name in different)
  # A model without settings has no key of its own.
  assert key(own.target()) == ''


def test_a_target_of_ones_own_is_measured_and_not_kept(place, clock):
  target = own.target()
  assert helpers.run(helpers.plan(target, costs='measure')) == helpers.run(
    helpers.plan(target, None)
  )
  assert clock and not helpers.files(place)


def test_processes_share_what_the_first_finds(target, monkeypatch):
  """One that has no folder takes the costs of process 0."""
  theirs = {'blocks': {'4': 9.0}, 'draft': 0.0}
  monkeypatch.setattr(processes, 'is_first', lambda: False)
  monkeypatch.setattr(processes, 'from_first', lambda value: theirs)
  monkeypatch.setattr(cache, 'read', None)
  found = helpers.plan(target).data.costs
  assert found.origin == 'measured' and found.blocks == {4: 9.0}


def test_the_modes_are_named(target):
  with pytest.raises(
    ValueError, match='costs must be one of auto, measure, ru'
  ):
    helpers.plan(target, costs='cheap')
