"""Drafters that know fewer positions than the rows of a run reach."""

import dataclasses
import types
import warnings

import pytest

import specjax
from specjax import models
from specjax.benchmark import prompts
from specjax.benchmark import request
from specjax.certify import runner as certify
from specjax.certify.config import CertifyConfig
from specjax.decoding.drafters.entry import DraftData
from specjax.inference import planning
from specjax.inference import sources
from tests.helpers import benchmarks
from tests.helpers import tiny

# 4 tokens and the start token.
PROMPT = 'a dog ran to'
KNOWN = 20
# A GPT-2 inside: a table of positions, and no rotary ones.
LEARNED = dataclasses.replace(
  tiny.DECODER,
  model_type='gpt2',
  num_key_value_heads=4,
  max_position_embeddings=KNOWN,
  rope=None,
  layer_norm=True,
  gated=False,
  hidden_act='gelu_new',
  qkv_bias=True,
  out_bias=True,
  mlp_bias=True,
  tie_word_embeddings=True,
)
SLOTS = models.SpecDrafterConfig(
  *(96, 16, 8, 32, 1, 1, 2),
  block=4,
  window=6,
  max_positions=KNOWN,
  max_source_positions=16,
  eos_token_id=(2,),
)


@pytest.fixture(scope='module', name='saved')
def saved_fixture(tmp_path_factory):
  """Folders of (target, drafter)."""
  root = tmp_path_factory.mktemp('models')
  decoder = tiny.save(root / 'decoder')
  draft_model = tiny.save(root / 'gpt2', LEARNED, seed=1)
  made = {'draft_model': (decoder, draft_model)}
  made['hybrid'] = decoder, f'hybrid:{draft_model}'
  slots = tiny.save(root / 'slots', SLOTS, seed=1)
  tiny.tokenizer('t5').save_pretrained(slots)
  made['spec_drafter'] = tiny.save(root / 't5', tiny.T5), slots
  return made


def told(target, drafter, **settings) -> list[str]:
  """Warnings of a plan, before anything is decoded."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    planning.plan(target, [PROMPT], drafter=drafter, **settings)
  return [str(one.message) for one in caught if 'positions' in str(one.message)]


@pytest.mark.parametrize(
  'kind, given', [('draft_model', 5), ('hybrid', 5), ('spec_drafter', 1)]
)
def test_fewer_positions_than_a_run_needs_are_told(saved, kind, given):
  """Before decoding, and exactly where the last token would have none."""
  folder, drafter = saved[kind]
  target = specjax.load(folder)
  if given > 1:
    assert len(target.tokenizer(PROMPT).input_ids) == given
  settings = {'num_draft': 3, 'temperature': 0.0}
  room = KNOWN - given
  assert not told(target, drafter, max_new_tokens=room, **settings)
  (line,) = told(target, drafter, max_new_tokens=room + 1, **settings)
  assert drafter.removeprefix('hybrid:') in line
  assert f'was made for {KNOWN} positions' in line
  assert f'rows may reach {KNOWN + 1};' in line


@pytest.mark.parametrize('kind', ['draft_model', 'spec_drafter'])
def test_beyond_them_the_answer_is_that_of_the_target(saved, kind):
  folder, drafter = saved[kind]
  target = specjax.load(folder)
  settings = {'max_new_tokens': 32, 'ignore_eos': True}
  (plain,) = specjax.generate(target, [PROMPT], **settings)
  with pytest.warns(UserWarning, match=f'made for {KNOWN} positions'):
    (made,) = specjax.generate(
      target, [PROMPT], drafter=drafter, num_draft=3, **settings
    )
  assert made.tokens == plain.tokens and len(made.tokens) == 32


def test_certificates_say_so_too(saved, monkeypatch):
  folder, drafter = saved['draft_model']
  target, source = specjax.load(folder), sources.resolve(drafter)
  tokens = tuple(target.tokenizer(PROMPT).input_ids)
  made = types.SimpleNamespace(with_taken=lambda *args: None)
  monkeypatch.setattr(certify, 'certify_subject', lambda *args, **more: made)
  settings = {'num_draft': 2, 'costs': 'rule'}
  with pytest.warns(UserWarning, match=f'may reach {KNOWN + 1};'):
    certify.certify(
      target,
      source,
      [tokens],
      CertifyConfig(max_new_tokens=KNOWN - len(tokens) + 1, **settings),
    )


def test_measurements_say_so_too(saved):
  folder, drafter = saved['draft_model']
  target, source = specjax.load(folder), sources.resolve(drafter)
  tokens = tuple(target.tokenizer(PROMPT).input_ids)
  setup = request.Setup(
    target,
    [source],
    [prompts.EncodedPrompt(tokens)],
    DraftData(),
    benchmarks.config(max_new_tokens=KNOWN - len(tokens) + 1),
  )
  cases = [setup.case(source, 0.0, 1, num_draft=number) for number in (2, 3)]
  (line,) = setup.notes(cases)
  assert f'may reach {KNOWN + 1};' in line
