"""What a certification takes from its target's file, and what it refuses."""

import pytest

from decode import certify as command
from specjax.certify import runner
from specjax.certify import verdict
from specjax.commands import cli
from specjax.inference import sources
from tests.certify.test_certify import certify
from tests.certify.test_certify import config
from tests.certify.test_certify import drafter
from tests.certify.test_certify import model
from tests.certify.test_certify import PROMPTS


@pytest.mark.filterwarnings('ignore:generation_config.json of')
def test_what_the_file_gives_is_in_the_certificate():
  file = {'suppress_tokens': [3], 'repetition_penalty': 1.25, 'top_k': 2}
  target = model(0)._replace(generation_config=file)
  settings = config(temperature=0.0, max_new_tokens=8)
  made = runner.certify(target, sources.of_model(drafter()), PROMPTS, settings)
  taken = {'repetition_penalty': 1.25, 'suppress_tokens': (3,)}
  assert made.from_generation_config == taken
  assert made.lines[0].startswith(
    'generation_config.json of markov 0: repetition_penalty=1.25 and '
    'suppress_tokens (1) are applied; top_k is ignored'
  )
  assert made.verdict == verdict.LOSSLESS
  settings.generation_config = 'none'
  made = runner.certify(target, sources.of_model(drafter()), PROMPTS, settings)
  assert not made.from_generation_config and 'greedy' in made.lines[0]


def test_usage_that_is_no_certification(capsys):
  for argv, words in (
    (['--config.num_beams=2'], 'A beam search is not certified; leave'),
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
  source = sources.resolve('token_recycling')
  with pytest.raises(ValueError, match='decay=0.5 changes nothing without a'):
    runner.certify(model(0), source, PROMPTS, settings)
