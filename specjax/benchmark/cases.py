"""The cases of a benchmark, and the batches on which they are measured."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import options as options_lib
from specjax import text as text_lib
from specjax.benchmark import prompts as prompts_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import contract
from specjax.decoding import generate as generate_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from specjax.decoding.drafters.entry import DraftData
from specjax.decoding.drafters.entry import Source
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import config as config_lib
from specjax.inference import costs as costs_lib
from specjax.inference import looping

# Committed tokens at which costs are measured.
_WIDTH = 64


class PromptBatch(NamedTuple):
  """Rows decoded together.

  Attributes:
    prompt: `base.Prompt` of the rows.
    controls: `base.Controls` of the rows.
    rows: number of each row's prompt.
  """

  prompt: base.Prompt
  controls: base.Controls
  rows: tuple[int, ...]


class Case(NamedTuple):
  """One way to decode; a row of the result.

  Attributes:
    assembled: target, drafter and rule.
    data: inputs of the drafter's parameters.
    params: `generate.Params`; made anew for each batch where the drafter reads
      the batch's script.
    num_draft: draft length K as asked for; 0 for plain decoding.
    temperature, batch_size: values of the config's sweep.
    tree: shape of the drafts; '' for chains.
    exempt: whether acceptance counts inside of loops too; see `looping`.
  """

  assembled: assemble.Assembled
  data: DraftData
  params: generate_lib.Params
  num_draft: int
  temperature: float
  batch_size: int
  tree: str = ''
  exempt: bool = False

  def controls(self, batch: PromptBatch) -> base.Controls:
    """The batch's controls, with the dials of this case's rule."""
    given = batch.controls
    rows = given.temperature.shape[0]
    dials = self.assembled.dials()
    return given.replace(
      rule={name: jnp.full((rows,), dial) for name, dial in dials.items()}
    )

  def params_for(self, script: base.Array | None) -> generate_lib.Params:
    """Parameters for a batch whose plain continuation is int32 [B, N]."""
    if not self.assembled.plan.reads_script:
      return self.params
    return self.assembled.params(self.data._replace(script=script))

  def decode(
    self,
    batches: Sequence[PromptBatch],
    max_new_tokens: int,
    scripts: Sequence[base.Array] | None = None,
  ) -> list:
    """`Generation`s of numpy arrays; `scripts` as in `params_for`, by batch.

    Raises:
      ValueError: a drafter or rule of the user's own broke its contract.
    """
    run = assemble.compiled(self.recipe, max_new_tokens)
    made = []
    for index, batch in enumerate(batches):
      params = self.params_for(scripts[index]) if scripts else self.params
      found = transfer.to_host(run(params, batch.prompt, self.controls(batch)))
      contract.refuse(found.faults)
      made.append(found)
    return made

  @property
  def recipe(self) -> generate_lib.Recipe:
    """The recipe that `generate` runs."""
    return self.assembled.recipe

  @property
  def drafts(self) -> bool:
    """Whether something is drafted."""
    return self.assembled.drafts

  @property
  def source(self) -> Source:
    """The drafter and its model."""
    return self.assembled.source

  @property
  def name(self) -> str:
    """Name of the drafter."""
    return self.source.name

  @property
  def label(self) -> str:
    """Drafter, K, rule and tree, for lines of progress."""
    words = self.name, f'K={self.num_draft}', self.verifier, self.tree
    return ' '.join(filter(None, words))

  @property
  def verifier(self) -> str:
    """Name of the rule in force; '' for plain decoding."""
    return self.assembled.rule.name if self.drafts else ''

  @property
  def passes(self) -> int | None:
    """Passes of its drafter network a round: 1 or K; None without one."""
    source = self.source
    if not self.drafts or source.model is None or source.entry.wraps:
      return None
    return 1 if self.assembled.plan.one_pass else self.num_draft

  @property
  def exact(self) -> bool:
    """Whether the target's law is kept."""
    return self.assembled.is_exact


def plain(
  target: model_lib.Model,
  config: Any,
  temperature: float,
  batch_size: int,
  **changes: Any,
) -> Case:
  """The baseline: plain decoding on the same loop.

  Another loop would differ in more than the drafts.

  Args:
    target: model that decides.
    config: `BenchmarkConfig`.
    temperature: temperature of the rows.
    batch_size: number of rows decoded together.
    **changes: fields of `assemble.Settings` that differ.
  """
  settings = config.recipe_settings(temperature, num_draft=0, **changes)
  assembled = assemble.assemble(
    assemble.target_of(target), None, settings, rows=batch_size
  )
  return Case(
    assembled,
    DraftData(),
    assembled.params(),
    0,
    temperature,
    batch_size,
    exempt=looping.is_exempt(assembled, config.ignore_eos),
  )


def trees_of(source: Source, config: Any) -> Sequence[str]:
  """The trees that a drafter is measured with; '' is a chain."""
  named = (f for f in dataclasses.fields(source.entry.options))
  takes_trees = any(f.name == 'tree' and f.default == '' for f in named)
  return config.tree if takes_trees else ('',)


def speculative(
  target: model_lib.Model,
  source: Source,
  settings: assemble.Settings,
  data: DraftData,
  *,
  temperature: float,
  batch_size: int,
  config: Any,
  tree: str = '',
) -> Case:
  """One speculative case.

  Args:
    target: model that decides.
    source: drafter.
    settings: settings of the recipe, at one K and under one rule.
    data: inputs of the drafter's parameters.
    temperature: temperature of the rows.
    batch_size: number of rows decoded together.
    config: `BenchmarkConfig`; its `costs` and `dtype` choose the costs.
    tree: shape of the drafts; '' for chains.
  """
  if tree:
    entry = source.entry
    options = options_lib.of(settings.drafters, entry)
    options = dataclasses.replace(options, tree=tree)
    settings = settings._replace(drafters={entry.name: options})
  assembled = assemble.assemble(
    assemble.target_of(target), source, settings, rows=batch_size
  )
  mode, dtype = config.costs, config.dtype
  data = data._replace(
    costs=costs_lib.choose(assembled, mode, dtype, batch_size)
  )
  if assembled.plan.reads_script:
    data = data._replace(script=jnp.zeros((batch_size, 1), jnp.int32))
  case = Case(
    assembled,
    data,
    assembled.params(data),
    settings.num_draft,
    temperature,
    batch_size,
    tree,
    looping.is_exempt(assembled, config.ignore_eos),
  )
  # A short run would spend longer on measuring costs than it saves by them.
  decides = costs_lib.decide(assembled, mode, dtype)
  if decides and config.is_long and data.costs.origin == 'rule':
    found = costs_lib.measure(assembled, case.params, batch_size, _WIDTH)
    data = data._replace(costs=found)
    case = case._replace(data=data, params=assembled.params(data))
  return case


def batches(
  prompts: Sequence[prompts_lib.EncodedPrompt],
  target: model_lib.Model,
  config: Any,
  sampling: Sampling,
  batch_size: int | None,
  apart: Sequence[int] = (),
) -> list[PromptBatch]:
  """Groups prompts in order; the last group is filled from the beginning.

  Args:
    prompts: prompts to decode.
    target: model that decodes them.
    config: `BenchmarkConfig` or `CertifyConfig`.
    sampling: settings of the rows.
    batch_size: number of rows of every batch; None for all of them in one.
    apart: numbers of prompts that have batches of their own, which come last.
  """
  # 5 prompts at batch 2: groups [0, 1], [2, 3], [4, 0]; with prompt 2 apart
  # [0, 1], [3, 4], [2, 2]. Full batches keep the shapes, and so the programs,
  # the same.
  groups, ids = [], []
  usual = [i for i in range(len(prompts)) if i not in set(apart)]
  for chosen in filter(None, (usual, list(apart))):
    # Prompts that fill the last batch get noise of their own, and others the
    # same noise wherever they stand.
    size = batch_size or len(chosen)
    spare = -len(chosen) % size
    order = [*chosen, *(chosen[i % len(chosen)] for i in range(spare))]
    names = [*chosen, *range(len(prompts), len(prompts) + spare)]
    for begin in range(0, len(order), size):
      groups.append(order[begin : begin + size])
      ids.append(names[begin : begin + size])
  widths = text_lib.widths(
    [max(len(prompts[i].tokens) for i in group) for group in groups]
  )
  eos_ids = config.end_ids(target.eos_ids)
  made, spec = [], sampling.warp_spec()
  for group, names, width in zip(groups, ids, widths, strict=True):
    tokens, lengths = text_lib.pad([prompts[i].tokens for i in group], width)
    least = config_lib.per_row(sampling.min_new_tokens, group)
    controls = dataclasses.replace(sampling, min_new_tokens=least).controls(
      row_keys(config.seed, np.array(names)),
      config.max_new_tokens,
      eos_ids,
      spec=spec,
    )
    prompt = base.Prompt(jnp.asarray(tokens), jnp.asarray(lengths))
    if target.layout is not None:
      rows = target.layout.rows(len(group))
      prompt = transfer.put(prompt, target.layout, rows)
      controls = transfer.put_controls(controls, target.layout)
    made.append(PromptBatch(prompt, controls, tuple(group)))
  return made
