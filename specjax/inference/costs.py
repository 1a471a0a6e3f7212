"""Costs of a round's parts: measured once, kept, or by a stated rule.

Costs decide when `suffix` and `hybrid` draft; they are data of the compiled
program. The target's
pass over blocks and the draft of a model inside are measured in steps of the
target over one token a row. The costs belong to a target, a
device kind, a precision and a batch size, and are kept in the cache folder.

The rule knows no machine: verifying K slots costs (0.4 + 0.1 B K) / (1 + 0.1
(B - 1)) steps beyond a step for B rows, and a step of a draft model its share
of the target's bytes.
"""

from collections.abc import Callable
import functools
import hashlib
import json
import logging
import math
import os
import time
from typing import Any

import jax
import numpy as np

from specjax import base
from specjax import cache
from specjax import files
from specjax import machine
from specjax.decoding import generate as generate_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.drafters import drawing
from specjax.decoding.drafters import vocabulary
from specjax.decoding.drafters.draft_model import autoregressive
from specjax.decoding.drafters.entry import Costs
from specjax.distributed import processes
from specjax.inference import timing
from specjax.inference.assemble import Assembled

MODES = ('auto', 'measure', 'rule')
# Shorter jobs are not measured.
WORTH_SECONDS = 60.0
# Time spent on timing, apart from compilation.
SECONDS = 2.0
_FOLDER = 'costs'
# Precisions in which tokens may depend on a block's width.
_WIDTH_MATTERS = ('bfloat16', 'w8a8')
_WARP = warp_lib.WarpSpec()


def slots_of(assembled: Assembled) -> tuple[int, ...]:
  """Draft slots of the blocks whose costs a drafter asks for."""
  plan = assembled.plan
  return tuple(sorted({plan.num_draft, plan.draft_slots} - {0}))


def rule(assembled: Assembled, rows: int) -> Costs:
  """Costs by the machine-independent rule.

  Args:
    assembled: target and drafter; parameters may be shapes.
    rows: B, decoded together.
  """
  # 4 slots: 1.8 steps for 1 row, 3.1 for 8
  step = 1 + 0.1 * (rows - 1)
  blocks = {
    slots: 1 + (0.4 + 0.1 * rows * slots) / step
    for slots in slots_of(assembled)
  }
  draft, model = 0.0, assembled.source.model
  if assembled.plan.draft_slots and model is not None:
    share = _bytes(model.params) / max(_bytes(assembled.target.params), 1)
    # One more pass, over the tokens that it has not seen.
    draft = (assembled.plan.draft_slots + 1) * share
  return Costs(blocks, draft, 'rule')


def _bytes(params: base.PyTree) -> int:
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params)
  )


def decide(assembled: Assembled, mode: str, dtype: str) -> bool:
  """Whether measured costs may decide what this drafter does.

  Under rules whose tokens depend on what is drafted, and in precisions whose
  tokens depend on a block's width, they may only if asked for, so that seed and
  prompt fix the text.

  Args:
    assembled: drafter and rule.
    mode: one of `MODES`.
    dtype: dtype of the config.
  """
  if not assembled.plan.uses_costs or mode == 'rule':
    return False
  if mode == 'measure':
    return True
  return assembled.rule.keeps_target_sample and dtype not in _WIDTH_MATTERS


def choose(
  assembled: Assembled, mode: str, dtype: str, rows: int
) -> Costs | None:
  """Costs of an earlier run where they may decide, else by the rule.

  Args:
    assembled: target and drafter.
    mode: one of `MODES`.
    dtype: dtype of the config.
    rows: B.

  Returns:
    `Costs`, or None where the drafter asks for none.
  """
  if not assembled.plan.uses_costs:
    return None
  stated = rule(assembled, rows)
  if not decide(assembled, mode, dtype):
    return stated
  # All processes decide by what process 0 finds in its folder.
  found = processes.from_first(
    _kept(assembled, rows) if processes.is_first() else None
  )
  if found is None:
    return stated
  return _made(found) if found else stated._replace(origin='fallback')


def key(assembled: Assembled, rows: int) -> str:
  """File name of these costs; '' for models that have no settings to go by.

  Args:
    assembled: target and drafter.
    rows: B.
  """
  target, model = assembled.target, assembled.source.model
  if target.config is None or (model is not None and model.config is None):
    return ''
  device = jax.devices()[0]
  shapes = jax.tree.map(
    lambda x: (x.shape, str(x.dtype)), (target.params, model and model.params)
  )
  identity = (
    repr(target.config),
    repr(model and model.config),
    str(shapes),
    device.platform,
    device.device_kind,
    jax.__version__,
    _processor() if device.platform == 'cpu' else '',
    repr(target.layout and dict(target.layout.mesh.shape)),
    rows,
    slots_of(assembled),
    assembled.plan.draft_slots,
    assembled.recipe.matmul_precision,
  )
  return hashlib.sha256(repr(identity).encode()).hexdigest() + '.json'


def _processor() -> str:
  """Model and cores of this machine's processor."""
  return f'{machine.processor()} {len(os.sched_getaffinity(0))}'


def _kept(assembled: Assembled, rows: int) -> dict | None:
  """Costs of an earlier run; None for none, {} for damaged ones."""
  name = key(assembled, rows)
  found = cache.read(_FOLDER, name) if name else None
  if found is None:
    return None
  try:
    raw = files.parse_json(found)
    costs = _made(raw)
    good = set(slots_of(assembled)) <= set(costs.blocks)
    values = (costs.draft, *costs.blocks.values())
    good &= all(math.isfinite(x) and x >= 0 for x in values)
  except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
    good = False
  if good:
    return raw
  where = cache.folder(_FOLDER)
  # The next run that may measure finds none and measures.
  cache.remove(_FOLDER, name)
  logging.getLogger('specjax').warning(
    'The costs kept in %s are damaged and removed; the stated rule is used.',
    where,
  )
  return {}


def _made(found: dict) -> Costs:
  blocks = {int(slots): float(cost) for slots, cost in found['blocks'].items()}
  return Costs(blocks, float(found['draft']), 'measured')


def measure(
  assembled: Assembled,
  params: Any,
  rows: int,
  width: int,
  progress: Callable[[str], None] = lambda text: None,
) -> Costs:
  """Times the parts of a round, and keeps what was found.

  Process 0 measures for all. Where nothing can be kept, nothing is measured:
  every run would do it anew.

  Args:
    assembled: target and drafter.
    params: `generate.Params`, on their devices.
    rows: B.
    width: tokens committed meanwhile.
    progress: called with a line when it begins.

  Returns:
    `Costs`; by the rule, as a 'fallback', if the folder is not writable.
  """
  name = key(assembled, rows)
  if name and not processes.from_first(cache.is_writable(_FOLDER)):
    _warn_unwritable()
    return rule(assembled, rows)._replace(origin='fallback')
  progress('Measuring what a block costs on this machine.')
  begin = time.perf_counter()
  slots = slots_of(assembled)
  state = timing.middle_state(
    assembled.recipe, params, rows, width, assembled.dials()
  )
  timers = [
    timing.extend_timer(assembled.recipe, params, state.cache, rows, n + 1)
    for n in (0, *slots)
  ]
  if assembled.plan.draft_slots:
    timers.append(model_timer(assembled, state, rows, width))
  times = timing.interleaved(
    timers,
    samples=3,
    seconds=SECONDS / (8 * len(timers)),
    limit=SECONDS,
  )
  costs = [float(x) / max(times[0], 1e-9) for x in times]
  found = {
    'blocks': dict(zip(map(str, slots), costs[1:], strict=False)),
    'draft': costs[-1] if assembled.plan.draft_slots else 0.0,
  }
  found = processes.from_first(found)
  if name and processes.is_first():
    cache.write(json.dumps(found).encode(), _FOLDER, name)
  logging.getLogger('specjax').info(
    'Measured costs in %.1f seconds.', time.perf_counter() - begin
  )
  return _made(found)


def _warn_unwritable() -> None:
  if processes.is_first():
    logging.getLogger('specjax').warning(
      'The cache folder %s is not writable, so no costs are measured; the '
      'stated rule is used.',
      cache.root(),
    )


def model_timer(
  assembled: Assembled, state: Any, rows: int, width: int
) -> Callable[[int], float]:
  """Timer of the draft of a model beside a search, without the search.

  Args:
    assembled: target and drafter.
    state: a `generate.DecodeState`.
    rows: B.
    width: tokens committed.
  """
  model = assembled.source.model
  known = vocabulary.of(assembled.target, model)
  lm = vocabulary.fitted(model.lm, known)
  drafter = autoregressive(
    lm, assembled.plan.draft_slots, drawing.Style('argmax', False, _WARP)
  )
  prompt = base.Prompt(
    np.ones((rows, width), np.int32), np.full((rows,), width, np.int32)
  )
  capacity = state.context.tokens.shape[1]
  init = jax.jit(functools.partial(drafter.init, capacity=capacity))
  inner = init(model.params, prompt, None)
  return timing.propose_timer(
    assembled.recipe._replace(drafter=drafter),
    generate_lib.Params(assembled.target.params, model.params),
    state.replace(drafter=inner),
  )
