"""A benchmark's settings, command, and models made of arrays."""

import os
import subprocess
import sys

from specjax.benchmark import cases
from specjax.benchmark import config as config_lib
from specjax.benchmark import request as request_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.inference import sources
from tests.helpers import fakes

VOCAB = 7


def markov(name, seed, blend=0.0):
  params = fakes.markov_params(seed, VOCAB)
  other = fakes.markov_params(seed + 1, VOCAB)
  params = {k: params[k] + blend * other[k] for k in params}
  return model_lib.Model(
    params, None, None, None, fakes.markov_lm(VOCAB), (), 0, name
  )


def config(**changes):
  settings = dict(
    num_draft=(3,),
    max_new_tokens=20,
    num_prompts=4,
    prompt_length=5,
    repetitions=2,
    parts=False,
    explore=2,
  )
  made = config_lib.BenchmarkConfig(**(settings | changes))
  made.validate()
  return made


def request(settings, *drafters):
  return request_lib.BenchmarkRequest(
    'shape:target', drafters, '', (), settings
  )


def lookup_case(target, settings):
  """A greedy case of `prompt_lookup` at K=3 and batch 1."""
  return cases.speculative(
    target,
    sources.resolve('prompt_lookup'),
    settings.recipe_settings(0.0, num_draft=3),
    DraftData(),
    temperature=0.0,
    batch_size=1,
    config=settings,
  )


def command(*arguments, **environment):
  """Runs `decode.benchmark` in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'decode.benchmark', *arguments],
    capture_output=True,
    text=True,
    env=os.environ | environment,
  )


class CharacterTokenizer:
  """A character a token; stands in for a tokenizer without a template."""

  chat_template = None

  def __call__(self, text, **_):
    class Encoded:
      input_ids = [ord(c) % VOCAB for c in text]

    return Encoded

  def decode(self, tokens, **_):
    return ''.join(chr(97 + t) for t in tokens)
