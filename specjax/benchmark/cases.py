"""The grid of what is measured, and the batches it is measured on."""

import itertools
from typing import Any, NamedTuple, Optional, Sequence

import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.benchmark.subjects import Subject
from specjax.benchmark.subjects import TABLE_ORDER
from specjax.checkpoints import load as loading
from specjax.decoding import drafters
from specjax.decoding import generate as generate_lib
from specjax.decoding import verifiers as verifiers_lib
from specjax.decoding.controls import row_keys
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import drafting

TARGET_SAMPLE_RULES = ('greedy', 'coupled', 'match')


class Batch(NamedTuple):
  """Rows decoded together.

  Attributes:
    prompt: `base.Prompt`.
    controls: `base.Controls`.
    rows: which prompts these are.
  """

  prompt: base.Prompt
  controls: base.Controls
  rows: tuple[int, ...]


class Case(NamedTuple):
  """One way to decode; a row of the result.

  Attributes:
    drafter: `Subject`, or None for plain decoding.
    verifier: resolved name ('' for plain decoding).
    num_draft: K; 0 for plain decoding.
    temperature, batch_size: as in the config.
    recipe: what `generate` is given.
    params: `generate.Params`; the drafter's are None for kind 'simulated',
      whose `Script` belongs to a batch.
    beta, tau: of the verifier `top_candidates`.
    tree: of its drafts, '' for chains.
  """

  drafter: Optional[Subject]
  verifier: str
  num_draft: int
  temperature: float
  batch_size: int
  recipe: generate_lib.Recipe
  params: Any
  beta: int = 1
  tau: float = 0.0
  tree: str = ''

  def controls(self, batch: Batch) -> base.Controls:
    """The batch's controls, with this case's `beta` and `tau`."""
    given = batch.controls
    return given.replace(
      beta=jnp.full_like(given.beta, self.beta),
      tau=jnp.full_like(given.tau, self.tau),
    )

  @property
  def name(self) -> str:
    """How the drafter is shown."""
    return self.drafter.name if self.drafter else 'none'

  @property
  def exact(self) -> bool:
    """Whether the target's law is kept."""
    return self.recipe.verifier.exact


def plain(target: loading.Model, config, temperature, batch_size) -> Case:
  """The baseline: plain decoding on the same loop."""
  sampling = config.sampling(temperature)
  recipe = assemble.recipe(
    target.lm, warp=sampling.warp_spec(), sampler=config.sampler
  )
  params = generate_lib.Params(target.params)
  return Case(None, '', 0, temperature, batch_size, recipe, params)


def grid(
  target: loading.Model,
  subjects: Sequence[Optional[Subject]],
  config,
  temperature: float,
  batch_size: int,
  tables: dict,
) -> list[Case]:
  """Plain decoding, then every drafter, verifier and K once.

  Args:
    target: the target.
    subjects: drafters.
    config: `BenchmarkConfig`.
    temperature, batch_size: of all of them.
    tables: parameters of the table drafters in use, by kind, and the corpus of
      those that read one under 'corpus'.

  Returns:
    Cases; two verifiers that mean the same rule here give one.

  Raises:
    ValueError: where a drafter and a verifier do not fit.
  """
  cases = [plain(target, config, temperature, batch_size)]
  for subject in subjects:
    for num_draft in config.num_draft if subject else ():
      seen = set()
      ways = itertools.product(_trees(subject, config), config.verify)
      for tree, verify in ways:
        case = speculative(
          target, subject, config, temperature, batch_size, num_draft, verify,
          tables, tree=tree,
        )  # fmt: skip
        if (tree, case.verifier) not in seen:
          seen.add((tree, case.verifier))
          cases.append(case)
  return cases


def _trees(subject: Subject, config) -> Sequence[str]:
  """The trees that a drafter is measured with; '' is a chain."""
  attached = subject.model is not None and drafting.is_attached(subject.model)
  return config.tree if attached else ('',)


def speculative(
  target,
  subject,
  config,
  temperature,
  batch_size,
  num_draft,
  verify,
  tables,
  relaxed: tuple = (1, 0.0),
  tree: str = '',
) -> Case:
  """One speculative case; see `grid`. `relaxed` is (beta, tau)."""
  spec = config.sampling(temperature).warp_spec()
  drafter_params = None
  if subject.kind in ('model', 'slots', 'hybrid') + assemble.FREE_DRAFTERS:
    drafter = subject.drafter
    recipe = assemble.recipe(
      drafting.target_lm(target, drafter),
      drafting.for_recipe(target, drafter, num_draft, batch_size),
      num_draft=num_draft,
      verify=verify,
      warp=spec,
      sampler=config.sampler,
      min_promise=drafting.min_promise(target, num_draft, batch_size),
      search=config.search,
      tree=tree,
    )
    drafter_params = drafting.params(drafter, tables.get('corpus'), target)
  else:
    recipe = _special(target, subject, num_draft, verify, spec, config)
    drafter_params = tables.get(subject.kind)
  return Case(
    subject,
    recipe.verifier.name,
    num_draft,
    temperature,
    batch_size,
    recipe,
    generate_lib.Params(target.params, drafter_params),
    int(relaxed[0]),
    float(relaxed[1]),
    tree,
  )


def _special(target, subject, num_draft, verify, spec, config):
  """A recipe with a drafter that `assemble.recipe` does not know."""
  lm = target.lm
  if subject.kind == 'simulated':
    name = assemble.choose_verifier(verify, spec, 'simulated')
    if name not in TARGET_SAMPLE_RULES:
      raise ValueError(
        f'{subject.name} copies what the target says, so its verifier must be '
        f'one of {", ".join(TARGET_SAMPLE_RULES)} (or auto), not {name}.'
      )
    made = drafters.simulated(num_draft=num_draft, vocab_size=lm.vocab_size)
    verifier = verifiers_lib.make(name, sampler=config.sampler)
  else:
    # A table has probabilities, so 'auto' may choose as for a draft model.
    name = assemble.choose_verifier(verify, spec, lm)
    verifier = verifiers_lib.make(name, sampler=config.sampler)
    made = drafters.table(
      TABLE_ORDER[subject.kind],
      num_draft,
      drafters.style_for(verifier, spec, config.sampler),
    )
  return generate_lib.Recipe(lm, made, verifier, spec)


def batches(
  prompts: Sequence[prompts_lib.Prompt],
  target: loading.Model,
  config,
  temperature: float,
  batch_size: int,
) -> list[Batch]:
  """Groups prompts in order; the last group is filled from the beginning."""
  count = -(-len(prompts) // batch_size) * batch_size
  order = [i % len(prompts) for i in range(count)]
  groups = [order[i : i + batch_size] for i in range(0, count, batch_size)]
  widths = text_lib.widths(
    [max(len(prompts[i].tokens) for i in group) for group in groups]
  )
  eos_ids = () if config.ignore_eos else target.eos_ids
  made = []
  for start, (group, width) in enumerate(zip(groups, widths)):
    tokens, lengths = text_lib.pad([prompts[i].tokens for i in group], width)
    # Prompts that fill the last batch get noise of their own.
    ids = np.arange(start * batch_size, (start + 1) * batch_size)
    controls = config.sampling(temperature).controls(
      row_keys(config.seed, ids), config.max_new_tokens, eos_ids
    )
    prompt = base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths))
    if target.layout is not None:
      rows = target.layout.rows(batch_size)
      prompt = transfer.put(prompt, target.layout, rows)
      controls = transfer.put_controls(controls, target.layout)
    made.append(Batch(prompt, controls, tuple(group)))
  return made
