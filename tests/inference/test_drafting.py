"""Drafters by name, hybrids, and corpora kept from run to run."""

import os
import re
import types

import numpy as np
import pytest

import specjax
from specjax.commands import decode as decode_command
from specjax.distributed import mesh as mesh_lib
from specjax.inference import batching
from specjax.inference import drafting
from specjax.inference import generate as inference
from tests.helpers import tiny

PROMPTS = ['the cat', 'a dog ran to the', 'the']
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
  assert drafting.load('none') is None and drafting.load('') is None
  assert drafting.load('suffix') == 'suffix'
  assert drafting.draft_model(drafting.load(folders['drafter'])) is not None
  found = drafting.load('hybrid:' + folders['drafter'])
  assert isinstance(found, specjax.Hybrid)
  with pytest.raises(ValueError, match='hybrid:FOLDER'):
    drafting.load('hybrid:')


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
  settings['verify'] = 'match' if temperature else 'auto'
  got = specjax.generate(target, PROMPTS, drafter=drafter, **settings)
  assert _tokens(got) == _tokens(want)


def _run(folders, corpus, drafter='suffix', target='target', **changes):
  prompts = os.path.join(os.path.dirname(folders['target']), 'prompts.txt')
  with open(prompts, 'w', encoding='utf-8') as file:
    file.write('\n'.join(PROMPTS) + '\n')
  out = prompts + '.out'
  request = decode_command.Request(
    target=folders[target],
    drafter=drafter,
    source=prompts,
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
  decode_command.decode_file(request)
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
      _run(folders, path, batch_size=2, mesh=mesh, num_return_sequences=2)
      for _ in range(2)
    ]
    calls = re.findall(r'target calls *([\d,]+)', capfd.readouterr().err)
    seen.append((texts, calls, path.read_bytes()))
  assert seen[0] == seen[1]
  calls = [int(count.replace(',', '')) for count in seen[0][1]]
  assert calls[1] < calls[0]


def test_later_batches_copy_from_earlier_ones(folders, tmp_path):
  target = specjax.load(folders['target'])
  corpus = drafting.open_corpus(
    str(tmp_path / 'new'), 'suffix', target.tokenizer, 1000
  )
  job = batching.plan(
    target,
    ['the cat'] * 2,
    drafter='suffix',
    corpus=corpus,
    max_new_tokens=NEW,
    num_draft=5,
    batch_size=1,
    ignore_eos=True,
  )
  first, second = [batch.answers[0] for batch in inference.stream(job)]
  assert first.tokens == second.tokens
  assert second.counts.num_target_calls < first.counts.num_target_calls


def _sized(megabytes, layers):
  """As much of a model as its costs are estimated from."""
  config = types.SimpleNamespace(num_layers=layers)
  weights = np.broadcast_to(np.float32(0), (int(megabytes * 2**18),))
  return types.SimpleNamespace(params={'weight': weights}, config=config)


def test_what_a_draft_has_to_bring():
  """On a CPU; an accelerator verifies a block nearly for free."""
  small, large = _sized(10, 8), _sized(1000, 16)
  promises = [
    [drafting.min_promise(target, k) for k in (2, 4, 8)]
    for target in (small, large)
  ]
  # More for wider blocks, and for weights that stay in the caches.
  assert all(p == sorted(p) for p in promises)
  assert all(x > 2 * y for x, y in zip(*promises, strict=True))
  # Rows are arithmetic too, and a step of several is dearer as well.
  for target, one in zip((small, large), promises):
    many = [drafting.min_promise(target, k, 8) for k in (2, 4, 8)]
    assert all(x < y < 8 * x for x, y in zip(one, many, strict=True))
    assert many[2] < 8
  # No draft brings more than it has tokens.
  assert promises[0][0] < 2 and promises[1][0] < 2


def test_what_drafting_with_a_model_costs():
  target = _sized(13, 8)
  own = drafting.draft_cost(target, target, 4)
  assert own > 4  # a step each, and a wider one at first
  shallow, deep = (
    drafting.draft_cost(target, _sized(1, layers), 4) for layers in (1, 8)
  )
  # Small weights do not make small steps where many layers read them.
  assert 4 / 13 < shallow < deep < own
