"""Tests a method three ways, and tests the tests.

1. Identity: at temperature 0 the tokens are those of plain decoding, on the
   user's prompts; under `coupled` and `match` also at the temperature given.
2. Law: above temperature 0, counts of continuations over a few symbols against
   their exact probabilities (`law`).
3. Negative controls: the same tests on deliberately broken rules (`controls`).
   Where one of those passes too, the verdict is that nothing can be said.
"""

from typing import Any, Callable, Sequence

from specjax.certify import controls as controls_lib
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import trials as trials_lib
from specjax.certify import verdict
from specjax.certify.config import CertifyConfig
from specjax.certify.identity import Finding
from specjax.certify.identity import Subject
from specjax.checkpoints import load as loading
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import Sampling
from specjax.inference import assemble
from specjax.inference import drafting

Tell = Callable[[str], None]


def certify(
  target: loading.Model,
  drafter: Any,
  prompts: Sequence[Sequence[int]],
  config: CertifyConfig,
  tell: Tell = lambda text: None,
) -> verdict.Certificate:
  """Certifies a drafter with one of our verifiers.

  Args:
    target: the target.
    drafter: `drafting.Drafter`.
    prompts: rows of ids.
    config: `CertifyConfig`, validated.
    tell: is told of progress.

  Returns:
    `verdict.Certificate`.
  """
  verify = 'auto' if config.broken else config.verify

  def make(temperature, num_draft, only) -> generate_lib.Recipe:
    given = config.decoding().sampling()
    sampling = Sampling(**{**vars(given), 'temperature': temperature})
    made = assemble.recipe(
      drafting.target_lm(target, drafter),
      drafting.for_recipe(target, drafter, num_draft),
      num_draft=num_draft,
      verify=verify if temperature or verify in _GREEDY_TOO else 'auto',
      warp=sampling.warp_spec(),
      sampler=config.sampler,
      only=only,
    )
    if not config.broken:
      return made
    return controls_lib.make(config.broken, made, temperature) or made

  params = drafting.params(drafter, target=target)
  return certify_recipe(Subject(target, make, params, config, prompts), tell)


_GREEDY_TOO = ('greedy', 'lenient', 'top_candidates')


def certify_recipe(
  subject: Subject, tell: Tell = lambda text: None
) -> verdict.Certificate:
  """Certifies whatever `subject.make` gives; also a rule of your own."""
  config = subject.config
  temperature = float(config.temperature)
  greedy = subject.recipe(0.0, config.num_draft)
  findings = [identity.compare(subject, 0.0, greedy, 'greedy identity', tell)]
  trials = []
  if temperature > 0:
    recipe = subject.recipe(temperature, config.num_draft)
    if recipe.verifier.name in ('coupled', 'match'):
      findings.append(
        identity.compare(
          subject, temperature, recipe,
          f'identity with plain sampling at T={temperature:g}', tell,
        )
      )  # fmt: skip
    trials = trials_lib.make(subject, tell)
    findings += [_law_finding(subject, trial, tell) for trial in trials]
  flagged, power = _run_controls(subject, trials, tell)
  return verdict.judge(subject, findings, flagged, power)


def _law_finding(subject, trial: trials_lib.Trial, tell) -> Finding:
  who = f' and {trial.who}' if trial.who else ''
  tell(f'law test on prompt {trial.number + 1}{who}')
  outcome = trials_lib.run(subject, trial)
  line = (
    f'law: prompt {trial.number + 1}{who}, {outcome.samples} continuations of '
    f'{trial.law.length} tokens over {len(trial.law.symbols)} symbols, '
    f'K={trial.recipe.drafter.num_draft}: p = {outcome.p_value:.3g} '
    f'(corrected), distance {outcome.distance:.4f} where sampling alone '
    f'makes {outcome.noise:.4f}; {outcome.accepted} of {outcome.drafted} '
    'draft tokens accepted'
  )
  # What another drafter shows says nothing of whether the user's drafts.
  empty = bool(trial.who) or not outcome.drafted
  if outcome.difference is None or not outcome.drafted:
    return Finding(line, None, empty=empty)
  d = outcome.difference
  fault = (
    f'prompt {trial.number + 1}{who}: continuations that begin '
    f'{identity.show(subject, d.tokens)} should have probability '
    f'{d.expected:.4f} among the tested symbols, but {d.observed:.4f} of '
    f'{outcome.samples} did (p = {d.p_value:.2g})'
  )
  return Finding(f'{line}; FAILED', fault, len(d.tokens), empty)


def _broken(recipe, temperature):
  """Gives each mistake's recipe and its `beta`; (None, 1) where there is none.

  Above temperature 0 most of them share one program, which is compiled when
  the first of them is run.
  """
  shared, chosen = None, {}
  if temperature > 0:
    shared, chosen = controls_lib.combined(recipe, temperature)

  def get(name):
    if name in chosen:
      return shared, chosen[name]
    return controls_lib.make(name, recipe, temperature), 1

  return get


def _run_controls(subject, trials, tell) -> tuple[dict, list[str]]:
  """Whether each broken rule is told from an exact one, and the power."""
  config = subject.config
  flagged, lines = {}, []
  greedy = None if trials else subject.recipe(0.0, config.num_draft)
  temperature = float(config.temperature)
  programs = {
    recipe: _broken(recipe, temperature)
    for recipe in {trial.recipe: None for trial in trials}
  }
  for name in controls_lib.NAMES:
    what = controls_lib.DESCRIPTIONS[name]
    if trials:
      tell(f'negative control: {what}')
      found = _tried(subject, name, trials, programs)
    else:
      made = controls_lib.make(name, greedy, 0.0)
      found = made and _compared(subject, name, made, tell)
    if not found:
      continue
    flagged[name], how = found
    word = 'flagged' if flagged[name] else 'NOT flagged'
    lines.append(f'control: {what}: {word} ({how})')
  if trials:
    lines.append(_power(config, trials[0].law))
  return flagged, lines


def _tried(subject, name, trials, programs):
  """(whether a trial flags the mistake, which and how), or None."""
  how = None
  for trial in trials:
    recipe, beta = programs[trial.recipe](name)
    if recipe is None:
      continue
    outcome = trials_lib.run(subject, trial, recipe, beta)
    how = (
      f'distance {outcome.distance:.4f}, p = {outcome.p_value:.2g}, with '
      f'{trial.who or "your drafter"} on prompt {trial.number + 1}'
    )
    if outcome.difference is not None:
      return True, how
  return how and (False, how)


def _compared(subject, name, recipe, tell):
  """(whether tokens of greedy decoding differ, in words)."""
  tell(f'negative control: {controls_lib.DESCRIPTIONS[name]}')
  finding = identity.compare(subject, 0.0, recipe, name, lambda text: None)
  differ = finding.fault is not None
  return differ, 'tokens differ' if differ else 'no difference'


def _power(config, law) -> str:
  alarm = config.false_alarm / trials_lib.number_of(config)
  near = law_lib.detectable(law, 1, config.samples, alarm)
  far = law_lib.detectable(law, law.length, config.samples, alarm)
  return (
    'power: with nine chances in ten a law test flags any next-token law '
    f'that is off by {near:.4f} in total variation, and any law of '
    f'{law.length} tokens that is off by {far:.4f}; an exact method is '
    f'called NOT LOSSLESS with a chance of at most {config.false_alarm:g}'
  )
