"""Settings that a certification takes from a file, and those it refuses."""

import pytest

from decode import certify as command
from specjax.certify import identity
from specjax.certify import runner
from specjax.certify import trials
from specjax.certify import verdict
from specjax.certify.config import CertifyConfig
from specjax.commands import cli
from specjax.inference import sources
from tests.helpers.benchmarks import markov

PROMPTS = ((1, 2), (3, 0, 1), (2, 2, 0, 3), (0, 3))


def config(**changes):
  made = CertifyConfig(**dict(num_draft=3, effort='quick') | changes)
  made.validate()
  return made


def certify(settings, target=None, drafter=None):
  source = sources.resolve(drafter or markov('draft', 0, 0.3))
  return runner.certify(
    target or markov('target', 0), source, PROMPTS, settings
  )


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_what_the_file_gives_is_in_the_certificate():
  file = {'suppress_tokens': [3], 'repetition_penalty': 1.25, 'top_k': 2}
  target = markov('target', 0)._replace(generation_config=file)
  settings = config(temperature=0.0, max_new_tokens=8)
  made = certify(settings, target)
  taken = {'repetition_penalty': 1.25, 'suppress_tokens': (3,)}
  assert made.from_generation_config == taken
  assert made.lines[0].startswith(
    'generation_config.json of target: repetition_penalty=1.25 and '
    'suppress_tokens (1) are applied; top_k is ignored'
  )
  assert made.verdict == verdict.LOSSLESS
  settings.generation_config = 'none'
  made = certify(settings, target)
  assert not made.from_generation_config and 'greedy' in made.lines[0]


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_min_length_asks_of_every_prompt_its_own_part(monkeypatch):
  found = []
  monkeypatch.setattr(
    runner, 'certify_subject', lambda subject, *_, **__: found.append(subject)
  )
  target = markov('target', 0)._replace(
    generation_config={'min_length': 4}, eos_ids=(4,)
  )
  with pytest.raises(AttributeError):  # There is no certificate.
    certify(config(law_prompts=4, samples=2048), target)
  (subject,) = found
  assert subject.config.min_new_tokens.tolist() == [2, 1, 0, 2]
  ends = set(subject.end_ids)
  made = trials.make(subject, lambda text: None)
  for trial in made:
    least = max(4 - len(PROMPTS[trial.number]), 0)
    possible = [len(t) for t, p in trial.law.probability.items() if p]
    if not trial.who:
      assert ends & set(trial.law.symbols)
      assert min(possible) == max(least + 1, 1), trial.number
      assert trials.run(subject, trial).difference is None
  assert {trial.number for trial in made} == {0, 1, 2, 3}
  greedy = subject.assembled(0.0, 3)
  found = identity.compare(subject, 0.0, greedy, '', lambda text: None)
  assert found.fault is None and '4 of 4 rows' in found.line


def test_usage_that_is_no_certification(capsys):
  for argv, words in (
    (['--config.num_beams=2'], 'A beam search is not certified; leave'),
    (
      ['--config.truncate=left'],
      'A certificate has prompts of at most max_prompt_tokens',
    ),
    (['--precision=float64'], '--precision must be one of float32, bfloat16'),
    (
      ['--target=x', '--drafter=suffix,hybrid'],
      '--drafter=suffix,hybrid names 2 drafters, and this command takes one',
    ),
  ):
    assert cli.call(command.main, ['decode.certify', *argv]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(f'error: {words}') and captured.count('\n') == 1


def test_options_that_the_drafter_cannot_obey_are_refused():
  settings = config(drafters={'suffix': {'tree': 3}})
  with pytest.raises(ValueError, match=r'suffix.tree=3 asks for trees, but'):
    certify(settings)
  settings = config(drafters={'token_recycling': {'decay': 0.5}})
  with pytest.raises(ValueError, match='decay=0.5 changes nothing without a'):
    certify(settings, drafter='token_recycling')
