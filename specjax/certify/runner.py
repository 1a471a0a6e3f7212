"""Tests a method three ways, and tests the tests.

1. Identity: at temperature 0 the tokens are those of plain decoding, on the
   user's prompts; under `coupled` and `match` also at the temperature given.
2. Law: above temperature 0, counts of continuations over a few symbols against
   their exact probabilities (`law`).
3. Negative controls: the same tests on deliberately broken rules (`controls`).
   A test that passes those as well proves nothing, and the verdict says so.
"""

import dataclasses
from typing import Any, Callable, Optional, Sequence

import numpy as np

from specjax import base
from specjax import drafting
from specjax import loading
from specjax.certify import controls as controls_lib
from specjax.certify import identity
from specjax.certify import law as law_lib
from specjax.certify import verdict
from specjax.certify.config import CertifyConfig
from specjax.certify.identity import Finding
from specjax.certify.identity import Subject
from specjax.certify.identity import unconfined
from specjax.decoding import build
from specjax.decoding import drafters
from specjax.decoding import generate as generate_lib
from specjax.decoding.request import Sampling

# Longest draft of the law test: texts of K + 2 tokens are enumerated.
LONGEST_LAW_DRAFT = 4
# Prompts looked at to find those of the least certain next token.
CANDIDATES = 24
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
    drafter: a `loading.Model`, or a name that `build.recipe` knows.
    prompts: rows of ids.
    config: `CertifyConfig`, validated.
    tell: is told of progress.

  Returns:
    `verdict.Certificate`.
  """
  is_model = isinstance(drafter, loading.Model)
  verify = 'auto' if config.broken else config.verify

  def make(temperature, num_draft, confine) -> generate_lib.Recipe:
    given = config.decoding().sampling()
    sampling = Sampling(**{**vars(given), 'temperature': temperature})
    drafts = drafting.for_recipe(target, drafter, num_draft)
    if isinstance(drafts, (base.CachedLM, drafters.SlotSpec)):
      drafts = confine(drafts)
    elif isinstance(drafts, build.Attached):
      drafts = drafts._replace(target=confine(drafts.target))
    made = build.recipe(
      confine(drafting.target_lm(target, drafter)),
      drafts,
      num_draft=num_draft,
      verify=verify if temperature or verify in _GREEDY_TOO else 'auto',
      warp=sampling.warp_spec(),
      sampler=config.sampler,
    )
    if not config.broken:
      return made
    return controls_lib.make(config.broken, made, temperature) or made

  params = drafting.params(drafter, target=target) if is_model else None
  return certify_recipe(Subject(target, make, params, config, prompts), tell)


_GREEDY_TOO = ('greedy', 'lenient', 'top_candidates')


def certify_recipe(
  subject: Subject, tell: Tell = lambda text: None
) -> verdict.Certificate:
  """Certifies whatever `subject.make` gives; also a rule of your own."""
  config = subject.config
  temperature = float(config.temperature)
  greedy = subject.make(0.0, config.num_draft, unconfined)
  findings = [identity.compare(subject, 0.0, greedy, 'greedy identity', tell)]
  recipe = subject.make(temperature, config.num_draft, unconfined)
  laws, stress = [], None
  if temperature > 0:
    if recipe.verifier.name in ('coupled', 'match'):
      findings.append(
        identity.compare(
          subject, temperature, recipe,
          f'identity with plain sampling at T={temperature:g}', tell,
        )
      )  # fmt: skip
    laws = _laws(subject, tell)
    stress = _stress(subject, laws, tell)
    findings += _law_findings(subject, laws, stress, tell)
  flagged, power = _run_controls(subject, laws, stress, tell)
  return verdict.judge(subject, findings, flagged, power)


def _laws(subject: Subject, tell: Tell) -> list:
  """(prompt number, its ids, `law.Law`) of the least certain prompts.

  All are confined to the same symbols, so that one program serves them.
  """
  config, target = subject.config, subject.target
  scored = []
  for number, prompt in enumerate(subject.prompts[:CANDIDATES]):
    law = law_lib.next_law(target.lm, target.params, prompt, config.temperature)
    entropy = -np.sum(law * np.log(np.maximum(law, 1e-30)))
    scored.append((-entropy, number, law))
  chosen = sorted(scored, key=lambda row: row[:2])[: config.law_prompts]
  symbols = law_lib.choose_symbols(
    sum(law for _, _, law in chosen), config.symbols, target.eos_ids
  )
  laws = []
  for _, number, _ in chosen:
    tell(f'enumerating the law of prompt {number + 1}')
    law = law_lib.enumerate_law(
      target.lm,
      target.params,
      subject.sampling(config.temperature),
      subject.prompts[number],
      symbols,
      _law_draft(config) + 2,
      target.eos_ids,
    )
    laws.append((number, subject.prompts[number], law))
  return laws


def _confine(laws) -> identity.Confine:
  """To the symbols of the laws."""
  if not laws:
    return unconfined
  symbols = laws[0][2].symbols
  return lambda lm: law_lib.confined(lm, symbols)


def _law_draft(config: CertifyConfig) -> int:
  return min(config.num_draft, LONGEST_LAW_DRAFT)


def _law_test(
  subject, recipe, prompt, law, salt: int, beta: Optional[int] = None
) -> law_lib.Outcome:
  config = subject.config
  sampling = subject.sampling(config.temperature)
  if beta is not None:
    sampling = dataclasses.replace(sampling, beta=beta)
  return law_lib.test(
    recipe,
    subject.params(),
    sampling,
    prompt,
    law,
    subject.target.eos_ids,
    samples=config.samples,
    false_alarm=config.false_alarm / _num_laws(config),
    seed=config.seed + 1000 * salt + 1,
  )


def _law_findings(subject, laws, stress, tell) -> list[Finding]:
  config = subject.config
  recipe = subject.make(
    float(config.temperature), _law_draft(config), _confine(laws)
  )
  findings = []
  for salt, (number, prompt, law) in enumerate(laws):
    tell(f'law test on prompt {number + 1}')
    outcome = _law_test(subject, recipe, prompt, law, salt)
    findings.append(_law_finding(subject, number, recipe, law, outcome, ''))
  if stress:
    tell('law test with a contrary drafter')
    number, prompt, _ = laws[0]
    outcome = _test_stress(subject, stress[0], stress, prompt)
    made = _law_finding(
      subject, number, recipe, stress[2], outcome, ' and a contrary drafter'
    )
    findings.append(made._replace(empty=True))
  return findings


def _law_finding(subject, number, recipe, law, outcome, who) -> Finding:
  line = (
    f'law: prompt {number + 1}{who}, {outcome.samples} continuations of '
    f'{law.length} tokens over {len(law.symbols)} symbols, '
    f'K={recipe.drafter.num_draft}: p = {outcome.p_value:.3g} '
    f'(corrected), distance {outcome.distance:.4f} where sampling alone '
    f'makes {outcome.noise:.4f}; {outcome.accepted} of {outcome.drafted} '
    'draft tokens accepted'
  )
  if not outcome.drafted:
    return Finding(line, None, empty=True)
  if outcome.difference is None:
    return Finding(line, None)
  d = outcome.difference
  fault = (
    f'prompt {number + 1}{who}: continuations that begin '
    f'{identity.show(subject, d.tokens)} should have probability '
    f'{d.expected:.4f} among the tested symbols, but {d.observed:.4f} of '
    f'{outcome.samples} did (p = {d.p_value:.2g})'
  )
  return Finding(f'{line}; FAILED', fault, len(d.tokens))


def _stress(subject, laws, tell):
  """A law test of the rule with a contrary drafter: (recipe, params, law).

  Its draft law is the target's turned round: what the target likes it avoids.
  A rule that errs where drafts are refused shows it here, however rarely the
  user's own drafter is refused. None for trees.
  """
  config, target = subject.config, subject.target
  number, prompt, law = laws[0]
  ends = set(target.eos_ids)
  symbols = tuple(i for i in law.symbols if i not in ends)[:3]
  num_draft = _law_draft(config)
  temperature = float(config.temperature)

  def confine(lm):
    return law_lib.confined(lm, symbols)

  recipe = subject.make(temperature, num_draft, confine)
  if recipe.drafter.max_path != num_draft or len(symbols) < 2:
    return None
  tell(f'enumerating the stress law of prompt {number + 1}')
  stress = law_lib.enumerate_law(
    target.lm,
    target.params,
    subject.sampling(temperature),
    prompt,
    symbols,
    num_draft + 2,
    target.eos_ids,
  )
  drafter = drafters.table(
    1,
    num_draft,
    drafters.style_for(recipe.verifier, recipe.warp, config.sampler),
  )
  table = law_lib.contrary(stress, target.lm.vocab_size)
  params = subject.params().replace(drafter=table)
  return recipe._replace(drafter=drafter, widths=()), params, stress


def _test_stress(subject, recipe, stress, prompt, beta=None) -> law_lib.Outcome:
  return _law_test(
    subject._replace(drafter_params=stress[1].drafter),
    recipe,
    prompt,
    stress[2],
    55,
    beta,
  )


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


def _run_controls(subject, laws, stress, tell) -> tuple[dict, list[str]]:
  """Whether each broken rule is told from an exact one, and the power."""
  config = subject.config
  temperature = float(config.temperature)
  flagged, lines = {}, []
  num_draft = _law_draft(config) if laws else config.num_draft
  sound = subject.make(temperature, num_draft, _confine(laws))
  programs = _broken(sound, temperature)
  contrary = _broken(stress[0], temperature) if stress else None
  for name in controls_lib.NAMES:
    broken, beta = programs(name)
    if broken is None:
      continue
    tell(f'negative control: {controls_lib.DESCRIPTIONS[name]}')
    if laws:
      outcome = _law_test(
        subject, broken, laws[0][1], laws[0][2], 77, beta=beta
      )
      where = 'with your drafter'
      if outcome.difference is None and contrary:
        broken, beta = contrary(name)
        outcome = _test_stress(subject, broken, stress, laws[0][1], beta)
        where = 'with the contrary drafter'
      flagged[name] = outcome.difference is not None
      found = (
        f'distance {outcome.distance:.4f}, p = {outcome.p_value:.2g}, {where}'
      )
    else:
      finding = identity.compare(subject, 0.0, broken, name, lambda text: None)
      flagged[name] = finding.fault is not None
      found = 'tokens differ' if flagged[name] else 'no difference'
    word = 'flagged' if flagged[name] else 'NOT flagged'
    lines.append(
      f'control: {controls_lib.DESCRIPTIONS[name]}: {word} ({found})'
    )
  if laws:
    lines.append(_power(config, laws[0][2]))
  return flagged, lines


def _power(config, law) -> str:
  alarm = config.false_alarm / _num_laws(config)
  near = law_lib.detectable(law, 1, config.samples, alarm)
  far = law_lib.detectable(law, law.length, config.samples, alarm)
  return (
    'power: with nine chances in ten a law test flags any next-token law '
    f'that is off by {near:.4f} in total variation, and any law of '
    f'{law.length} tokens that is off by {far:.4f}; an exact method is '
    f'called NOT LOSSLESS with a chance of at most {config.false_alarm:g}'
  )


def _num_laws(config) -> int:
  """Law tests that share the false alarm rate: prompts, and the stress."""
  return config.law_prompts + 1
