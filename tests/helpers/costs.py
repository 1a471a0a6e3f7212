"""Plans whose drafters go by costs, on small targets."""

import json

from specjax import cache
from specjax.inference import costs
from specjax.inference import generate as inference
from specjax.inference import planning
from specjax.inference import timing

PROMPTS = ['the cat', 'a dog ran to the', 'the']


def fake_clock(monkeypatch):
  """Timers without a clock: a step costs 1 for each slot, and is counted."""
  steps = []

  def fake(width):
    def timer(count):
      steps.append(count)
      return 0.01 * width * count

    return timer

  monkeypatch.setattr(
    timing,
    'extend_timer',
    lambda recipe, params, cache, rows, width: fake(width),
  )
  monkeypatch.setattr(costs, 'model_timer', lambda *_: fake(3))
  return steps


def plan(target, drafter='suffix', **settings):
  given = dict(max_new_tokens=12, num_draft=4, ignore_eos=True)
  return planning.plan(target, PROMPTS, drafter=drafter, **given | settings)


def run(job):
  return [a.tokens for batch in inference.stream(job) for a in batch.answers]


def files(place):
  return [path for path in place.rglob('*') if path.is_file()]


def keep(job, blocks=1e6, draft=0.0, data=None):
  """Puts costs into the folder, as an earlier run would have."""
  slots = costs.slots_of(job.assembled)
  made = {'blocks': {str(n): blocks for n in slots}, 'draft': draft}
  data = json.dumps(made).encode() if data is None else data
  name = costs.key(job.assembled, job.batch_size)
  assert name and cache.write(data, 'costs', name)
  return cache.folder('costs') / name
