"""Rows that take the places of finished ones have the answers of batch 1."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax.checkpoints import load as loading
from specjax.decoding import generate as generate_lib
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference import refill
from specjax.inference import windows
from tests.helpers import compilations
from tests.helpers import fakes
from tests.helpers import meshes
from tests.helpers import own
from tests.helpers import tiny

pytestmark = pytest.mark.usefixtures('quick_programs')

NEW = 12
# Of its own, so that only a prompt with it meets logits that are no numbers.
BROKEN = 95
DRAFTERS = ('none', 'prompt_lookup', 'suffix', 'token_recycling', 'draft')
DRAFTERS += ('hybrid', 'unigram')
RULES = ('greedy', 'match', 'coupled', 'sampling', 'lenient')
SIZES = (1, 4, 16)
ENDS = ('end', 'budget', 'stop', 'nan')


def prompts(broken=False):
  rng = np.random.default_rng(1)
  lengths = [3, 30, 1, 27, 8, 2, 26, 5, 12, 29, 4]
  made = [rng.integers(4, 90, n).tolist() for n in lengths]
  if broken:
    made[7][-1] = BROKEN
  return made


@functools.cache
def target():
  """A language with varied answers, in which no likely token breaks."""
  params = own.language(strength=3.0)
  table = params['table'].at[:, :, BROKEN].set(-30.0)
  table = table.at[:, BROKEN].set(jnp.nan)
  return own.target()._replace(params={**params, 'table': table})


@functools.cache
def drafter(name):
  if name not in ('draft', 'hybrid'):
    return name
  noisy = jax.tree.map(
    lambda x, y: x + 0.5 * y,
    own.language(strength=3.0),
    fakes.markov_params(5, own.VOCAB, 1.0),
  )
  model = own.target(tokenizer=True)._replace(params=noisy, name='draft')
  return specjax.Hybrid(model) if name == 'hybrid' else model


def job_of(name, rule, end, **settings):
  settings = dict(batch_size=1, num_draft=3, window=2) | settings
  return planning.plan(
    target(),
    prompts(broken=end == 'nan'),
    drafter=drafter(name),
    verifier=rule,
    temperature=0.0 if rule == 'greedy' else 1.0,
    seed=3,
    stop='["on","ran"]' if end == 'stop' else '',
    stop_token_ids='[]' if end == 'budget' else '[10, 20, 30, 40, 50, 60]',
    max_new_tokens=[NEW, 3, 7, NEW, 1, NEW, 5, 9, NEW, 2, 6],
    **settings,
  )


def answers_of(job):
  """Every answer, as far as it must be the same, and the error at the end."""
  found, error = [], ''
  try:
    for batch in inference.stream(job):
      found += [(a.tokens, a.text, a.finish_reason) for a in batch.answers]
  except FloatingPointError as raised:
    error = str(raised)
  return found, error


@functools.cache
def alone(name, rule, end):
  """Answers of an uninterrupted run at batch 1, in the input's order."""
  if rule in ('match', 'coupled', 'greedy'):
    # These rules keep the tokens of plain decoding.
    name, rule = 'none', 'greedy' if rule == 'greedy' else 'match'
  job = job_of(name, rule, end)
  # Of one width, which takes one program.
  batches = [windows.RowGroup((place,), 32) for place in range(len(job.rows))]
  return answers_of(
    dataclasses.replace(job, refill=None, batches=tuple(batches))
  )


# Each rule with each batch, each drafter twice, and every end; each case is two
# runs, one of which goes on.
CASES = (
  ('none', 'match', 4, 'budget'),
  ('none', 'sampling', 16, 'nan'),
  ('prompt_lookup', 'greedy', 16, 'stop'),
  ('prompt_lookup', 'lenient', 1, 'nan'),
  ('suffix', 'coupled', 4, 'end'),
  ('suffix', 'sampling', 1, 'stop'),
  ('token_recycling', 'match', 16, 'end'),
  ('token_recycling', 'greedy', 4, 'budget'),
  ('draft', 'sampling', 4, 'end'),
  ('draft', 'lenient', 16, 'stop'),
  ('draft', 'coupled', 1, 'budget'),
  ('hybrid', 'greedy', 1, 'nan'),
  ('hybrid', 'coupled', 16, 'stop'),
  ('unigram', 'lenient', 4, 'end'),
  ('unigram', 'match', 1, 'stop'),
)


# Drafts that depend on the batch, under a rule whose tokens depend on them.
LOSSY = list(
  itertools.product(('suffix', 'token_recycling', 'hybrid'), ['lenient'])
)
GRID = [
  case
  for case in itertools.product(DRAFTERS, RULES, SIZES, ENDS)
  if case[:2] not in LOSSY
]


def check(monkeypatch, name, rule, size, end):
  # A prefill program for each bucket, however few prompts there are.
  monkeypatch.setattr(windows, '_WORTH_A_PROGRAM', 1)
  expected, error = alone(name, rule, end)
  assert len(expected) == (7 if end == 'nan' else 11)
  assert ('Prompt 8: ' in error) == (end == 'nan')
  job = job_of(name, rule, end, batch_size=size)
  assert job.refill is not None and len(job.refill.prompts) > 1
  assert answers_of(job) == (expected, error)
  # A run that goes on behind five answers.
  job = job_of(name, rule, end, batch_size=size, skip=5)
  assert answers_of(job) == (expected[5:], error)


@pytest.mark.parametrize('name, rule, size, end', CASES)
def test_answers_are_those_of_batch_1(monkeypatch, name, rule, size, end):
  check(monkeypatch, name, rule, size, end)


@pytest.mark.exhaustive
@pytest.mark.parametrize('name, rule, size, end', GRID)
def test_every_combination(monkeypatch, name, rule, size, end):
  check(monkeypatch, name, rule, size, end)


def test_rows_end_in_every_way():
  """The cases above show something: each way to end occurs among others."""
  assert {case[1:3] for case in CASES} == set(itertools.product(RULES, SIZES))
  assert {case[0] for case in CASES} == set(DRAFTERS)
  assert {case[3] for case in CASES} == set(ENDS)
  reasons = {
    end: {a[2] for a in alone('none', 'match', end)[0]} for end in ENDS
  }
  assert 'eos' in reasons['end'] and reasons['budget'] == {'length'}
  assert {'stop', 'length'} <= reasons['stop']


def test_programs_are_made_once_and_beforehand(monkeypatch):
  """One prefill for each prompt width and one loop for each of batches."""
  made = {'insert': 0, 'run': 0}

  def counting(name):
    real = getattr(generate_lib, name)

    def traced(*args, **more):
      made[name] += 1
      return real(*args, **more)

    monkeypatch.setattr(generate_lib, name, traced)

  counting('insert')
  counting('run')
  monkeypatch.setattr(windows, '_WORTH_A_PROGRAM', 1)
  long = [list(range(4, 80))] * 2
  job = planning.plan(
    target(), [*prompts(), *long, *prompts()], batch_size=2, max_new_tokens=NEW
  )
  assert job.refill == windows.Widths((16, 32, 96), (16, 96))
  inference.warm_up(job)
  assert made == {'insert': 3, 'run': 2}
  list(inference.stream(dataclasses.replace(job, rows=job.rows)))
  with compilations.counted() as found:
    answers = [a for b in inference.stream(job) for a in b.answers]
  assert len(answers) == 24 and not found
  assert made == {'insert': 3, 'run': 2}


def test_nothing_is_compiled_where_all_answers_exist(monkeypatch):
  made = prompts()
  job = planning.plan(
    target(), made, skip=len(made), batch_size=2, max_new_tokens=NEW
  )
  assert job.refill is not None and not job.batches
  monkeypatch.setattr(refill.Places, 'compile', None)
  inference.warm_up(job)
  assert list(inference.stream(job)) == []


def test_a_drafter_without_insert_decodes_whole_batches():
  settings = dict(max_new_tokens=NEW, batch_size=4)
  job = planning.plan(target(), prompts(), drafter=own.successors(), **settings)
  plain = planning.plan(target(), prompts(), **settings)
  assert job.refill is None and plain.refill is not None
  assert [row[0] for row in answers_of(job)[0]] == [
    row[0] for row in answers_of(plain)[0]
  ]


@pytest.mark.parametrize('kind', ['DECODER', 'T5'])
def test_rows_are_refilled_on_a_mesh(tmp_path, kind):
  """Two devices of rows and four of heads, and fresh rows for any."""
  folder = tiny.save(tmp_path, getattr(meshes, kind))
  made = [[5, 6, 7, 2], [8] * 20 + [2], [9, 2], [10, 11, 2]] * 3
  budgets = [9, 3, 6, 2, 8, 4, 1, 9, 3, 7, 2, 5]
  settings = dict(max_new_tokens=budgets, batch_size=4)
  plain = specjax.generate(specjax.load(folder), made, **settings)
  sharded = loading.load(folder, layout=meshes.layout_of(2, 4))
  job = planning.plan(sharded, made, **settings)
  assert job.refill is not None
  inference.warm_up(job)
  with compilations.counted() as found:
    answers = [a for b in inference.stream(job) for a in b.answers]
  assert [a.tokens for a in answers] == [a.tokens for a in plain]
  assert not found


def test_no_answer_waits_for_more_than_a_window():
  """A row is begun when the first unwritten one is less than a window away."""
  made = [[5, 6]] * 40
  budgets = [60, *[2] * 39]
  job = planning.plan(
    target(),
    made,
    batch_size=4,
    window=2,
    max_new_tokens=budgets,
    ignore_eos=True,
  )
  sizes = [len(batch.answers) for batch in inference.stream(job)]
  # Of the first window seven rows are done when its first row is.
  first = next(filter(None, sizes))
  assert first == 8 and sum(sizes) == 40


def test_blank_rows_hold_nobody_up():
  """More blank prompts in front than a window has rows."""
  made = [*[[]] * 9, *prompts()]
  job = planning.plan(
    target()._replace(tokenizer=None),
    made,
    batch_size=2,
    window=1,
    max_new_tokens=4,
  )
  assert job.refill is not None
  answers = [a for b in inference.stream(job) for a in b.answers]
  assert [a.finish_reason == 'empty' for a in answers] == [True] * 9 + [
    False
  ] * 11


def test_places_are_busy():
  """2,000 short prompts: a place is empty in at most 5 % of the rounds."""
  rng = np.random.default_rng(0)
  made = [
    rng.integers(4, 90, rng.integers(1, 15)).tolist() for _ in range(2000)
  ]
  job = planning.plan(
    target(), made, batch_size=32, max_new_tokens=40, temperature=1.0
  )
  batches = list(inference.stream(job))
  busy = sum(batch.row_rounds for batch in batches)
  assert busy >= 0.95 * sum(batch.all_rounds for batch in batches)
  assert sum(len(batch.answers) for batch in batches) == 2000
  # Whole batches wait for their slowest rows.
  whole = dataclasses.replace(job, refill=None, batches=job.batches[:8])
  batches = list(inference.stream(whole))
  busy = sum(batch.row_rounds for batch in batches)
  assert busy < 0.9 * sum(batch.all_rounds for batch in batches)


def test_a_window_of_0_is_refused():
  with pytest.raises(
    ValueError, match='window must be a whole number, 1 or more'
  ):
    planning.plan(target(), prompts(), window=0)
