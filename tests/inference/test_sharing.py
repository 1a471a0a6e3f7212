"""Shared parts of prompts are read once, and no token depends on it."""

import dataclasses

import jax
import numpy as np
import pytest

import specjax
from specjax.checkpoints import model as model_lib
from specjax.decoding import beginnings
from specjax.inference import generate as generate_lib
from specjax.inference import planning
from specjax.inference import sharing
from specjax.inference import sources
from tests.helpers import shared_prompts

pytestmark = pytest.mark.usefixtures('quick_programs')

NEW, BEGIN = 8, 16
RNG = np.random.default_rng(0)
BEGINNING = RNG.integers(2, 61, BEGIN).tolist()
# Different behind the beginning, and one with a token of the next step.
PROMPTS = [BEGINNING + RNG.integers(2, 61, n).tolist() for n in (1, 5, 3)]
SOURCES = [prompt[BEGIN - 2 :] for prompt in PROMPTS]


def decoded(target, drafter, prompts, **settings):
  """(tokens of every answer, the job)."""
  source = sources.resolve(
    shared_prompts.drafter(drafter, target),
    target,
    sources.Loading(num_draft=3),
  )
  settings = {'costs': 'rule', 'num_draft': 3} | settings
  job = planning.plan(
    target, prompts, drafter=source, max_new_tokens=NEW, **settings
  )
  batches = list(generate_lib.stream(job))
  return [a.tokens for batch in batches for a in batch.answers], job


def whole(monkeypatch):
  """Reads every prompt by itself."""
  monkeypatch.setattr(sharing, 'attach', lambda job, prompt, *rest: prompt)


@pytest.mark.parametrize(
  'drafter, settings',
  [
    ('draft', {'temperature': 1.0}),
    # What these read is a part of what others read here and below.
    pytest.param('none', {'temperature': 1.0}, marks=pytest.mark.exhaustive),
    pytest.param('hybrid', {}, marks=pytest.mark.exhaustive),
    ('network:eagle', {'temperature': 1.0, 'verifier': 'block'}),
  ],
)
def test_a_beginning_is_read_once(drafter, settings, monkeypatch):
  target = shared_prompts.model('decoder')
  made, job = decoded(target, drafter, PROMPTS, **settings)
  assert job.sharing.num_prefilled == BEGIN + 1 + 5 + 3
  assert len(job.sharing.tokens) == BEGIN
  whole(monkeypatch)
  assert made == decoded(target, drafter, PROMPTS, **settings)[0]


@pytest.mark.parametrize(
  'kind, drafter, rows',
  [
    ('decoder', 'draft', 8),
    pytest.param('decoder', 'hybrid', 8, marks=pytest.mark.exhaustive),
    # Fewer rows than answers: places are refilled.
    ('decoder', 'network:parallel', 3),
    ('t5', 'network:spec_drafter', 8),
    pytest.param('t5', 'network:eagle', 3, marks=pytest.mark.exhaustive),
  ],
)
def test_answers_to_one_prompt_read_it_once(kind, drafter, rows, monkeypatch):
  target = shared_prompts.model(kind)
  settings = dict(num_return_sequences=4, temperature=1.0, batch_size=rows)
  made, job = decoded(target, drafter, SOURCES[:2], **settings)
  assert job.sharing.num_prefilled == sum(map(len, SOURCES[:2]))
  assert len(set(made)) > 4
  whole(monkeypatch)
  assert made == decoded(target, drafter, SOURCES[:2], **settings)[0]


def counting(lm, seen):
  """The model, noting rows and tokens of every pass over prompts."""

  def prefill(params, prompt, *, capacity):
    jax.debug.callback(lambda n: seen.append(n.shape), prompt.tokens)
    return lm.prefill(params, prompt, capacity=capacity)

  def extend(params, cache, tokens, tree=None, slots=None):
    if slots is not None:
      jax.debug.callback(lambda n: seen.append(n.shape), tokens)
    return lm.extend(params, cache, tokens, tree, slots)

  return lm._replace(prefill=prefill, extend=extend)


def test_passes_over_prompts():
  model, seen = shared_prompts.model('decoder'), []
  own = model_lib.Model.from_lm(counting(model.lm, seen), model.params)
  plain = specjax.generate(model, PROMPTS, max_new_tokens=NEW)
  made = specjax.generate(own, PROMPTS * 2, max_new_tokens=NEW, batch_size=4)
  jax.effects_barrier()
  assert [a.tokens for a in made] == 2 * [a.tokens for a in plain]
  # The beginning once, then every prompt behind it, padded to 24 columns.
  assert seen == [(1, BEGIN)] + 6 * [(1, 24 - BEGIN)]
  del seen[:]
  settings = dict(num_return_sequences=4, temperature=1.0)
  specjax.generate(own, SOURCES[:2], max_new_tokens=NEW, **settings)
  jax.effects_barrier()
  assert [shape[0] for shape in seen] == [2]


def test_a_state_may_hold_the_prompt():
  """A row that is inserted has the structure of a batch without a row."""
  drafter = specjax.Drafter(
    lambda params, prompt, prefilled, *, capacity: prompt,
    lambda params, prompt, view: (specjax.Draft(prompt.tokens[:, :3]), prompt),
    lambda params, prompt, observation: prompt,
    *(3, 3),
    insert=specjax.drafters.insert_rows,
  )
  target = shared_prompts.model('decoder')
  made, job = decoded(target, drafter, PROMPTS, batch_size=2)
  assert job.refill and len(job.sharing.tokens) == BEGIN
  plain = specjax.generate(target, PROMPTS, max_new_tokens=NEW)
  assert made == [answer.tokens for answer in plain]


def test_a_run_that_is_resumed_reads_the_same_beginning():
  target = shared_prompts.model('decoder')
  settings = dict(max_new_tokens=NEW, num_draft=0)
  prompts = [*PROMPTS, BEGINNING + [3] * 20, BEGINNING + [3] * 30]
  job = planning.plan(target, prompts, skip=3, **settings)
  assert list(job.sharing.tokens) == BEGINNING
  short = planning.plan(target, PROMPTS[:1], **settings)
  assert not short.sharing.tokens
  half = target._replace(
    params=jax.tree.map(lambda x: x.astype('bfloat16'), target.params),
    config=dataclasses.replace(target.config, dtype='bfloat16'),
  )
  assert not planning.plan(half, prompts, **settings).sharing.tokens
  t5 = shared_prompts.model('t5')
  assert not planning.plan(t5, prompts, **settings).sharing.tokens


def test_common_beginnings():
  row = list(range(40))

  def size(*rows):
    found = beginnings.common(iter(rows))
    assert list(found) == row[: len(found)]
    return len(found)

  assert size(row, row[:33]) == 32
  assert size(row, [], row[:32]) == 24
  assert size(row, row[:25] + [7] * 9, row[:30]) == 24
  assert size(row, row[:15] + [7] * 9) == 0
  assert size(row) == size([], row) == size() == 0
  assert size(row, row) == 32


def test_copies_are_laid_out_in_few_shapes():
  def rows(text):
    return [
      type('Row', (), {'prompt_index': ord(name), 'tokens': (1,)})
      for name in text
    ]

  def found(text, size=4, sequences=2):
    config = specjax.DecodeConfig(
      num_return_sequences=sequences, temperature=1.0
    )
    job = type('Job', (), {'config': config})
    places = {}
    for place, row in enumerate(rows(text)):
      places.setdefault(row.prompt_index, place)
    made = sharing._copies(job, rows(text), places, size)
    return [None if x is None else x.tolist() for x in made]

  assert found('ppqq') == [[0, 2], [0, 0, 1, 1]]
  assert found('pqqr') == [[0, 1, 3], [0, 1, 1, 2]]
  assert found('pp') == [[0, 0], [0, 0, 0, 0]]
  assert found('') == [[0, 0], [0, 0, 0, 0]]
  assert found('pqrs') == [None, None]
  assert found('pq', sequences=1) == [None, None]
  assert found('pp', size=2) == [[0], [0, 0]]
