"""Layouts of simulated devices, and tiny models decoded on them."""

import dataclasses

import specjax
from specjax.checkpoints import load as loading
from specjax.distributed import mesh as mesh_lib
from tests.helpers import tiny

# Two key heads on up to eight devices: they have to be repeated.
DECODER = dataclasses.replace(
  tiny.DECODER, num_attention_heads=8, num_key_value_heads=2
)
T5 = dataclasses.replace(tiny.T5, num_heads=8, gated=True)
PROMPTS = ['the cat sat', 'a dog ran to the red', 'one two', 'once upon'] * 2
BUDGET = 10


def layout_of(*shape, **settings):
  return mesh_lib.make_layout(mesh_lib.MeshConfig(shape, **settings))


def generate(folders, kind, drafter, layout=None, **settings):
  target = loading.load(folders[kind], layout=layout)
  if drafter == 'model':
    drafter = loading.load(folders[f'{kind}_draft'])
  elif drafter == 'hybrid':
    drafter = specjax.Hybrid(loading.load(folders[f'{kind}_draft']))
  made = specjax.generate(
    target,
    PROMPTS,
    drafter=drafter,
    max_new_tokens=BUDGET,
    batch_size=8,
    num_draft=3,
    **settings,
  )
  return [answer.tokens for answer in made]
