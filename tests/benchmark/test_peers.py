"""Other engines: the same weights, tokens and programs as they promise."""

import functools
import json
import shutil
import types

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from specjax import base
from specjax.benchmark import cases
from specjax.benchmark import config as config_lib
from specjax.benchmark import table
from specjax.benchmark.peers import engines as peers
from specjax.benchmark.peers import transformers_worker
from specjax.benchmark.peers import worker

VOCAB, NEW = 48, 12
IDS = {'vocab_size': VOCAB, 'eos_token_id': 1, 'pad_token_id': 0}
KNOWN = [1, 3, 4, 7, 8, 11, 12, 20, 21, 30, 33, 40]


def _save(folder, kind, seed, layers, known=()):
  """A random model; with `known` its head keeps only these tokens' rows."""
  import torch
  import transformers

  torch.manual_seed(seed)
  if kind == 't5':
    config = transformers.T5Config(
      **IDS,
      **dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
      num_decoder_layers=layers,
      decoder_start_token_id=0,
      architectures=['T5ForConditionalGeneration'],
      initializer_factor=3.0,
    )
    model = transformers.T5ForConditionalGeneration(config)
  else:
    config = transformers.LlamaConfig(
      **IDS,
      **dict(hidden_size=16, intermediate_size=32, num_attention_heads=2),
      num_hidden_layers=layers,
      bos_token_id=2,
      initializer_range=0.5,
      max_position_embeddings=64,
    )
    model = transformers.LlamaForCausalLM(config)
  model.save_pretrained(folder)
  if kind == 't5':
    # A head of its own, which this release of transformers reads and does not
    # write.
    head = np.random.default_rng(seed).normal(size=(VOCAB, 16))
    weights = safetensors_numpy.load_file(folder / 'model.safetensors')
    weights['lm_head.weight'] = head.astype(np.float32)[known or slice(None)]
    safetensors_numpy.save_file(
      weights, folder / 'model.safetensors', metadata={'format': 'pt'}
    )
    stored = json.loads((folder / 'config.json').read_text())
    stored |= {'tie_word_embeddings': False, 'output_ids': list(known)}
    (folder / 'config.json').write_text(json.dumps(stored))
  return str(folder)


@pytest.fixture(scope='module')
def folders(torch, tmp_path_factory):
  """Folders of targets, drafters and, of the T5, drafters of few tokens."""
  del torch
  root, made = tmp_path_factory.mktemp('peers'), {}
  for name, *about in (
    ('t5', 't5', 0, 2),
    ('t5-drafter', 't5', 1, 1),
    ('t5-reduced', 't5', 1, 1, KNOWN),
    ('llama', 'llama', 0, 2),
    ('llama-drafter', 'llama', 1, 1),
  ):
    made[name] = _save(root / name, *about)
  return made


def _job(folders, peer, kind, drafter=None, eos=(), widths=(6, 8, 6)):
  rng = np.random.default_rng(0)
  batches = [
    cases.PromptBatch(
      base.Prompt(
        np.pad(rng.integers(3, VOCAB, (1, w - 1)), ((0, 0), (0, 1))),
        np.array([w - 1]),
      ),
      None,
      (i,),
    )
    for i, w in enumerate(widths)
  ]
  pairs = kind == 't5'
  lm = types.SimpleNamespace(is_encoder_decoder=pairs, start_id=0 * pairs)
  model = types.SimpleNamespace(eos_ids=eos, pad_id=0, lm=lm)
  settings = config_lib.BenchmarkConfig(max_new_tokens=NEW, threads=1)
  lookup = drafter == 'prompt_lookup'
  return peers.job_of(
    peer,
    folders[kind],
    None if lookup else drafter,
    lookup=lookup,
    num_draft=3,
    temperature=0.0,
    batches=batches,
    model=model,
    config=settings,
    device='cpu',
  )


def _tokens(job):
  run, versions = transformers_worker.make(job)
  assert {'torch', 'transformers'} <= set(versions)
  found = [
    worker.process_peak() | run(index) for index in range(len(job['batches']))
  ]
  assert all(one['peak_bytes'] > 0 and one['seconds'] > 0 for one in found)
  return [one['tokens'] for one in found]


def test_every_way_to_generate_gives_the_same_tokens(folders):
  for kind, names in (
    ('t5', ('t5-drafter', 't5-reduced')),
    ('llama', ('llama-drafter',)),
  ):
    # The folder names an end token, which counts only where it was asked for.
    whole = _tokens(_job(folders, 'transformers', kind))
    assert all(len(row) == NEW for rows in whole for row in rows)
    end = whole[0][0][4]
    plain = _tokens(_job(folders, 'transformers', kind, eos=(end,)))
    first = whole[0][0].index(end)
    assert plain[0][0] == whole[0][0][: first + 1]
    drafters = ['prompt_lookup', *(folders[name] for name in names)]
    for drafter in drafters:
      assert _tokens(_job(folders, 'transformers', kind, drafter)) == whole
    adaptive = _job(folders, 'transformers-adaptive', kind, drafters[-1])
    assert _tokens(adaptive) == whole


def test_a_head_of_few_tokens_scores_them_alike(folders, torch):
  import transformers

  job = _job(folders, 'transformers', 't5')
  whole, part = (
    transformers_worker.load(folders[name], job, torch, transformers, 'cpu')
    for name in ('t5-drafter', 't5-reduced')
  )
  rows = {
    'input_ids': torch.tensor([[5, 6, 7, 1]]),
    'decoder_input_ids': torch.tensor([[0, 9, 12]]),
  }
  with torch.inference_mode():
    wanted, got = whole(**rows).logits, part(**rows).logits
  assert got.shape == wanted.shape == (1, 3, VOCAB)
  torch.testing.assert_close(got[..., KNOWN], wanted[..., KNOWN])
  others = [i for i in range(VOCAB) if i not in KNOWN]
  assert torch.all(got[..., others] == -torch.inf)


def test_steps_are_compiled_ahead(folders, torch, monkeypatch):
  """After `make` nothing is compiled, and the tokens are those of plain."""
  import transformers

  # Without code for a processor: what is traced, and when, is the same.
  monkeypatch.setattr(
    transformers,
    'CompileConfig',
    functools.partial(transformers.CompileConfig, backend='eager'),
  )
  monkeypatch.setattr(
    transformers_worker, 'check_compiler', lambda device: None
  )
  counts = torch._dynamo.utils.counters['stats']
  job = _job(folders, 'transformers-compile', 'llama')
  before = counts['unique_graphs']
  run, _ = transformers_worker.make(job)
  made = counts['unique_graphs']
  assert made > before
  got = [run(index)['tokens'] for index in (0, 1, 2)]
  assert counts['unique_graphs'] == made
  assert got == _tokens(_job(folders, 'transformers', 'llama'))


def test_a_missing_compiler_is_told_in_a_sentence(monkeypatch):
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  with pytest.raises(RuntimeError, match='needs a C.. compiler, and g.. is'):
    transformers_worker.check_compiler('cpu')
  transformers_worker.check_compiler('cuda')


def _row(engine, k, rate, **more):
  shared = dict(target='a/big', temperature=0.0, batch_size=1, tree='')
  shared |= dict(verifier='greedy', dtype='float32')
  kind = ('speculative', 'small') if k else ('plain', 'none')
  own = dict(engine=engine, num_draft=k, mode=kind[0], drafter=kind[1])
  return shared | own | {'tokens_per_second': rate} | more


def test_ratios_compare_like_with_like():
  peer = 'transformers'
  rows = [_row('specjax', k, rate) for k, rate in ((0, 10), (2, 20), (4, 30))]
  rows.append(_row('specjax', 0, 5, mode='beam'))
  rows += [_row(peer, k, rate) for k, rate in ((0, 5), (2, 8), (4, 6))]
  found = table.ratios(rows)
  values = [line.split(': ')[-1] for line in found]
  assert values == ['2.00', '2.50', '5.00', '3.75 (the best K of each)']
  assert 'specjax plain over transformers plain, big, T=0' in found[0]
  assert 'speculative over transformers assisted, big, drafter' in found[1]
  assert 'K=4 and 2' in found[3]
