"""Law tests as a certificate runs them: prompts, laws and drafters.

Some of the trials have the user's own drafter. A drafter whose tokens are
seldom refused, or seldom accepted, hides the mistakes that a rule makes there.
Other trials therefore have drafters of our own: see `law.contrary` and
`law.near`.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax.certify import controls as controls_lib
from specjax.certify import exact_law
from specjax.certify import law as law_lib
from specjax.certify.identity import Progress
from specjax.certify.identity import Subject
from specjax.decoding import generate as generate_lib
from specjax.decoding import precision
from specjax.decoding import trees
from specjax.decoding.drafters import candidates
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters.custom import custom
from specjax.decoding.drafters.table import table
from specjax.inference import assemble

# Texts that are enumerated at most, where a tree cannot be made flatter.
MOST_TEXTS = 30_000
# Prompts among which those of the least certain next token are found. Where the
# target is certain of its token, any rule emits it and a test shows nothing.
CANDIDATES = 24
# Drafters of our own, and their draft laws.
OTHERS = (
  ('a contrary drafter', law_lib.contrary),
  ('a near drafter', law_lib.near),
)
# The trees that they draft: two candidates of each of two depths.
_TREE = trees.of_paths([(0,), (1,), (0, 0), (0, 1), (1, 0)])


class Trial(NamedTuple):
  """One law test.

  Attributes:
    who: name of the drafter; '' for the user's.
    number: number of the prompt, from 0.
    prompt: ids of the prompt.
    law: exact law of the output.
    assembled: method under test.
    recipe: recipe of the method, its target confined to the law's symbols.
    params: parameters of target and drafter.
    seed: seed of the draws.
  """

  who: str
  number: int
  prompt: Sequence[int]
  law: exact_law.Law
  assembled: assemble.Assembled
  recipe: generate_lib.Recipe
  params: generate_lib.Params
  seed: int


def number_of(config: Any) -> int:
  """Most trials that share the false alarm rate."""
  return config.law_prompts + len(OTHERS)


def make(subject: Subject, progress: Progress) -> list[Trial]:
  """The trials of a method, those with the user's drafter first.

  The prompts are those of the least certain next token. All are confined to
  the same symbols, so that one program serves them.
  """
  config, target = subject.config, subject.target
  scored = []
  for number, prompt in enumerate(subject.prompts[:CANDIDATES]):
    law = exact_law.next_law(
      _lm(subject),
      target.params,
      config.sampling_at(config.temperature, number),
      prompt,
      subject.end_ids,
    )
    # law [.5 .5]: .69, law [.99 .01]: .06; the first decides more
    entropy = -np.sum(law * np.log(np.maximum(law, 1e-30)))
    scored.append((-entropy, number, law))
  chosen = sorted(scored, key=lambda row: row[:2])[: config.law_prompts]
  # The sum of the laws ranks tokens that are likely after any of the prompts.
  symbols = exact_law.choose_symbols(
    sum(law for _, _, law in chosen), config.symbols, subject.end_ids
  )
  assembled = _shortened(subject, symbols)
  params = subject.params(assembled)
  seed = 1000 * config.seed
  trials = [
    Trial(
      '',
      number,
      subject.prompts[number],
      _law(subject, number, symbols, assembled.plan.max_path, progress),
      assembled,
      _confined(assembled, symbols),
      params,
      seed + 1 + place,
    )
    for place, (_, number, _) in enumerate(chosen)
  ]
  return trials + _with_others(subject, trials[0], progress)


def _confined(assembled, symbols) -> generate_lib.Recipe:
  """The recipe, its target confined to the symbols."""
  recipe = assembled.recipe
  return recipe._replace(target=exact_law.confined(recipe.target, symbols))


def _shortened(subject: Subject, symbols) -> assemble.Assembled:
  """The method with drafts short enough for every text to be enumerated.

  Raises:
    ValueError: a tree is too deep and cannot be made flatter.
  """
  config = subject.config
  made = subject.assembled(config.temperature, config.num_draft, symbols)
  # Texts of P + 2 tokens are enumerated for drafts of depth P: a whole draft,
  # the bonus token behind it, and one token of the round that follows.
  longest = config.how.longest_draft
  if made.plan.max_path <= longest:
    return made
  try:
    return subject.assembled(config.temperature, longest, symbols)
  except ValueError:
    # A tree of the user's has its own depth; it stays if its texts are few.
    ends = set(subject.end_ids)
    inner = len([symbol for symbol in symbols if symbol not in ends])
    if inner ** (made.plan.max_path + 1) <= MOST_TEXTS:
      return made
    raise


def changes(subject: Subject, trials: Sequence[Trial]) -> list[str]:
  """Lines of the report about what law tests change of the method."""
  config, first = subject.config, trials[0]
  lines = [
    f'law tests confine the target to {len(first.law.symbols)} of '
    f'{subject.target.lm.vocab_size} tokens'
  ]
  slots = first.assembled.plan.num_draft
  whole = subject.make(config.temperature, config.num_draft, ()).plan
  if (slots, first.assembled.plan.max_path) != (
    whole.num_draft,
    whole.max_path,
  ):
    lines.append(
      f'law tests draft {slots} slots with paths of '
      f'{first.assembled.plan.max_path}, in place of {whole.num_draft} and '
      f'{whole.max_path}'
    )
  return lines


def _law(subject, number, symbols, longest, progress) -> exact_law.Law:
  progress(f'enumerating the law of prompt {number + 1}')
  return exact_law.enumerate_law(
    _lm(subject),
    subject.target.params,
    subject.config.sampling_at(subject.config.temperature, number),
    subject.prompts[number],
    symbols=symbols,
    length=longest + 2,
    end_ids=subject.end_ids,
  )


def _lm(subject: Subject) -> base.CachedLM:
  """The target at the precision in which it decodes."""
  mode = subject.config.matmul_precision
  return precision.of_lm(subject.target.lm, mode)


def _with_others(subject, first: Trial, progress) -> list[Trial]:
  """The rule with drafters of our own, of the same shape."""
  config, target = subject.config, subject.target
  plan = first.assembled.plan
  ends = set(subject.end_ids)
  # An end token would cut texts short of the slots where rules err.
  symbols = tuple(i for i in first.law.symbols if i not in ends)[:3]
  # With one symbol every law is certain and a test could not fail.
  if len(symbols) < 2 or not plan.num_draft:
    return []
  made = custom(_table, has_log_probs=True, row_independent=True)
  num_draft = plan.num_draft
  if plan.is_tree:
    num_draft = _TREE.num_nodes
    made = custom(
      _tree_table,
      has_log_probs=True,
      row_independent=True,
      is_tree=True,
      max_path=_TREE.max_depth,
    )
  settings = config.recipe_settings(
    num_draft=num_draft,
    verifier=first.assembled.rule,
    warp=config.sampling_at(config.temperature).warp_spec(),
  )
  assembled = assemble.assemble(first.assembled.target, made, settings)
  if subject.broken:
    broken = controls_lib.make(
      subject.broken, assembled.recipe, config.temperature
    )
    assembled = assembled._replace(recipe=broken or assembled.recipe)
  law = _law(subject, first.number, symbols, assembled.plan.max_path, progress)
  return [
    Trial(
      who,
      first.number,
      first.prompt,
      law,
      assembled,
      _confined(assembled, symbols),
      generate_lib.Params(target.params, draft_law(law, target.lm.vocab_size)),
      first.seed + 100 + place,
    )
    for place, (who, draft_law) in enumerate(OTHERS)
  ]


def _table(num_draft: int, style: drawing.Style) -> base.Drafter:
  return table(1, num_draft, style)


@functools.cache
def _tree_table(num_draft: int, style: drawing.Style) -> base.Drafter:
  """Trees whose every node draws its children from one law."""
  del num_draft

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def propose(params, state, view):
    batch = view.last_token.shape[0]
    law = params.log_probs
    logits = jnp.broadcast_to(law, (batch, _TREE.max_depth, *law.shape))
    return candidates.tree(logits, view.context, _TREE, style), state

  def observe(params, state, observation):
    del params, observation
    return state

  return base.Drafter(init, propose, observe, _TREE.num_nodes, _TREE.max_depth)


def run(
  subject: Subject,
  trial: Trial,
  broken: generate_lib.Recipe | None = None,
  mistake: int | None = None,
) -> law_lib.LawOutcome:
  """Draws, counts and compares.

  Args:
    subject: method, prompts and settings.
    trial: law test, one of `make`.
    broken: recipe in the place of the trial's, with the same drafter.
    mistake: number of the rows' mistake, see `controls.combined`; None if
      `broken` makes one mistake alone.
  """
  config = subject.config
  dials = trial.assembled.dials()
  if mistake is not None:
    dials = controls_lib.wrapped(dials, mistake)
  return law_lib.test(
    trial.recipe if broken is None else broken,
    trial.params,
    config.sampling_at(config.temperature, trial.number),
    trial.prompt,
    trial.law,
    subject.end_ids,
    samples=config.samples,
    false_alarm=config.false_alarm / number_of(config),
    # Other draws than the method's, or a control would be flagged because its
    # draws were chosen: the method passed on those.
    seed=trial.seed + 500 * (broken is not None),
    rule=dials,
  )
