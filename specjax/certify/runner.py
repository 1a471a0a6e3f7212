"""Tests a method three ways, and tests the tests.

1. Identity: at temperature 0 the tokens are those of plain decoding, on the
   user's prompts; under `coupled` and `match` also at the temperature given.
2. Law: above temperature 0, counts of continuations over a few symbols are
   compared with their exact probabilities (`law`).
3. Negative controls: the same tests run on deliberately broken rules
   (`controls`). If they miss one of them, the verdict is INCONCLUSIVE.

The noise of a rule decides which test applies. `coupled` and `match` key their
noise by absolute position, as plain sampling does, so one seed gives the same
tokens and a single differing token is a fault. The other rules key it by round:
their tokens differ from plain sampling's though their law is the same, and only
counts of many draws can show a fault.

Controls are needed because a test that passes proves nothing by itself. A
drafter whose tokens are always accepted never reaches the code that corrects a
refused token, so a broken correction would pass as well.
"""

from collections.abc import Sequence
from typing import Any
import warnings

from specjax.certify import controls as controls_lib
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import steps as steps_lib
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
from specjax.inference import generation_config
from specjax.inference import idle
from specjax.inference import prompt_checks
from specjax.inference import token_lists


def certify(
  target: model_lib.Model,
  source: Source,
  prompts: Sequence[Sequence[int]],
  config: CertifyConfig,
  progress: Progress = lambda text: None,
  index: Any = None,
  *,
  report: Progress = lambda line: None,
) -> verdict.Certificate:
  """Certifies a drafter with a verification rule, as `decode.main` runs them.

  Args:
    target: model whose law is to be kept.
    source: drafter, from `sources.resolve`.
    prompts: rows of ids.
    config: `CertifyConfig`.
    progress: callback with a line when a step begins: its number, the number of
      all steps, and an estimate of the time left.
    index: `corpus.Index` of earlier answers, or None.
    report: callback with each line of the certificate as soon as it is known.

  Returns:
    `verdict.Certificate`.
  """
  config.validate()
  # Of min_length each prompt has its own part.
  encoded = [('', prompt) for prompt in prompts]
  config, taken = generation_config.apply(config, target, encoded)
  config = token_lists.resolved(config, target)

  def make(temperature, num_draft, allowed) -> assemble.Assembled:
    rule = config.rule()
    # At temperature 0 such a rule is the greedy one, which 'auto' chooses.
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
  prompt_checks.note_positions(assembled, config, list(map(len, prompts)))
  for note in idle.check(config, assembled):
    warnings.warn(note, stacklevel=2)
  mode, dtype, rows = config.costs, config.dtype, config.batch_size
  costs = costs_lib.choose(assembled, mode, dtype, rows)
  data = DraftData(rows=prompts, index=index, costs=costs)
  subject = Subject(target, make, data, config, prompts, config.broken)
  applied = generation_config.describe(taken, target.name)
  if applied:
    report(applied)
  made = certify_subject(subject, progress, report=report)
  return made.with_taken(taken.values, applied)


def certify_subject(
  subject: Subject,
  progress: Progress = lambda text: None,
  *,
  report: Progress = lambda line: None,
) -> verdict.Certificate:
  """Certifies the method that `subject.make` returns; it may be your own.

  Args:
    subject: method, prompts and settings.
    progress: callback, as in `certify`.
    report: callback, as in `certify`.
  """
  config = subject.config.filled()
  subject = subject._replace(config=config)
  steps = steps_lib.Steps(
    _count(subject), progress, report, seconds=config.how.seconds
  )
  progress(
    f'effort={config.effort}: {steps.total} steps, which take '
    f'{config.how.expected} with a small model on two cores; a law is tested '
    f'with {config.samples} continuations'
  )
  findings: list[Finding] = []
  try:
    flagged = _run_steps(subject, steps, findings)
  except steps_lib.TimeUpError as error:
    # A fault found in time is a verdict, however many tests are left.
    if not any(finding.fault for finding in findings):
      return verdict.Certificate(
        verdict.INCONCLUSIVE, str(error), tuple(steps.lines), {}
      )
    flagged = {}
  return verdict.judge(subject, findings, flagged, steps.lines)


def _count(subject: Subject) -> int:
  """Number of steps of a certification, those that may be left out included."""
  config = subject.config
  if not config.temperature:
    return 1 + len(controls_lib.NAMES)
  laws = min(config.law_prompts, len(subject.prompts))
  # Two identities; each law and one for drafters of our own are enumerated;
  # each law is tested with each drafter; controls follow. With 2 law prompts
  # these are 2 + (2 + 1) + (2 + 2) + 8 = 17 steps.
  return 2 + laws + 1 + laws + len(trials_lib.OTHERS) + len(controls_lib.NAMES)


def _run_steps(
  subject: Subject, steps: steps_lib.Steps, findings: list[Finding]
) -> dict:
  """Takes all steps and adds to `findings`; returns the flagged controls."""
  config = subject.config
  temperature = float(config.temperature)
  greedy = subject.assembled(0.0, config.num_draft)

  def found(finding):
    findings.append(finding)
    steps.finish(finding.line)

  found(identity.compare(subject, 0.0, greedy, 'greedy identity', steps.begin))
  trials = []
  if temperature > 0:
    assembled = subject.assembled(temperature, config.num_draft)
    for note in assembled.notes:
      steps.finish(note)
    if assembled.rule.keeps_target_sample:
      title = f'identity with plain sampling at T={temperature:g}'
      found(
        identity.compare(subject, temperature, assembled, title, steps.begin)
      )
    else:
      steps.leave_out()
    trials = trials_lib.make(subject, steps.begin)
    if not any(trial.who for trial in trials):
      steps.leave_out(1 + len(trials_lib.OTHERS))
    for line in trials_lib.changes(subject, trials):
      steps.finish(line)
    for trial in trials:
      found(_law_finding(subject, trial, steps.begin))
  return _run_controls(subject, trials, steps)


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
  # Drafts of another drafter are no evidence that the user's drafter drafts.
  empty = bool(trial.who) or not outcome.drafted
  if outcome.difference is None:
    return Finding(line, None, empty=empty)
  d = outcome.difference
  fault = (
    f'prompt {trial.number + 1}{who}: continuations that begin '
    f'{identity.show(subject, d.tokens)} should have probability '
    f'{d.expected:.4f} among the tested symbols, but {d.observed:.4f} of '
    f'{outcome.samples} did (p = {d.p_value:.2g})'
  )
  if not outcome.drafted:
    return Finding(f'{line}; DIFFERS', None, empty=True, doubt=fault)
  return Finding(f'{line}; FAILED', fault, len(d.tokens), empty)


def _broken(recipe, temperature):
  """Makes `name -> (recipe, number)` of mistakes; (None, None) where none is.

  Above temperature 0 most of them share one program, which is compiled when
  the first of them is run; see `controls.combined`.
  """
  shared, chosen = None, {}
  if temperature > 0:
    shared, chosen = controls_lib.combined(recipe, temperature)

  def get(name):
    if name in chosen:
      return shared, chosen[name]
    return controls_lib.make(name, recipe, temperature), None

  return get


def _run_controls(subject, trials, steps: steps_lib.Steps) -> dict:
  """Runs every broken rule: {its name: whether the tests flag it}."""
  config = subject.config
  flagged = {}
  greedy = None if trials else subject.assembled(0.0, config.num_draft)
  temperature = float(config.temperature)
  programs = {
    recipe: _broken(recipe, temperature)
    for recipe in {trial.recipe: None for trial in trials}
  }
  for name in controls_lib.NAMES:
    what = controls_lib.DESCRIPTIONS[name]
    if trials:
      steps.begin(f'negative control: {what}')
      found = _tried(subject, name, trials, programs)
    else:
      made = controls_lib.make(name, greedy.recipe, 0.0)
      if not made:
        steps.leave_out()
        continue
      steps.begin(f'negative control: {what}')
      found = _compared(subject, name, greedy._replace(recipe=made))
    if not found:
      continue
    flagged[name], how = found
    word = 'flagged' if flagged[name] else 'NOT flagged'
    steps.finish(f'control: {what}: {word} ({how})')
  if trials:
    steps.finish(_power(config, trials[0].law))
  return flagged


def _tried(subject, name, trials, programs):
  """(whether a trial flags the mistake, which and how), or None."""
  how = None
  # A method must pass all trials, so one that flags the mistake is enough.
  # Which one depends on the part of the rule that its drafter reaches.
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


def _compared(subject, name, assembled):
  """(whether tokens of greedy decoding differ, in words)."""
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
