"""A whole run: build, train, measure with the real decoder, export.

Training does not import decoding; here the two meet. An evaluation measures
what a user of the drafter will see: acceptance rate and block efficiency of
speculative decoding on held-out prompts. A loss cannot replace them, because a
draft counts up to its first refused token alone.
"""

from collections.abc import Callable
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from specjax import models
from specjax import waiting
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import orbax
from specjax.decoding import generate as generate_lib
from specjax.decoding import stats
from specjax.decoding.controls import Sampling
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import generate as inference
from specjax.models import registry
from specjax.models import sharded
from specjax.training import build
from specjax.training import checkpoints
from specjax.training import config as config_lib
from specjax.training import export
from specjax.training import loop
from specjax.training import on_policy
from specjax.training import placement
from specjax.training import state as state_lib
from specjax.training import workdir as workdir_lib
from specjax.training.data import packing
from specjax.training.families.family import BY_DEPTH


def run(
  config: config_lib.TrainConfig,
  workdir: str,
  *,
  command: str = '',
  export_only: bool = False,
  resume_from: int = 0,
  log_fn: Callable[[str], None] = print,
) -> checkpoints.Outcome:
  """Trains until the end or a signal; a finished run is exported.

  Args:
    config: settings of the run.
    workdir: folder of the run. Called again with it, a stopped run goes on
      and a finished one is exported anew.
    command: command line of the user, for the model card.
    export_only: whether the newest checkpoint is exported without training.
    resume_from: step of the checkpoint to take in place of the newest; 0 takes
      that.
    log_fn: callback with lines of information.

  Returns:
    `training.checkpoints.Outcome`.

  Raises:
    OSError, ValueError, FloatingPointError: one sentence.
  """
  try:
    with workdir_lib.held(workdir, log_fn):
      return _run(config, workdir, command, export_only, resume_from, log_fn)
  except OSError as error:
    if error.errno is None or error.filename:
      raise
    # The error of a failed write names no file.
    raise OSError(f'Cannot write to {workdir}: {error.strerror}.') from None


def _run(config, workdir, command, export_only, resume_from, log_fn):
  workdir_lib.check(workdir, config)
  with waiting.noted('Reading models and data.'):
    parts = build.build(config)
  _log_left_out(parts, log_fn)
  if not export_only:
    _log_what_runs(parts, log_fn)
  if export_only:
    outcome = checkpoints.newest(parts, workdir, resume_from)
    log_fn(f'Exported to {_export(parts, outcome, workdir, command)}.')
    return outcome
  rewrite = None
  if config.data.on_policy_fraction:
    rewrite = on_policy.make(
      generator(parts), config.seed, config.data.on_policy_fraction
    )
  outcome = loop.train(
    parts,
    workdir,
    measure=measurer(parts),
    on_policy=rewrite,
    resume_from=resume_from,
    log_fn=log_fn,
  )
  if not outcome.stopped:
    folder = _export(parts, outcome, workdir, command)
    log_fn(f'Exported to {folder}.')
  return outcome


def _log_left_out(parts, log_fn):
  held_out = [] if parts.valid_source is None else [parts.valid_source]
  for source in parts.sources + held_out:
    where = ' of the held-out data' if source is parts.valid_source else ''
    if source.skipped:
      log_fn(f'Left out {source.skipped} bad lines{where}.')
    if source.too_long:
      log_fn(
        f'Left out {source.too_long} examples{where} longer than a row (see '
        'data.source_length and data.target_length).'
      )
    for note in source.notes:
      log_fn(note)


def _log_what_runs(parts, log_fn):
  """Logs the size of the run, and settings that are perhaps not meant."""
  config = parts.config
  size = build.num_parameters(models.abstract_params(parts.model_config))
  log_fn(f'Training {config.name}: {size:,} parameters, {config.steps} steps.')
  warmup = config.optimizer.warmup_steps
  if 2 * warmup > config.steps:
    log_fn(
      f'Note: optimizer.warmup_steps={warmup} is more than half of the '
      f'{config.steps} steps, so the learning rate hardly gets to its peak; '
      'lower it.'
    )
  if parts.teacher is None:
    return
  if not config.data.labelled_share():
    log_fn(
      "Note: the drafter learns from the data and not from the target's own "
      'answers, which it has to guess; specjax-label writes them for '
      'data.labelled.'
    )
  largest = build.num_parameters(parts.teacher.params)
  if size > largest:
    log_fn(
      f'Note: the drafter is larger than its target ({size:,} and {largest:,} '
      'parameters), so drafting will cost more than it saves; make it smaller.'
    )


def _export(parts, outcome, workdir, command):
  params, mean_of = _final_params(parts, outcome, workdir)
  return export.export(
    parts,
    params,
    os.path.join(workdir, export.FOLDER),
    steps=outcome.step,
    metrics=_metrics_of(parts, outcome, params, mean_of),
    command=command,
    mean_of=mean_of,
  )


def _final_params(parts, outcome, workdir):
  """The weights to export, and the steps that they are the mean of, if any."""
  config = parts.config
  params = state_lib.best_params(outcome.state)
  if config.average_last == 1:
    return params, ()
  manager = checkpoints.open_checkpoints(workdir, config, read_only=True)
  # Of steps 4, 8, 10 and an export of step 8, the last is of another model.
  steps = [
    step
    for step in sorted(manager.all_steps())
    if step <= outcome.step and checkpoints.is_planned(config, step)
  ][-config.average_last :]
  if steps:
    like = orbax.abstract(
      outcome.state, jax.tree.map(lambda x: x.sharding, outcome.state)
    )
    params = export.final_params(
      manager, like, len(steps), frozenset(steps).__contains__
    )
  manager.close()
  return params, tuple(steps)


def _metrics_of(parts, outcome, params, mean_of):
  """Metrics of the very weights that are written."""
  dtype = parts.config.export_dtype
  if outcome.metrics and not mean_of and dtype == 'float32':
    return outcome.metrics
  # A mean, and a value rounded to bfloat16, are other weights than those that
  # the last evaluation saw.
  rounded = jax.tree.map(lambda p: p.astype(dtype).astype(p.dtype), params)
  with waiting.noted('Evaluating the exported weights.'):
    return loop.look(parts, rounded, measurer(parts))


def as_model(parts: build.Run, params: base.PyTree) -> model_lib.Model:
  """The trained model with these parameters, as `specjax.load` gives one."""
  config = parts.model_config
  facts = registry.facts(config)
  vocab_size = model_lib.vocabulary_size(config, parts.tokenizer)
  return model_lib.Model(
    params=params,
    config=config,
    module=parts.module,
    tokenizer=parts.tokenizer,
    lm=models.make_lm(config, vocab_size=vocab_size)
    if models.is_language_model(config)
    else None,
    eos_ids=facts.eos_ids,
    pad_id=facts.pad_id,
    name=parts.config.name,
  )


def held_out_prompts(parts: build.Run) -> list[np.ndarray]:
  """Token rows to decode: held-out sources, or beginnings of held-out text."""
  if parts.valid_source is None:
    return []
  stream = parts.valid_source.sides[0]
  count = min(parts.config.eval_prompts, len(stream.offsets) - 1)
  rows = [packing.get(stream, i) for i in range(count)]
  if parts.config.data.kind == 'text':
    # A quarter of a text is its prompt; the model goes on from there.
    rows = [row[: max(len(row) // 4, 1)] for row in rows]
  return rows


def measurer(parts: build.Run) -> Callable[[Any], dict] | None:
  """Makes `(params) -> dict` that decodes the held-out prompts.

  A drafter is measured by greedy speculative decoding with its teacher:
  'acceptance_rate' and 'accepted_at_d' for each depth d, in the rounds before
  an answer's loop (`stats`), 'acceptance_rate_with_loops' and
  'block_efficiency' of all rounds, and the 'loop_share' of the tokens; nan for
  what was never tested. A target has no drafter yet and is measured by nothing
  but its loss.

  Returns:
    A function, or None where there is nothing to measure.

  Raises:
    ValueError: the teacher has too few positions for the answers.
  """
  prompts = held_out_prompts(parts)
  if parts.teacher is None or not prompts:
    return None
  config = parts.config
  # Slots beyond those that a drafter with masks learns would only add refusals.
  most = registry.facts(parts.model_config).max_draft or config.eval_draft
  slots = min(config.eval_draft, most)
  _check_budget(parts, prompts, slots)

  def measure(params):
    # The drafter is decoded where the teacher is, whole on every device, while
    # training may have sharded its parameters.
    params = jax.tree.map(jnp.asarray, transfer.to_host(params))
    rows = parts.teacher.layout.size('batch') if parts.teacher.layout else 1
    answers = inference.generate(
      parts.teacher,
      prompts,
      drafter=as_model(parts, params),
      num_draft=slots,
      max_new_tokens=config.eval_new_tokens,
      batch_size=-(-min(8, len(prompts)) // rows) * rows,
      temperature=0.0,
      generation_config='none',
    )
    counts = stats.add([answer.counts for answer in answers])
    found = {
      'acceptance_rate': counts.acceptance_rate,
      'acceptance_rate_with_loops': counts.acceptance_rate_with_loops,
      'loop_share': counts.loop_share,
      'block_efficiency': counts.block_efficiency,
    }
    for depth, rate in enumerate(counts.acceptance_by_position, 1):
      found[f'{BY_DEPTH}{depth}'] = rate
    # What was never tested is null in metrics.jsonl.
    return {k: math.nan if v is None else v for k, v in found.items()}

  return measure


def _check_budget(parts, prompts, slots):
  """Refuses before the first step a budget that the evaluation would refuse."""
  config, lm = parts.config, parts.teacher.lm
  given = 1 if lm.is_encoder_decoder else max(map(len, prompts))
  needed = given + config.eval_new_tokens + slots
  if lm.max_positions and needed > lm.max_positions:
    raise ValueError(
      f'Held-out prompts have up to {given} tokens; with eval_new_tokens='
      f'{config.eval_new_tokens} and eval_draft={slots} that is {needed}, '
      f'but the teacher was made for {lm.max_positions} positions; '
      'lower eval_new_tokens.'
    )


def generator(parts: build.Run) -> on_policy.Generate:
  """Makes the drafter's own sampling at temperature 1, for on-policy data."""
  settings = parts.config.data
  lm = as_model(parts, None).lm
  layout = placement.decoding_layout(parts.config)
  if layout is not None:
    fitting = sharded.fit(parts.model_config, layout)
    # Where key heads would have to be repeated, the compiler finds a way.
    if sharded.expanded(parts.model_config, fitting) == parts.model_config:
      lm = sharded.make_lm(
        parts.model_config, fitting, vocab_size=lm.vocab_size
      )
  sampling = Sampling(temperature=1.0)
  recipe = assemble.plain(
    lm,
    sampling.warp_spec(),
    matmul_precision=parts.config.matmul_precision,
  )
  most = settings.target_length
  sample = assemble.compiled(recipe, most)

  def generate(params, prompt, key):
    rows = prompt.tokens.shape[0]
    controls = sampling.controls(
      jax.random.split(key, rows),
      most,
      registry.facts(parts.model_config).eos_ids,
    )
    controls = transfer.put_controls(controls, layout)
    out = sample(generate_lib.Params(params), prompt, controls)
    return new_tokens(out), out.num_tokens

  @jax.jit
  def new_tokens(out):
    # tokens [[7, 8, 5, 9, 2, 0]] with prompt_length [2] and most = 3 give
    # [[5, 9, 2]]; prompts of several lengths begin at places of their own.
    place = out.prompt_length[:, None] + jnp.arange(most)
    place = jnp.minimum(place, out.tokens.shape[1] - 1)
    return jnp.take_along_axis(out.tokens, place, 1)

  return generate
