"""A benchmark's settings and models made of arrays."""

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
  return request_lib.Request('shape:target', drafters, '', (), settings)


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
