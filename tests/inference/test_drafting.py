"""Drafters by name, hybrids, and corpora kept from run to run."""

import os
import re
import types

import numpy as np
import pytest

import specjax
from specjax.commands import decode_file
from specjax.decoding.drafters.entry import DraftPlan
from specjax.distributed import mesh as mesh_lib
from specjax.inference import costs
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference import sources
from tests.helpers import tiny

PROMPTS = ['the cat', 'a dog ran to the', 'the']
TWICE = [prompt for prompt in PROMPTS for _ in range(2)]
NEW = 24


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  return {
    'target': tiny.save(folder / 'target', seed=0),
    'drafter': tiny.save(folder / 'drafter', seed=1),
    't5': tiny.save(folder / 't5', tiny.T5, seed=2),
    'swapped': tiny.save(folder / 'swap', swap=('cat', 'dog')),
  }


def _tokens(answers):
  return [answer.tokens for answer in answers]


def test_names(folders):
  assert sources.resolve('none') is None and sources.resolve('') is None
  assert sources.resolve('suffix').entry.name == 'suffix'
  assert sources.resolve(folders['drafter']).model is not None
  found = sources.resolve('hybrid:' + folders['drafter'])
  made = specjax.Hybrid(specjax.load(folders['drafter']))
  assert found.entry == made.entry and found.name == made.name
  with pytest.raises(ValueError, match='hybrid:FOLDER'):
    sources.resolve('hybrid:')
  for name in ('none', 'hybrid:' + folders['drafter']):
    with pytest.raises(ValueError, match=f'draft model, and {name} is none'):
      sources.resolve('hybrid:' + name)


@pytest.mark.parametrize(
  ('kind', 'name', 'temperature'),
  [
    ('target', 'hybrid', 0.0),
    ('target', 'token_recycling', 0.7),
    ('t5', 'suffix', 0.0),
  ],
)
def test_answers_are_those_of_plain_decoding(folders, kind, name, temperature):
  target = specjax.load(folders[kind])
  drafter = name
  if name == 'hybrid':
    drafter = specjax.Hybrid(specjax.load(folders['drafter']))
  settings = dict(max_new_tokens=NEW, temperature=temperature, num_draft=5)
  want = specjax.generate(target, PROMPTS, **settings)
  settings['verifier'] = 'match' if temperature else 'auto'
  got = specjax.generate(target, PROMPTS, drafter=drafter, **settings)
  assert _tokens(got) == _tokens(want)


def _run(
  folders, corpus, prompts=PROMPTS, drafter='suffix', target='target', **changes
):
  source = os.path.join(os.path.dirname(folders['target']), 'prompts.txt')
  with open(source, 'w', encoding='utf-8') as file:
    file.write('\n'.join(prompts) + '\n')
  out = source + '.out'
  request = decode_file.DecodeRequest(
    target=folders[target],
    drafter=drafter,
    source=source,
    output=out,
    stats='',
    resume=False,
    baseline='none',
    config=specjax.DecodeConfig(
      max_new_tokens=NEW,
      num_draft=5,
      explain=False,
      ignore_eos=True,
      **changes,
    ),
    corpus=str(corpus),
  )
  decode_file.decode_file(request)
  with open(out, encoding='utf-8') as file:
    return file.read()


def test_a_corpus_makes_the_second_run_shorter(folders, tmp_path, capfd):
  path = tmp_path / 'answers.corpus'
  calls, texts = [], []
  for _ in range(2):
    texts.append(_run(folders, path))
    line = next(
      line
      for line in capfd.readouterr().err.splitlines()
      if 'target calls' in line
    )
    calls.append(int(line.split()[-1].replace(',', '')))
  assert texts[0] == texts[1]
  assert calls[1] < calls[0]
  with pytest.raises(ValueError, match='another tokenizer'):
    _run(folders, path, target='swapped')
  with pytest.raises(ValueError, match='suffix and hybrid:FOLDER'):
    _run(folders, path, drafter='prompt_lookup')
  path.write_bytes(path.read_bytes()[:-2])
  with pytest.raises(ValueError, match='truncated or damaged'):
    _run(folders, path)


def test_a_corpus_on_a_mesh(folders, tmp_path, capfd):
  """Searched whole by every device, it helps as much and grows alike."""
  seen = []
  for shape in ((), (2, 4)):
    path = tmp_path / f'{len(shape)}.corpus'
    mesh = mesh_lib.MeshConfig(shape)
    # The second batch copies from the first, the second run from both.
    texts = [
      _run(folders, path, TWICE, batch_size=2, mesh=mesh) for _ in range(2)
    ]
    calls = re.findall(r'target calls *([\d,]+)', capfd.readouterr().err)
    seen.append((texts, calls, path.read_bytes()))
  assert seen[0] == seen[1]
  calls = [int(count.replace(',', '')) for count in seen[0][1]]
  assert calls[1] < calls[0]


def test_later_batches_copy_from_earlier_ones(folders, tmp_path):
  target = specjax.load(folders['target'])
  corpus = planning.open_corpus(str(tmp_path / 'new'), target.tokenizer, 1000)
  job = planning.plan(
    target,
    ['the cat'] * 2,
    drafter='suffix',
    corpus=corpus,
    max_new_tokens=NEW,
    num_draft=5,
    batch_size=1,
    ignore_eos=True,
  )
  first, second = [a for batch in inference.stream(job) for a in batch.answers]
  assert first.tokens == second.tokens
  assert second.counts.num_target_calls < first.counts.num_target_calls


def _assembled(target_bytes, model_bytes, slots):
  """As much of a drafter as its costs are estimated from."""

  def sized(size):
    weights = np.broadcast_to(np.float32(0), (size // 4,))
    return types.SimpleNamespace(params={'weight': weights})

  source = types.SimpleNamespace(model=sized(model_bytes))
  plan = DraftPlan(max(slots), max(slots), draft_slots=min(slots))
  return types.SimpleNamespace(
    plan=plan, target=sized(target_bytes), source=source
  )


def test_what_a_draft_has_to_bring():
  """By the rule, which knows no machine."""
  found = [
    costs.rule(_assembled(400, 40, (k,)), rows).beyond_a_step(k)
    for rows in (1, 8)
    for k in (2, 4, 8)
  ]
  one, many = found[:3], found[3:]
  # More for wider blocks.
  assert one == sorted(one) and many == sorted(many)
  # Rows are arithmetic too, and a step of several is dearer as well.
  assert all(x < y < 8 * x for x, y in zip(one, many, strict=True))
  assert many[2] < 8
  # No draft brings more than it has tokens.
  assert one[0] < 2


def test_what_drafting_with_a_model_costs():
  own = costs.rule(_assembled(400, 400, (4, 8)), 1)
  assert own.draft == 5  # a step each, and one more over new tokens
  assert set(own.blocks) == {4, 8} and own.origin == 'rule'
  small = costs.rule(_assembled(400, 40, (4, 8)), 1)
  assert small.draft == pytest.approx(0.5)
