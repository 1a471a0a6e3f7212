"""The training loop: steps, metrics, evaluations, checkpoints, stopping."""

import functools
import math
import os
import signal
import sys
import time
from typing import Any, Callable, NamedTuple, Optional

import jax
from jax.experimental import multihost_utils
import numpy as np
import tqdm

from specjax.checkpoints import orbax
from specjax.distributed import transfer
from specjax.training import build as build_lib
from specjax.training import config as config_lib
from specjax.training import metrics as metrics_lib
from specjax.training import optimizers
from specjax.training import placement as placement_lib
from specjax.training import state as state_lib
from specjax.training import step as step_lib
from specjax.training import workdir as workdir_lib
from specjax.training.data import batches as batches_lib

CHECKPOINTS = 'checkpoints'


class Outcome(NamedTuple):
  """How a run ended.

  Attributes:
    state: the last `TrainState`.
    step: steps done.
    stopped: whether a signal stopped it before its last step.
    metrics: of the last evaluation.
  """

  state: state_lib.TrainState
  step: int
  stopped: bool
  metrics: dict


@jax.jit
def _tokens(batch):
  """How many tokens of a batch are real, over all hosts."""
  names = ('source_segments', 'target_segments', 'segments')
  return sum((batch[n] > 0).sum() for n in names if n in batch)


def _install(flag: dict):
  """Lets SIGTERM and SIGINT end the run after the current step."""

  def handler(number, frame):
    del frame
    if flag.get('signal'):
      raise KeyboardInterrupt
    flag['signal'] = number

  previous = {}
  try:
    for number in (signal.SIGTERM, signal.SIGINT):
      previous[number] = signal.signal(number, handler)
  except ValueError:  # Not the main thread: then nobody signals us.
    pass
  return previous


def evaluate(
  run: build_lib.Run,
  eval_step: Callable[..., dict],
  params: Any,
  place: placement_lib.Placement,
) -> dict[str, float]:
  """Mean loss (and the objective's other means) over held-out batches."""
  if run.valid is None or not run.config.eval_batches:
    return {}
  _, _, available = run.valid.epoch_of(0)
  sums = [
    eval_step(params, run.frozen, place.put(run.valid.get(i)))
    for i in range(min(run.config.eval_batches, available))
  ]
  return step_lib.mean(sums)


def _rank(values: dict) -> Optional[float]:
  """What 'best' means: acceptance where it is known, else held-out loss."""
  for name in ('acceptance_rate', 'acceptance'):
    if values.get(name) is not None:
      return values[name]
  return -values['loss'] if 'loss' in values else None


def train(
  run: build_lib.Run,
  workdir: str,
  *,
  measure: Optional[Callable[[Any], dict]] = None,
  on_policy: Optional[Callable[[Any, dict, int], dict]] = None,
  report: Callable[[str], None] = print,
) -> Outcome:
  """Trains until the last step, a signal, or a non-finite loss.

  Args:
    run: of `build_lib.build`.
    workdir: folder of this run; if it holds checkpoints, the newest is
      continued and the result is the same as without the stop.
    measure: `(params) -> dict` of floats, called at evaluations beside the
      held-out loss, for instance to decode prompts speculatively.
    on_policy: `(params, batch, step) -> batch`, which may replace the targets
      by what the trained model generates itself.
    report: prints a line of information.

  Returns:
    `Outcome`.

  Raises:
    FloatingPointError: a loss or gradient is not finite; names the step and
      the last good checkpoint.
    ValueError: as `workdir.check` and `placement`.
  """
  config = run.config
  place = placement_lib.placement(config, run.model_config)
  if jax.process_index() == 0:
    workdir_lib.claim(workdir, config)
  manager = open_checkpoints(workdir, config)
  optimizer = optimizers.make_optimizer(config.optimizer, config.steps)
  state, first = _first_state(run, optimizer, manager, place)
  if first:
    report(f'Continuing {workdir} at step {first}.')
  run = run._replace(frozen=_place_frozen(run, place))
  writer = metrics_lib.open_writer(workdir, first)
  eval_step = step_lib.make_eval_step(run.objective)

  def look(state):
    params = state_lib.best_params(state)
    values = evaluate(run, eval_step, params, place)
    return values | (measure(params) if measure is not None else {})

  flag, bar = {}, _progress_bar(config, first)
  previous = _install(flag)
  try:
    outcome = _loop(
      run,
      state,
      first,
      optimizer,
      writer,
      place,
      look,
      on_policy,
      lambda *args: orbax.save(manager, *args),
      flag,
      bar,
    )
  except FloatingPointError as e:
    manager.wait_until_finished()
    last = orbax.latest_step(manager)
    where = (
      'there is no checkpoint yet'
      if last is None
      else (
        'the last good checkpoint is '
        f'{os.path.join(workdir, CHECKPOINTS, str(last))}'
      )
    )
    raise FloatingPointError(
      f'{e}; {where}. A smaller optimizer.learning_rate usually helps.'
    ) from None
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
    bar.close()  # so that what is told next begins a line
    orbax.close(manager)
    writer.close()
  if jax.process_index() == 0 and not metrics_lib.plot(workdir):
    report('No curves.png: matplotlib is not installed (the extra `plots`).')
  return outcome


def open_checkpoints(
  workdir: str, config: config_lib.TrainConfig, read_only: bool = False
):
  """The manager of a run's checkpoints."""
  return orbax.open_manager(
    os.path.join(workdir, CHECKPOINTS),
    config.keep_last,
    read_only,
    functools.partial(is_planned, config),
  )


def is_planned(config: config_lib.TrainConfig, step: int) -> bool:
  """Whether a run that nobody stops has a checkpoint of this step."""
  every = config.save_every or 1
  return step % every == 0 or step == config.steps


def newest(run: build_lib.Run, workdir: str) -> Outcome:
  """The newest checkpoint of a run, as if it had just been stopped there.

  Raises:
    FileNotFoundError: there is none.
  """
  config = run.config
  if not os.path.isdir(os.path.join(workdir, CHECKPOINTS)):
    raise FileNotFoundError(f'{workdir} holds no checkpoint yet.')
  manager = open_checkpoints(workdir, config, read_only=True)
  optimizer = optimizers.make_optimizer(config.optimizer, config.steps)
  try:
    if orbax.latest_step(manager) is None:
      raise FileNotFoundError(f'{workdir} holds no checkpoint yet.')
    place = placement_lib.placement(config, run.model_config)
    state, step = _first_state(run, optimizer, manager, place)
  finally:
    manager.close()
  return Outcome(state, step, step < config.steps, {})


def _first_state(run, optimizer, manager, place):
  """The newest checkpoint, or a fresh state; and its step."""
  step = orbax.latest_step(manager)
  made, like = fresh_state(run, optimizer, place, build=step is None)
  if step is None:
    return made, 0
  return orbax.restore(manager, step, like), step


def fresh_state(run, optimizer, place, *, build=True):
  """The state before the first step.

  Args:
    run: of `build_lib.build`.
    optimizer: the gradient transformation.
    place: where it goes.
    build: whether it is needed itself, and not only its shape.

  Returns:
    (`TrainState` or None, the same as shapes with shardings).
  """

  def make(key):
    return state_lib.create(run.init(key), optimizer, run.config.optimizer.ema)

  key = transfer.put(jax.random.key(run.config.seed), place.layout)
  shapes = jax.eval_shape(make, key)
  shardings = place.shardings(shapes)
  like = orbax.abstract(shapes, shardings)
  state = jax.jit(make, out_shardings=shardings)(key) if build else None
  return state, like


def _place_frozen(run, place):
  """A teacher on the run's devices; one that was loaded onto them stays."""
  if run.teacher is not None and run.teacher.layout is not None:
    return run.frozen
  return jax.device_put(run.frozen, place.shardings(run.frozen))


def _loop(
  run, state, first, optimizer, writer, place, look, on_policy, save, flag, bar
):
  """The steps themselves; `save(step, state, rank)` starts a checkpoint."""
  config = run.config
  train_step = step_lib.make_train_step(
    run.objective,
    optimizer,
    seed=config.seed,
    ema=config.optimizer.ema,
    accumulation=config.optimizer.accumulation,
    shardings=jax.tree.map(lambda x: x.sharding, state),
    in_use=place.in_use(state.params),
  )
  schedule = optimizers.make_schedule(config.optimizer, config.steps)
  step, seen, rows, tokens = first, {}, [], 0
  started = saved_at = time.time()
  for batch in batches_lib.iterate(
    run.batches, first, config.steps, threads=config.data.threads
  ):
    placed = place.put(batch)
    count = _tokens(placed)
    if on_policy is not None:
      placed = on_policy(state.params, placed, step)
    state, values = train_step(state, run.frozen, placed)
    step += 1
    values = {k: float(v) for k, v in values.items()}
    _check_finite(values, step)
    rows.append(values)
    tokens += int(count)
    bar.update()
    done = step == config.steps
    if done or step % config.log_every == 0:
      values = _means(rows, tokens, started)
      rows, tokens, started = [], 0, time.time()
      writer.write(step, 'train', values | _where(run, schedule, step))
      bar.set_postfix_str(
        f'loss {values["loss"]:.3f}, {values["tokens_per_second"]:.0f} tokens/s'
      )
    fresh = {}
    if done or (config.eval_every and step % config.eval_every == 0):
      fresh = look(state)
      if fresh:
        seen = fresh
        writer.write(step, 'eval', fresh)
        if jax.process_index() == 0:
          bar.write(_line(step, fresh), file=sys.stderr)
      rows, tokens, started = [], 0, time.time()
    stop, due = _agree(
      bool(flag.get('signal')), _is_time(config, step, saved_at)
    )
    if done or stop or due:
      save(step, state, _rank(fresh))
      saved_at = time.time()
    if stop:
      break
  return Outcome(state, step, step < config.steps, seen)


def _progress_bar(config, first):
  return tqdm.tqdm(
    total=config.steps,
    initial=first,
    unit='step',
    file=sys.stderr,
    dynamic_ncols=True,
    mininterval=1.0,
    disable=jax.process_index() > 0,
  )


def _agree(stop: bool, due: bool) -> tuple[bool, bool]:
  """Lets all processes stop if one must, and save when the first says so."""
  if jax.process_count() == 1:
    return stop, due
  flags = multihost_utils.process_allgather(np.array([stop, due]))
  return bool(flags[:, 0].any()), bool(flags[0, 1])


def _is_time(config, step, saved_at):
  """Whether a checkpoint is due."""
  if config.save_every and step % config.save_every == 0:
    return True
  minutes = (time.time() - saved_at) / 60
  return bool(config.save_minutes) and minutes >= config.save_minutes


def _means(rows, tokens, started):
  """Means of the steps' values, and tokens a second."""
  out = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
  spent = max(time.time() - started, 1e-9)
  return out | {'tokens_per_second': tokens / spent}


def _where(run, schedule, step):
  return {
    'learning_rate': float(schedule(step - 1)),
    'epoch': run.batches.epoch_of(step - 1)[0],
  }


def _line(step, values):
  shown = ', '.join(f'{k.replace("_", " ")} {v:.4g}' for k, v in values.items())
  return f'step {step}: {shown}'


def _check_finite(values, step):
  if math.isfinite(values['loss']) and math.isfinite(values['grad_norm']):
    return
  raise FloatingPointError(
    f"Step {step}: the loss is {values['loss']} and the gradient's norm "
    f'{values["grad_norm"]}'
  )
