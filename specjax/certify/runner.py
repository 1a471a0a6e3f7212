"""Tests a method three ways, and tests the tests.

1. Identity: at temperature 0 the tokens are those of plain decoding, on the
   user's prompts; under `coupled` and `match` also at the temperature given.
2. Law: above temperature 0, counts of continuations over a few symbols against
   their exact probabilities (`law`).
3. Negative controls: the same tests on deliberately broken rules (`controls`).
   Where one of those passes too, the verdict is that nothing can be said.
"""

from typing import Any, Sequence

from specjax.certify import controls as controls_lib
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import trials as trials_lib
from specjax.certify import verdict
from specjax.certify.config import CertifyConfig
from specjax.certify.identity import Finding
from specjax.certify.identity import Progress
from specjax.certify.identity import Subject
from specjax.checkpoints import model as model_lib
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.inference import assemble
from specjax.inference import costs as costs_lib


def certify(
  target: model_lib.Model,
  source: Source,
  prompts: Sequence[Sequence[int]],
  config: CertifyConfig,
  progress: Progress = lambda text: None,
  index: Any = None,
) -> verdict.Certificate:
  """Certifies a drafter with a verification rule, as `decode.main` runs them.

  Args:
    target: the target.
    source: what drafts, of `sources.resolve`.
    prompts: rows of ids.
    config: `CertifyConfig`, validated.
    progress: called with a line.
    index: `corpus.Index` of earlier answers, or None.

  Returns:
    `verdict.Certificate`.
  """

  def make(temperature, num_draft, allowed) -> assemble.Assembled:
    rule = config.rule()
    if not temperature and rule is not None and rule.greedy_at_zero:
      rule = None
    settings = config.recipe_settings(
      num_draft=num_draft,
      verifier=rule or verifier_registry.AUTO,
      warp=config.sampling_at(temperature).warp_spec(),
      allowed_tokens=allowed,
    )
    return assemble.assemble(
      assemble.target_of(target), source, settings, rows=config.batch_size
    )

  assembled = make(float(config.temperature), config.num_draft, ())
  data = DraftData(
    rows=prompts,
    index=index,
    costs=costs_lib.choose(
      assembled, config.costs, config.dtype, config.batch_size
    ),
  )
  subject = Subject(target, make, data, config, prompts, config.broken)
  return certify_subject(subject, progress)


def certify_subject(
  subject: Subject, progress: Progress = lambda text: None
) -> verdict.Certificate:
  """Certifies whatever `subject.make` gives; also a method of your own.

  Args:
    subject: the method, prompts and settings.
    progress: called with a line.
  """
  config = subject.config
  temperature = float(config.temperature)
  greedy = subject.assembled(0.0, config.num_draft)
  findings = [
    identity.compare(subject, 0.0, greedy, 'greedy identity', progress)
  ]
  trials, lines = [], []
  if temperature > 0:
    assembled = subject.assembled(temperature, config.num_draft)
    if assembled.rule.keeps_target_sample:
      title = f'identity with plain sampling at T={temperature:g}'
      findings.append(
        identity.compare(subject, temperature, assembled, title, progress)
      )
    trials = trials_lib.make(subject, progress)
    lines = trials_lib.changes(subject, trials)
    findings += [_law_finding(subject, trial, progress) for trial in trials]
  flagged, power = _run_controls(subject, trials, progress)
  return verdict.judge(subject, findings, flagged, [*lines, *power])


def _law_finding(subject, trial: trials_lib.Trial, progress) -> Finding:
  who = f' and {trial.who}' if trial.who else ''
  progress(f'law test on prompt {trial.number + 1}{who}')
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
  """Gives each mistake's recipe and its number; (None, None) for none.

  Above temperature 0 most of them share one program, which is compiled when
  the first of them is run.
  """
  shared, chosen = None, {}
  if temperature > 0:
    shared, chosen = controls_lib.combined(recipe, temperature)

  def get(name):
    if name in chosen:
      return shared, chosen[name]
    return controls_lib.make(name, recipe, temperature), None

  return get


def _run_controls(subject, trials, progress) -> tuple[dict, list[str]]:
  """Whether each broken rule is told from an exact one, and the power."""
  config = subject.config
  flagged, lines = {}, []
  greedy = None if trials else subject.assembled(0.0, config.num_draft)
  temperature = float(config.temperature)
  programs = {
    recipe: _broken(recipe, temperature)
    for recipe in {trial.recipe: None for trial in trials}
  }
  for name in controls_lib.NAMES:
    what = controls_lib.DESCRIPTIONS[name]
    if trials:
      progress(f'negative control: {what}')
      found = _tried(subject, name, trials, programs)
    else:
      made = controls_lib.make(name, greedy.recipe, 0.0)
      found = made and _compared(
        subject, name, greedy._replace(recipe=made), progress
      )
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
    recipe, mistake = programs[trial.recipe](name)
    if recipe is None:
      continue
    outcome = trials_lib.run(subject, trial, recipe, mistake)
    how = (
      f'distance {outcome.distance:.4f}, p = {outcome.p_value:.2g}, with '
      f'{trial.who or "your drafter"} on prompt {trial.number + 1}'
    )
    if outcome.difference is not None:
      return True, how
  return how and (False, how)


def _compared(subject, name, assembled, progress):
  """(whether tokens of greedy decoding differ, in words)."""
  progress(f'negative control: {controls_lib.DESCRIPTIONS[name]}')
  finding = identity.compare(subject, 0.0, assembled, name, lambda text: None)
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
