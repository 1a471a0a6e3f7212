"""The training loop: steps, metrics, evaluations, checkpoints, stopping."""

from collections.abc import Callable
import contextlib
import functools
import math
import os
import signal
import sys
import time
from typing import Any, NamedTuple

import jax
import tqdm

from specjax import base
from specjax import waiting
from specjax.checkpoints import orbax
from specjax.training import build as build_lib
from specjax.training import checkpoints
from specjax.training import metrics as metrics_lib
from specjax.training import optimizers
from specjax.training import placement as placement_lib
from specjax.training import progress
from specjax.training import state as state_lib
from specjax.training import step as step_lib
from specjax.training import stopping
from specjax.training import workdir as workdir_lib
from specjax.training.data import batches as batches_lib
from specjax.training.data import changes
from specjax.training.data import sources as sources_lib


@jax.jit
def _tokens(batch):
  """Number of real tokens of a batch, over all hosts."""
  names = ('source_segments', 'target_segments', 'segments')
  return sum((batch[n] > 0).sum() for n in names if n in batch)


def evaluate(
  run: build_lib.Run,
  eval_step: Callable[..., dict],
  params: Any,
  place: placement_lib.Placement,
) -> dict[str, float]:
  """Mean loss (and the objective's other means) over held-out batches."""
  if run.valid is None or not run.config.eval_batches:
    return {}
  # Always the first batches of epoch 0, so that evaluations of a run compare.
  _, _, available = run.valid.epoch_of(0)
  sums = [
    eval_step(params, run.frozen, place.put(run.valid.get(i)))
    for i in range(min(run.config.eval_batches, available))
  ]
  return step_lib.mean(sums)


def _rank(values: dict) -> float | None:
  """Rank for the best checkpoint: acceptance, else minus the held-out loss."""
  for name in ('acceptance_rate', 'acceptance'):
    if not math.isnan(values.get(name, math.nan)):
      return values[name]
  return -values['loss'] if 'loss' in values else None


def train(
  run: build_lib.Run,
  workdir: str,
  *,
  measure: Callable[[Any], dict] | None = None,
  on_policy: Callable[[Any, dict, int], dict] | None = None,
  resume_from: int = 0,
  log_fn: Callable[[str], None] = print,
) -> checkpoints.Outcome:
  """Trains until the last step, a signal, or a non-finite loss.

  Args:
    run: result of `build_lib.build`.
    workdir: folder of this run; its newest checkpoint is continued.
    measure: `(params) -> dict` of floats, called at evaluations.
    on_policy: `(params, batch, step) -> batch`, which may rewrite targets.
    resume_from: as in `checkpoints.begin`.
    log_fn: takes a line of information.

  Returns:
    `Outcome`.

  Raises:
    FloatingPointError: a loss or gradient is not finite.
    ValueError: as `workdir.check`, `placement` and `checkpoints.first_state`.
  """
  config = run.config
  place = placement_lib.placement(config, run.model_config)
  workdir_lib.check(workdir, config)
  optimizer = checkpoints.optimizer_of(run)
  data = changes.digests(sources_lib.used_files(config.data))
  state, first, notes = checkpoints.begin(
    run, workdir, optimizer, place, data, resume_from
  )
  for note in notes:
    log_fn(note)
  if jax.process_index() == 0:
    workdir_lib.claim(workdir, config)
  manager = checkpoints.open_checkpoints(workdir, config)
  run = run._replace(frozen=_place_frozen(run, place))
  tools = _Tools(
    place,
    _train_step(run, optimizer, state, place),
    _looker(run, place, measure),
    on_policy,
    functools.partial(orbax.save, manager, about={'data': data}),
    metrics_lib.open_writer(workdir, first),
    progress.bar(config.steps, first),
    {},
  )
  previous = stopping.install(tools.flag)
  try:
    outcome = _loop(run, state, first, tools)
  except FloatingPointError as error:
    raise _diverged(error, workdir, manager) from None
  finally:
    _close(tools, manager, previous)
  if jax.process_index() == 0 and not metrics_lib.plot(workdir):
    log_fn('No curves.png: matplotlib is not installed (the extra `plots`).')
  return outcome


def _close(tools, manager, handlers):
  for number, handler in handlers.items():
    signal.signal(number, handler)
  tools.bar.close()  # So that the next message begins a line.
  orbax.close(manager)
  tools.writer.close()


class _Tools(NamedTuple):
  """Functions and writers of the steps.

  Attributes:
    place: placement of arrays.
    step: `(state, frozen, batch) -> (state, metrics)`, compiled.
    look: `(params) -> dict` of an evaluation.
    on_policy: function as in `train`.
    save: `(step, state, rank)`; starts a checkpoint.
    writer: writer of metrics.
    bar: progress bar.
    flag: holds 'signal' when one came.
  """

  place: placement_lib.Placement
  step: Callable[..., tuple]
  look: Callable[[Any], dict]
  on_policy: Callable[[Any, dict, int], dict] | None
  save: Callable[..., None]
  writer: Any
  bar: tqdm.tqdm
  flag: dict


def _train_step(run, optimizer, state, place):
  """The compiled step of a run."""
  settings = run.config.optimizer
  return step_lib.make_train_step(
    run.objective,
    optimizer,
    seed=run.config.seed,
    ema=settings.ema,
    accumulation=settings.accumulation,
    matmul_precision=run.config.matmul_precision,
    shardings=jax.tree.map(lambda x: x.sharding, state),
    in_use=place.in_use(state.params),
  )


def look(
  run: build_lib.Run,
  params: base.PyTree,
  measure: Callable[[Any], dict] | None = None,
) -> dict[str, float]:
  """Metrics of weights, as an evaluation during training has them.

  Args:
    run: result of `build_lib.build`.
    params: weights to measure, placed as those of a run.
    measure: as in `train`.
  """
  place = placement_lib.placement(run.config, run.model_config)
  run = run._replace(frozen=_place_frozen(run, place))
  return _looker(run, place, measure)(params)


def _looker(run, place, measure):
  """`(params) -> dict` of an evaluation."""
  eval_step = step_lib.make_eval_step(
    run.objective, run.config.matmul_precision
  )

  def measured(params):
    values = evaluate(run, eval_step, params, place)
    return values | (measure(params) if measure is not None else {})

  return measured


def _diverged(error, workdir, manager) -> FloatingPointError:
  """Returns the error of a diverged run, with its last good checkpoint."""
  manager.wait_until_finished()
  step = manager.latest_step()
  where = 'there is no checkpoint yet'
  if step is not None:
    path = os.path.join(workdir, checkpoints.CHECKPOINTS, str(step))
    where = f'the last good checkpoint is {path}'
  return FloatingPointError(
    f'{error}; {where}. A smaller optimizer.learning_rate usually helps.'
  )


def _place_frozen(run, place):
  """A teacher on the run's devices; one that was loaded onto them stays."""
  if run.teacher is not None and run.teacher.layout is not None:
    return run.frozen
  return jax.device_put(run.frozen, place.shardings(run.frozen))


def _loop(run, state, first, tools):
  """The steps themselves."""
  config = run.config
  schedule = optimizers.make_schedule(config.optimizer, config.steps)
  step, seen, saved_at = first, {}, time.time()
  meter = progress.Meter()
  for batch in batches_lib.iterate(
    run.batches, first, config.steps, threads=config.data.threads
  ):
    placed = tools.place.put(batch)
    count = _tokens(placed)
    if tools.on_policy is not None:
      placed = tools.on_policy(state.params, placed, step)
    with contextlib.ExitStack() as stack:
      if step == first:
        stack.enter_context(waiting.compiling('the training step'))
      state, values = tools.step(state, run.frozen, placed)
    step += 1
    # Waits for the device, so that the clock and a loss that is not finite
    # belong to this step. Checked before any checkpoint: NaN is never saved.
    values = {k: float(v) for k, v in values.items()}
    _check_finite(values, step)
    meter.add(values, int(count))
    if step == first + 1:
      # It compiled, which no other step does. Not even one estimate of the time
      # left may rest on it: minutes of compilation would be shown as hours.
      meter.leave_out_time()
      progress.leave_out_time(tools.bar, step)
    else:
      tools.bar.update()
    done = step == config.steps
    if done or step % config.log_every == 0:
      values = meter.read()
      where = _where(run, schedule, step)
      tools.writer.write(step, 'train', values | where)
      tools.bar.set_postfix_str(_postfix(values))
    fresh = {}
    if done or (config.eval_every and step % config.eval_every == 0):
      fresh = _looked(tools, state, step)
      seen = fresh or seen
      # Dropped, so that the time of an evaluation counts for no step.
      meter.read()
    stop, due = stopping.agree(
      bool(tools.flag.get('signal')), _is_time(config, step, saved_at)
    )
    if done or stop or due:
      tools.save(step, state, _rank(fresh))
      saved_at = time.time()
    if stop:
      break
  stopped = step < config.steps
  # Another process may have been asked to stop.
  number = tools.flag.get('signal') or signal.SIGTERM
  return checkpoints.Outcome(state, step, stopped, seen, stopped and number)


def _looked(tools, state, step):
  """Evaluates and writes the metrics."""
  with waiting.noted(f'Evaluating at step {step}.'):
    found = tools.look(state_lib.best_params(state))
  if found:
    tools.writer.write(step, 'eval', found)
    if jax.process_index() == 0:
      tools.bar.write(_line(step, found), file=sys.stderr)
  return found


def _is_time(config, step, saved_at):
  """Whether a checkpoint is due."""
  if config.save_every and step % config.save_every == 0:
    return True
  minutes = (time.time() - saved_at) / 60
  return bool(config.save_minutes) and minutes >= config.save_minutes


def _where(run, schedule, step):
  return {
    'learning_rate': float(schedule(step - 1)),
    'epoch': run.batches.epoch_of(step - 1)[0],
  }


def _line(step, values):
  shown = ', '.join(
    f'{k.replace("_", " ")} {metrics_lib.shown(v)}' for k, v in values.items()
  )
  return f'step {step}: {shown}'


def _postfix(values: dict) -> str:
  speed = values.get('tokens_per_second')
  shown = f'loss {values["loss"]:.3f}'
  return shown if speed is None else f'{shown}, {speed:.0f} tokens/s'


def _check_finite(values, step):
  if math.isfinite(values['loss']) and math.isfinite(values['grad_norm']):
    return
  raise FloatingPointError(
    f"Step {step}: the loss is {values['loss']} and the gradient's norm "
    f'{values["grad_norm"]}'
  )
