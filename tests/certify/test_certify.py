"""Certificates: every exact rule passes, every broken one is flagged."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specjax.certify import chi_square
from specjax.certify import config as config_lib
from specjax.certify import controls
from specjax.certify import exact_law
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import mistakes
from specjax.certify import runner
from specjax.certify import verdict
from specjax.checkpoints import model as model_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.inference import assemble
from specjax.inference import sources
from tests.helpers import fakes
from tests.helpers import recipes
from tests.helpers import speculators
from tests.helpers.shared import SHARED

VOCAB = 5
END = 4
PROMPTS = ((1, 2), (3, 0, 1), (2, 2, 0, 3), (0, 3))
WARPED = dict(min_new_tokens=2, presence_penalty=0.8, logit_bias={1: 0.5})
WARPED |= dict(bad_words=[[2, 1]], suppress_tokens='[3]', num_draft=2)
EXACT = ('sampling', 'block', 'coupled', 'match')


def model(seed, params=None):
  return model_lib.Model(
    params=fakes.markov_params(seed, VOCAB) if params is None else params,
    config=None,
    module=None,
    tokenizer=None,
    lm=fakes.markov_lm(VOCAB),
    eos_ids=(END,),
    pad_id=0,
    name=f'markov {seed}',
  )


def drafter():
  """Near the target, so that drafts are accepted and refused."""
  target = fakes.markov_params(0, VOCAB)
  other = fakes.markov_params(1, VOCAB)
  params = {k: 0.6 * target[k] + 0.5 * other[k] for k in target}
  return model(1, params)


def config(**changes):
  settings = dict(
    num_draft=3,
    samples=8192,
    law_prompts=1,
    max_new_tokens=24,
    symbols=4,
  )
  made = config_lib.CertifyConfig(**(settings | changes))
  made.validate()
  return made


def certify(settings):
  source = sources.of_model(drafter())
  return runner.certify(model(0), source, PROMPTS, settings)


@pytest.fixture
def few_controls(monkeypatch):
  """Most of a certificate's time goes into compiling its controls."""

  def choose(*names):
    names = ('accept_all', 'resample_from_p', *names)
    monkeypatch.setattr(controls, 'NAMES', names)

  choose()
  return choose


def test_all_controls_are_flagged():
  made = certify(config(verifier='block'))
  assert made.verdict == verdict.LOSSLESS, made
  assert len(made.flagged) == 7 and all(made.flagged.values()), made
  assert made.lines[-1].startswith('power: ')


@pytest.mark.parametrize('verifier', EXACT)
def test_exact_rules_are_lossless(verifier, few_controls):
  made = certify(config(verifier=verifier))
  assert made.verdict == verdict.LOSSLESS, made
  assert made.status == 0 and made.last_line == 'LOSSLESS'
  assert made.flagged['accept_all'] and made.flagged['resample_from_p']


@pytest.mark.parametrize(
  'changes',
  [
    {'temperature': 0.7, 'top_k': 3, 'verifier': 'block'},
    {'temperature': 1.5, 'top_p': 0.7, 'verifier': 'sampling'},
    {'temperature': 1.3, 'min_p': 0.2, 'verifier': 'coupled'},
    {'temperature': 0.0, 'verifier': 'greedy'},
    {'repetition_penalty': 1.3, 'verifier': 'sampling'},
    WARPED,
  ],
)
def test_warped_rules_are_lossless(changes, few_controls):
  few_controls('warp_swapped', 'second_best')
  made = certify(config(**changes))
  assert made.verdict == verdict.LOSSLESS, made
  if changes.get('top_p'):
    assert made.flagged['warp_swapped'], made


@pytest.mark.parametrize('name', controls.DESCRIPTIONS)
def test_broken_rules_are_flagged(name, few_controls):
  changes = {'verifier': f'broken:{name}'}
  if name == 'second_best':
    changes['temperature'] = 0.0
  if name == 'warp_swapped':
    changes |= {'temperature': 1.5, 'top_p': 0.7}
  made = certify(config(**changes))
  assert made.verdict == verdict.NOT_LOSSLESS, made
  assert made.status == 1
  assert made.last_line.startswith('NOT LOSSLESS: ')


@pytest.mark.parametrize(
  'changes',
  [
    {'verifier': 'lenient', 'verifiers': {'lenient': {'lenience': 0.4}}},
    {
      'verifier': 'top_candidates',
      'temperature': 0.0,
      'verifiers': {'top_candidates': {'beta': 4, 'tau': 9.0}},
    },
  ],
)
def test_lossy_rules_are_not_lossless(changes, few_controls):
  made = certify(config(**changes))
  assert made.verdict == verdict.NOT_LOSSLESS, made


@pytest.mark.parametrize('name', controls.DESCRIPTIONS)
def test_mistakes_in_a_round_without_a_draft(name):
  """`prompt_lookup` now and then drafts nothing; traced, not compiled."""
  sampling = Sampling(temperature=1.5, top_p=0.7)
  target = model(0)
  recipe = recipes.recipe(
    target.lm,
    'prompt_lookup',
    num_draft=3,
    verify='sampling',
    warp=sampling.warp_spec(),
  )
  assert recipe.widths[0] == 0
  broken = controls.make(name, recipe, 1.5)
  if broken is not None:
    jax.eval_shape(
      assemble.compiled(broken, 8),
      generate_lib.Params(target.params),
      exact_law.repeat((1, 2, 1), 2),
      sampling.controls(row_keys(0, np.arange(2)), 8, (END,)),
    )


def test_a_missed_control_is_told(few_controls, monkeypatch):
  """Output that the tests cannot see must not be called lossless."""
  few_controls()
  monkeypatch.setitem(mistakes.MAKERS, 'accept_all', lambda recipe, _: recipe)
  made = certify(config(temperature=0.0, num_prompts=1))
  assert made.verdict == verdict.INCONCLUSIVE and made.status == 3
  assert made.flagged == {'accept_all': False}
  assert 'one that accepts every draft token unseen' in made.last_line


def test_a_drafter_that_never_drafts_proves_nothing():
  """Prompt lookup, where no token ever comes twice."""
  target = model(0)
  table = jnp.full((VOCAB + 1, VOCAB, VOCAB), -30.0)
  nothing_left = table.at[:, :, END].set(0.0)
  target = model(0, target.params | {'table': nothing_left})
  made = runner.certify(
    target, sources.resolve('prompt_lookup'), ((1, 2),), config(temperature=0.0)
  )
  assert made.verdict == verdict.INCONCLUSIVE
  assert made.status == 3
  assert made.last_line.startswith('INCONCLUSIVE: ')


def test_a_rule_of_ones_own(few_controls):
  """Any function from temperature and K to a recipe can be certified."""
  target, draft = model(0), drafter()

  def make(temperature, num_draft, allowed):
    made = recipes.assembled(
      target.lm,
      draft,
      num_draft=num_draft,
      warp=Sampling(temperature=temperature).warp_spec(),
      allowed_tokens=allowed,
    )
    made = made._replace(target=made.target._replace(params=target.params))
    recipe = made.recipe

    def verify(context, draft, logits):
      verdict = recipe.verifier.verify(context, draft, logits)
      last = jnp.minimum(verdict.next_token + 1, VOCAB - 1)
      full = verdict.num_accepted == num_draft
      return verdict.replace(
        next_token=jnp.where(full, last, verdict.next_token)
      )

    verifier = recipe.verifier._replace(verify=verify)
    return made._replace(recipe=recipe._replace(verifier=verifier))

  subject = identity.Subject(
    target, make, DraftData(), config(samples=2000), PROMPTS
  )
  made = runner.certify_subject(subject)
  assert made.verdict == verdict.NOT_LOSSLESS


def test_a_network_that_seldom_drafts_well(few_controls):
  """Confined as the target is, it drafts what can be accepted."""
  few_controls('residual_bonus', 'stale_noise')
  size = speculators.VOCAB
  target = model(0, fakes.markov_params(0, size))
  target = target._replace(lm=fakes.markov_lm(size))
  config_of = speculators.TOKEN_ONLY
  network = recipes.network(config_of)
  network = network._replace(
    model=network.model._replace(params=speculators.params(config_of))
  )
  made = runner.certify(
    target, network, PROMPTS, config(num_draft=2, samples=4096)
  )
  assert made.verdict == verdict.LOSSLESS, made
  assert len(made.flagged) == 4 and all(made.flagged.values()), made
  law = next(line for line in made.lines if line.startswith('law: '))
  accepted, drafted = re.search(r'(\d+) of (\d+) draft', law).groups()
  assert int(accepted) > int(drafted) / 10


def test_the_enumerated_law_is_that_of_plain_decoding():
  target = model(0)
  sampling = Sampling(temperature=0.8, top_k=3)
  symbols = (0, 1, 3, END)
  law = exact_law.enumerate_law(
    target.lm,
    target.params,
    sampling,
    (1, 2),
    symbols=symbols,
    length=3,
    end_ids=(END,),
  )
  assert sum(law.probability.values()) == pytest.approx(1, abs=1e-6)
  assert all(t[-1] == END or len(t) == 3 for t in law.probability)
  recipe = recipes.recipe(
    exact_law.confined(target.lm, symbols), warp=sampling.warp_spec()
  )
  counts, drafted, _ = law_lib.sample(
    recipe,
    generate_lib.Params(target.params),
    sampling,
    (1, 2),
    law,
    (END,),
    samples=4000,
    seed=3,
  )
  assert drafted == 0 and sum(counts.values()) == 4000
  p_value, difference = chi_square.compare(law.probability, 3, counts, 1e-3)
  assert difference is None, p_value


@pytest.mark.parametrize(
  'changes, word',
  [
    ({'verifier': 'broken:everything'}, 'broken rule'),
    ({'symbols': 1}, 'symbols'),
    ({'symbols': 9}, 'symbols'),
    ({'samples': 1}, 'samples'),
    ({'false_alarm': 0.0}, 'false_alarm'),
    ({'temperature': -1.0}, 'temperature'),
    ({'num_draft': 0}, 'num_draft'),
  ],
)
def test_bad_settings(changes, word):
  with pytest.raises(ValueError, match=word):
    config(**changes)


def _command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'decode.certify', *arguments],
    capture_output=True,
    text=True,
    env=dict(os.environ),
  )


@pytest.mark.slow
def test_command_on_real_weights(tmp_path):
  weights = SHARED / 'weights'
  if not weights.is_dir():
    pytest.skip('the shared weights are not here')
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('Once upon a time\nThe dog and the cat\nOne day, Tom\n')
  both = (
    f'--target={weights / "stories260K"}',
    f'--drafter={weights / "llama2xs"}',
    f'--input={prompts}',
    # As much as `quick` tests, without its deadline: a slow machine needs it.
    '--config.samples=2048',
    '--config.law_prompts=1',
    '--config.num_prompts=4',
    '--config.max_new_tokens=16',
    '--config.num_draft=2',
  )
  good = _command(*both)
  assert good.returncode == 0, good.stderr
  assert good.stdout.splitlines()[-1] == 'LOSSLESS'
  bad = _command(*both, '--config.verifier=broken:accept_all')
  assert bad.returncode == 1, bad.stderr
  assert bad.stdout.splitlines()[-1].startswith('NOT LOSSLESS: ')


def test_command_with_bad_input():
  made = _command('--target=/no/such/folder', '--drafter=prompt_lookup')
  assert made.returncode == 2
  assert made.stdout == ''
  last = made.stderr.strip().splitlines()[-1]
  assert last.startswith('error: there is no folder /no/such/folder')
  assert 'Traceback' not in made.stderr
