"""Speculative output is the target's own, on real networks.

Two references. One decodes with blocks of the same width in which nothing is
proposed: the same program scores the same shapes, so tokens must be equal
without exception. The other is plain decoding, whose sums are rounded in
another order: it may differ where the two best logits are closer than 1e-3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import specjax
from specjax import base
from specjax import models
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.nothing import nothing
from tests.helpers import networks
from tests.helpers import shared

GAP = 1e-3
DRAFTERS = ('itself', 'good', 'random', 'prompt_lookup')
# Every K and every batch size by default; their full product is slow.
CORE = ((1, 4), (2, 7), (3, 1), (5, 4), (8, 7))
GRID = [
  pytest.param(k, b, marks=() if (k, b) in CORE else (pytest.mark.slow,))
  for k in (1, 2, 3, 5, 8)
  for b in (1, 4, 7)
]


def _blend(params, other, share):
  share = np.float32(share)
  return jax.tree.map(lambda a, b: (1 - share) * a + share * b, params, other)


def blank(num_draft):
  """A drafter of K empty slots: plain decoding in blocks of width K + 1."""

  def propose(params, state, view):
    del params
    shape = (view.last_token.shape[0], num_draft)
    return base.Draft(jnp.full(shape, base.EMPTY, jnp.int32)), state

  plain = nothing()
  return base.Drafter(
    plain.init, propose, plain.observe, num_draft, max_path=num_draft
  )


blank = functools.cache(blank)


def _gaps(lm, params, prompt, rows):
  """Distance of the two best logits at every generated position."""
  batch = prompt.tokens.shape[0]
  width = max(map(len, rows))
  tokens = np.zeros((batch, width), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  return np.asarray(_score_gaps(lm, params, prompt, tokens))


@functools.partial(jax.jit, static_argnums=0)
def _score_gaps(lm, params, prompt, tokens):
  capacity = prompt.tokens.shape[1] + tokens.shape[1]
  cached = lm.prefill(params, prompt, capacity=capacity)
  block = jnp.concatenate([cached.last_token[:, None], tokens[:, :-1]], 1)
  scored, _ = lm.extend(params, cached.cache, block)
  best = jax.lax.top_k(scored.logits, 2)[0]
  return best[..., 0] - best[..., 1]


def assert_same_but_for_near_ties(got, want, gaps):
  for a, b, gap in zip(got, want, gaps, strict=True):
    if a != b:
      first = next(
        i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1]
      )
      assert gap[: first + 1].min() < GAP, (a, b, first, gap[first])


def _drafter(kind, lm, params, name):
  if name == 'prompt_lookup':
    return 'prompt_lookup', None
  other = networks.params(kind, 9)
  draft = {
    'itself': params,
    'good': _blend(params, other, 0.15),
    'random': other,
  }[name]
  return lm, draft


@pytest.mark.parametrize('kind', ['decoder', 't5'])
@pytest.mark.parametrize(('num_draft', 'batch'), GRID)
def test_greedy_identity(kind, num_draft, batch):
  lm, params = models.make_lm(networks.CONFIGS[kind]), networks.params(kind, 1)
  prompt = networks.prompt(batch, seed=num_draft)
  settings = Sampling()
  decode = functools.partial(networks.decode, lm, params, prompt, settings)
  plain = decode()
  gaps = _gaps(lm, params, prompt, plain)
  same_width = decode(
    drafter='prompt_lookup', num_draft=num_draft, swap=blank(num_draft)
  )
  assert_same_but_for_near_ties(same_width, plain, gaps)
  for name in DRAFTERS:
    drafter, draft_params = _drafter(kind, lm, params, name)
    got = decode(
      drafter=drafter, draft_params=draft_params, num_draft=num_draft
    )
    assert got == same_width, name
    assert_same_but_for_near_ties(got, plain, gaps)


@pytest.mark.parametrize('kind', ['decoder', 't5'])
@pytest.mark.parametrize('temperature', [0.0, 0.7, 1.3])
def test_coupled_equals_plain_sampling(kind, temperature):
  lm, params = models.make_lm(networks.CONFIGS[kind]), networks.params(kind, 1)
  prompt = networks.prompt(5, seed=2)
  # Another row samples, so that temperature 0 stands in a mixed batch too.
  settings = Sampling(temperature=[temperature] * 4 + [1.0])
  decode = functools.partial(networks.decode, lm, params, prompt, settings)
  plain = decode()
  for name, num_draft in (('good', 3), ('random', 1), ('itself', 5)):
    drafter, draft_params = _drafter(kind, lm, params, name)
    got = decode(
      drafter=drafter,
      draft_params=draft_params,
      num_draft=num_draft,
      verify='coupled',
    )
    assert got == plain, name


@pytest.mark.parametrize('kind', ['decoder', 't5'])
@pytest.mark.parametrize('temperature', [0.0, 0.9])
def test_rows_do_not_depend_on_mates_order_or_padding(kind, temperature):
  lm, params = models.make_lm(networks.CONFIGS[kind]), networks.params(kind, 1)
  drafter, draft_params = _drafter(kind, lm, params, 'good')
  prompt = networks.prompt(7, seed=3)
  decode = functools.partial(
    networks.decode,
    lm,
    params,
    settings=Sampling(temperature=temperature),
    drafter=drafter,
    draft_params=draft_params,
    num_draft=3,
  )
  whole = decode(prompt=prompt)
  for order in ([5, 0, 3, 1], [2]):
    pick = jnp.array(order)
    part = base.Prompt(
      jnp.pad(prompt.tokens[pick], ((0, 0), (0, 6)), constant_values=7),
      prompt.length[pick],
    )
    got = decode(prompt=part, rows=order)
    gaps = _gaps(lm, params, part, got)
    if temperature:
      assert got == [whole[i] for i in order]
    else:
      assert_same_but_for_near_ties(got, [whole[i] for i in order], gaps)


@pytest.mark.slow
def test_greedy_equals_transformers_on_stories(torch, capsys):
  """100 prompts, 64 new tokens, beside `transformers.generate`."""
  import json

  import transformers

  folder = shared.weights('stories260K')
  lines = shared.path('data', 'tinystories_1k', 'valid.jsonl').read_text()
  model = specjax.load(folder, dtype='float32')
  ids = [
    model.tokenizer(json.loads(line)['text'])['input_ids'][:24]
    for line in lines.splitlines()[:100]
  ]
  reference = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  with torch.no_grad():
    want = reference.generate(
      torch.tensor(ids), max_new_tokens=64, do_sample=False
    )[:, 24:].tolist()
  want = [_cut(row, model.eos_ids) for row in want]
  prompt = base.Prompt(
    jnp.asarray(ids, jnp.int32), jnp.full((len(ids),), 24, jnp.int32)
  )
  _compare(model, prompt, want, 64, capsys)


def test_greedy_equals_transformers_on_t5(torch, tmp_path, capsys):
  """50 random sources, beside `transformers.generate`."""
  import transformers

  torch.manual_seed(3)
  names = 'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads'
  sizes = dict(zip(names, (67, 32, 8, 64, 2, 4), strict=True))
  config = transformers.T5Config(
    **sizes,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
    decoder_start_token_id=0,
    initializer_factor=4.0,
  )
  reference = transformers.T5ForConditionalGeneration(config).eval()
  reference.save_pretrained(tmp_path)
  model = specjax.load(tmp_path, dtype='float32')
  prompt = networks.prompt(50, seed=4, vocab=67, width=12)
  source = torch.tensor(np.asarray(prompt.tokens), dtype=torch.long)
  mask = (
    torch.arange(12)[None] < torch.tensor(np.asarray(prompt.length))[:, None]
  )
  with torch.no_grad():
    want = reference.generate(
      source, attention_mask=mask.long(), max_new_tokens=32, do_sample=False
    )[:, 1:].tolist()
  want = [_cut(row, model.eos_ids) for row in want]
  _compare(model, prompt, want, 32, capsys)


def _cut(row, eos):
  """The row up to and with its first end token."""
  for i, token in enumerate(row):
    if token in eos:
      return row[: i + 1]
  return row


def _compare(model, prompt, want, new, capsys):
  """Plain and speculative tokens against the reference's, up to near ties."""
  gaps = _gaps(model.lm, model.params, prompt, want)
  for num_draft in (0, 4):
    got = networks.decode(
      model.lm,
      model.params,
      prompt,
      Sampling(),
      drafter='prompt_lookup',
      num_draft=num_draft,
      eos=model.eos_ids,
      new=new,
    )
    assert_same_but_for_near_ties(got, want, gaps)
    stopped = sum(a != b for a, b in zip(got, want, strict=True))
    with capsys.disabled():
      print(
        f'\nnum_draft {num_draft}: {stopped} of {len(want)} rows stopped at a '
        f'near tie (gap below {GAP}).'
      )
    assert stopped <= 0.02 * len(want)
