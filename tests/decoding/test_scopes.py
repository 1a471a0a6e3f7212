"""Names in a profile: the verbs of the loop and the layers of every network."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from specjax import base
from specjax import models
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from tests.helpers import networks
from tests.helpers import recipes
from tests.helpers import speculators

VERBS = ('propose', 'extend', 'warp', 'verify', 'emit', 'commit', 'observe')
T5_LAYER = ('attn', 'cross_attn', 'mlp', 'write_cache', 'attn/attend')
DECODER_LAYER = ('attn', 'mlp', 'attn/rotate', 'attn/write_cache')
SLOT_LAYER = ('attn', 'cross_attn', 'mlp', 'attn/attend')
SPEC_DRAFTER = models.SpecDrafterConfig(
  *(61, 16, 8, 32, 1, 2, 2),
  block=6,
  window=5,
  max_positions=12,
  max_source_positions=9,
)
# A network of its own tables, for a target of 61 tokens and width 32.
SPECULATOR = dataclasses.replace(
  speculators.TOKEN_ONLY,
  trunk=dataclasses.replace(speculators.TRUNK, vocab_size=61),
)
# Target, drafter network, and what its proposal runs.
CASES = {
  't5': ('t5', None, 'T5.extend/decoder', T5_LAYER),
  'decoder': ('decoder', None, 'Decoder.extend', DECODER_LAYER),
  'spec_drafter': (
    't5',
    SPEC_DRAFTER,
    'SpecDrafter.decode',
    SLOT_LAYER,
  ),
  'speculator': ('decoder', SPECULATOR, 'Parallel.run', DECODER_LAYER),
}


@functools.cache
def scopes(kind, network):
  """Names of all operations of a generation, lowered and not compiled."""
  config, settings = networks.CONFIGS[kind], Sampling(temperature=1.0)
  lm = models.make_lm(config)
  method = recipes.assembled(
    lm,
    lm if network is None else recipes.network(network, 61),
    num_draft=3,
    warp=settings.warp_spec(),
    config=config,
  )
  prompt = base.Prompt(
    jax.ShapeDtypeStruct((2, 8), jnp.int32),
    jax.ShapeDtypeStruct((2,), jnp.int32),
  )
  controls = settings.controls(row_keys(0, range(2)), 8, (5,), method.dials())
  params = generate_lib.Params(
    models.abstract_params(config), models.abstract_params(network or config)
  )
  run = jax.jit(assemble.compiled(method.recipe, 8))
  lowered = run.lower(params, prompt, controls)
  text = lowered.as_text(debug_info=True)
  return set(re.findall(r'loc\("([^"]+)"', text))


def has(names, *parts):
  """Whether an operation's scopes hold all parts, in this order."""
  pattern = '/(.*/)?'.join(map(re.escape, parts))
  return any(re.search(f'(^|/){pattern}/', name) for name in names)


@pytest.mark.parametrize('case', CASES)
def test_a_profile_reads_like_the_code(case):
  kind, network, run, layer = CASES[case]
  names = scopes(kind, network)
  # Operations inside the loop alone; prefill is a scope outside of it.
  for verb in VERBS:
    assert has(names, 'while', 'body', verb), verb
  assert has(names, 'prefill')
  assert not has(names, 'body', 'prefill')
  count = {'spec_drafter': 2, 'speculator': 2}.get(case, 1)
  for i in range(count):
    for part in layer:
      assert has(names, 'propose', run, f'layers_{i}', part), (i, part)
  verified = {'t5': T5_LAYER, 'decoder': DECODER_LAYER}[kind]
  for part in verified:
    assert has(names, 'extend', 'layers_0', part), part
