"""Whole runs on a toy language: distilled drafters draft better."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

import specjax
from specjax.commands import label as label_command
from specjax.commands import tokenizer as tokenizer_lib
from specjax.commands import train_run
from specjax.inference.config import DecodeConfig
from specjax.training import build
from specjax.training import model_card
from specjax.training import on_policy
from specjax.training.data import packing
from tests.helpers import toy


def quiet(line):
  del line


@pytest.fixture(scope='module', name='files')
def files_fixture(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  toy.write(folder)
  return folder


@pytest.fixture(scope='module', name='target')
def target_fixture(files):
  """A target that has learnt the toy language; its export folder."""
  config = toy.config(
    files,
    steps=400,
    log_every=50,
    save_every=0,
    data__batch_rows=16,
  )
  train_run.run(config, str(files / 'target'), log_fn=quiet)
  return files / 'target' / 'export'


DRAFTER = {
  'task': 'drafter',
  'tokenizer': '',
  'model__width': 16,
  'model__mlp': 32,
  'log_every': 50,
  'save_every': 0,
  'data__batch_rows': 16,
}


def test_distillation_beats_a_random_drafter(files, target, tmp_path):
  config = toy.config(
    files,
    teacher=str(target),
    steps=300,
    objective__name='forward_kl',
    model__tie_embeddings=False,
    model__output_vocab=40,
    **DRAFTER,
  )
  parts = build.build(config)
  measure = train_run.measurer(parts)
  before = measure(parts.init(jax.random.key(0)))
  out = train_run.run(config, str(tmp_path), log_fn=quiet)
  after = out.metrics
  assert before['acceptance_rate'] < 0.2
  assert after['acceptance_rate'] > before['acceptance_rate'] + 0.3
  assert after['block_efficiency'] > before['block_efficiency'] + 0.5
  drafter = specjax.load(tmp_path / 'export')
  assert len(drafter.config.output_ids) <= 40
  # What is exported is what was measured; and the output is the target's own.
  teacher = specjax.load(target)
  prompts = [s for s, _ in toy.pairs(8, first=1000)]
  made = specjax.generate(
    teacher, prompts, drafter=drafter, num_draft=4, max_new_tokens=16
  )
  plain = specjax.generate(teacher, prompts, max_new_tokens=16)
  assert [a.tokens for a in made] == [a.tokens for a in plain]


def test_labels_are_the_targets_own_and_resumable(files, target, tmp_path):
  out = tmp_path / 'own.jsonl'
  request = label_command.LabelRequest(
    target=str(target),
    drafter='prompt_lookup',
    inputs=(str(files / 'valid.tsv'),),
    field='source',
    output=str(out),
    limit=12,
    config=DecodeConfig(max_new_tokens=16, batch_size=4),
  )
  label_command.label(request)
  whole = out.read_bytes()
  rows = [json.loads(line) for line in whole.splitlines()[1:]]
  sources = [s for s, _ in toy.pairs(12, first=1000)]
  model = specjax.load(target)
  assert [row['prompt_tokens'] for row in rows] == [
    model.tokenizer(source).input_ids for source in sources
  ]
  plain = specjax.generate(model, sources, max_new_tokens=16)
  assert [tuple(row['tokens']) for row in rows] == [a.tokens for a in plain]
  # Cut in the middle of a line, as a kill would leave it.
  out.write_bytes(b''.join(whole.splitlines(True)[:6]) + b'{"prompt_in')
  made = label_command.label(request)
  assert (made.skipped, made.answers) == (5, 7)
  assert out.read_bytes() == whole
  config = toy.config(
    files,
    teacher=str(target),
    data__labelled=str(out),
    **DRAFTER,
  )
  # Labels that are given are what a drafter learns from by default.
  (source,) = build.build(config).sources
  for side, field in enumerate(('prompt_tokens', 'tokens')):
    assert [
      packing.get(source.sides[side], i).tolist() for i in range(len(rows))
    ] == [row[field] for row in rows]


def test_on_policy_targets_are_what_the_drafter_says(files, target):
  config = toy.config(
    files,
    teacher=str(target),
    data__pack=False,
    data__on_policy_fraction=1.0,
    data__target_length=12,
    **DRAFTER,
  )
  parts = build.build(config)
  params = parts.init(jax.random.key(0))
  rewrite = on_policy.make(train_run.generator(parts), 0, 1.0)
  old = parts.batches.get(0)
  new = jax.device_get(rewrite(params, old, 3))
  again = jax.device_get(rewrite(params, old, 3))
  other = jax.device_get(rewrite(params, old, 4))
  np.testing.assert_array_equal(new['target'], again['target'])
  assert not np.array_equal(new['target'], other['target'])
  np.testing.assert_array_equal(new['source'], old['source'])
  assert {k: v.shape for k, v in new.items()} == {
    k: v.shape for k, v in old.items()
  }
  for b in range(16):
    n = int(new['target_segments'][b].sum())
    assert (new['target_segments'][b, :n] == 1).all() and n > 0
    np.testing.assert_array_equal(
      new['target_in'][b, 1:n], new['target'][b, : n - 1]
    )
    ended = (new['target'][b, :n] == 1).nonzero()[0].tolist()
    assert ended in ([], [n - 1])


def test_on_policy_text_keeps_the_prompt():
  rows = [[(np.arange(2, 11), 1)], [(np.arange(20, 24), 1)], []]
  batch = packing.text_rows(rows, 8, 3)
  assert np.asarray(on_policy.prompt_of(batch).length).tolist() == [2, 1, 1]
  tokens = np.full((3, 8), 50) + np.arange(8)
  new = on_policy.rewrite(batch, tokens, np.array([3, 8, 4]))
  new = {k: np.asarray(v) for k, v in new.items()}
  assert new['tokens'][0].tolist() == [2, 3, 50, 51, 0, 0, 0, 0]
  assert new['target'][0].tolist() == [3, 50, 51, 52, 0, 0, 0, 0]
  assert new['weight'][0].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
  assert new['tokens'][1].tolist() == [20, 50, 51, 52, 53, 54, 55, 56]
  assert new['target'][1].tolist() == [50, 51, 52, 53, 54, 55, 56, 57]
  assert not new['segments'][2].any() and not new['weight'][2].any()


def test_what_is_left_out_is_counted(files, tmp_path):
  for name, bad in (('train', 2), ('valid', 1)):
    lines = (files / f'{name}.tsv').read_text() + '\nno tab' * bad
    (tmp_path / f'{name}.tsv').write_text(lines)
  config = toy.config(
    files,
    data__train=str(tmp_path / 'train.tsv'),
    data__valid=str(tmp_path / 'valid.tsv'),
    data__skip_bad_lines=True,
  )
  said = []
  with pytest.raises(FileNotFoundError, match='no checkpoint yet'):
    workdir = str(tmp_path / 'run')
    train_run.run(config, workdir, export_only=True, log_fn=said.append)
  assert said == [
    'Left out 2 bad lines.',
    'Left out 1 bad lines of the held-out data.',
  ]


def test_share_of_on_policy_steps():
  hits = sum(on_policy.is_on_policy(s, 0, 0.25) for s in range(4000))
  assert abs(hits / 4000 - 0.25) < 0.04
  assert not any(on_policy.is_on_policy(s, 0, 0.0) for s in range(100))


def test_weights_are_continued_with_fresh_optimiser_state(
  files, target, tmp_path
):
  config = toy.config(files, init_from=str(target), tokenizer='')
  parts = build.build(config)
  loaded = specjax.load(target, dtype='float32', prepare=False)
  jax.tree.map(
    np.testing.assert_array_equal,
    parts.init(jax.random.key(5)),
    loaded.params,
  )
  assert parts.model_config.d_model == loaded.config.d_model


def test_teacher_and_drafter_must_share_their_tokens(files, target, tmp_path):
  made = tokenizer_lib.train_tokenizer(['xa xb xc xd'] * 9, 330, kind='bpe')
  tokenizer_lib.save(made, str(tmp_path))
  settings = DRAFTER | {'tokenizer': str(tmp_path)}
  with pytest.raises(ValueError, match='The tokenizer of .* differs'):
    build.build(toy.config(files, teacher=str(target), **settings))


def test_the_card_tells_where_it_comes_from(files, target):
  card = (target / 'README.md').read_text()
  for words in ('train.tsv', '400 steps', 'cross entropy', '| loss |'):
    assert words.lower() in card.lower()
  assert str(files) not in card


def test_the_card_names_the_files_that_were_read(files):
  settings = {'train': 'gold.tsv', 'labelled': 'own.jsonl'}
  for share, wanted in (
    (0.0, '`gold.tsv`'),
    (0.5, '`gold.tsv`, `own.jsonl`'),
    (1.0, '`own.jsonl`'),
  ):
    config = toy.config(files)
    config.data = dataclasses.replace(
      config.data, labelled_fraction=share, **settings
    )
    run = types.SimpleNamespace(config=config)
    assert model_card._file_names(run) == wanted


def test_transformers_reads_an_export(target, torch):
  import transformers

  reference = transformers.T5ForConditionalGeneration.from_pretrained(target)
  ours = specjax.load(target)
  source = np.array([ours.tokenizer(toy.pairs(1)[0][0]).input_ids])
  given = np.array([[0, 260, 261]])
  with torch.no_grad():
    wanted = reference(
      input_ids=torch.tensor(source), decoder_input_ids=torch.tensor(given)
    ).logits.numpy()
  got = ours.module.apply(
    {'params': ours.params}, source, np.ones_like(source, bool), given
  )
  np.testing.assert_allclose(got, wanted, atol=2e-4)


def test_decoder_only_target_and_drafter(files, tmp_path):
  shape = {
    'model__family': 'decoder',
    'model__gated': True,
    'model__activation': 'silu',
    'data__kind': 'text',
    'data__train': str(files / 'text.txt'),
    'data__valid': str(files / 'text.txt'),
    'data__batch_rows': 16,
    'data__target_length': 48,
    'save_every': 0,
  }
  config = toy.config(files, steps=60, **shape)
  out = train_run.run(config, str(tmp_path / 'target'), log_fn=quiet)
  assert out.metrics['loss'] < 4.0
  config = toy.config(
    files,
    steps=40,
    **shape
    | {'task': 'drafter', 'tokenizer': '', 'data__pack': False}
    | {'data__on_policy_fraction': 0.5, 'model__layers': 1},
    teacher=str(tmp_path / 'target' / 'export'),
    objective__name='total_variation',
    objective__chunk=16,
  )
  with pytest.raises(ValueError, match='2048 positions; lower eval_new_tokens'):
    changed = dataclasses.replace(config, eval_new_tokens=2048)
    train_run.run(changed, str(tmp_path / 'none'), log_fn=quiet)
  assert not (tmp_path / 'none').exists()
  out = train_run.run(config, str(tmp_path / 'drafter'), log_fn=quiet)
  assert 0 <= out.metrics['acceptance_rate'] <= 1
  assert specjax.load(tmp_path / 'drafter' / 'export').config.vocab_size
