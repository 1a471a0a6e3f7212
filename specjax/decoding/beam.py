"""Beam search in one `lax.while_loop`: the baseline of SpecDec's paper.

Each row keeps N running hypotheses and the N best finished ones. A step takes
the 2N best continuations (more where there are several end tokens, so that N
running ones always remain), moves those that end to the finished ones and keeps
the N best of the others. Length penalty and early stopping have the meaning of
transformers. Rows do not see each other: one that can no longer improve is
frozen while its batch mates go on.

References:
  Xia et al. 2023, section 4 (baseline); Wu et al. 2016, section 7 (length
  normalisation). https://arxiv.org/abs/1609.08144
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import validation
from specjax.decoding import precision
from specjax.decoding import processors
from specjax.decoding import state as state_lib

EARLY_STOPPING = ('false', 'true', 'never')
_NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True)
class BeamSpec:
  """Settings of a beam search; hashable.

  Attributes:
    num_beams: N, at least 1.
    length_penalty: a finished hypothesis of n tokens scores its log probability
      over n ** length_penalty.
    early_stopping: moment at which a row is done: 'true', as soon as N
      hypotheses are finished; 'false', when the best running one, at its
      present length, scores no better than the worst finished one; 'never',
      when it could not at any length within the budget.
    matmul_precision: precision of float32 products, see `precision`.
  """

  num_beams: int
  length_penalty: float = 1.0
  early_stopping: str = 'false'
  matmul_precision: str = precision.HIGHEST

  def validate(self) -> None:
    """Raises ValueError with one sentence about the first bad value."""
    validation.at_least('num_beams', self.num_beams, 1)
    if not abs(self.length_penalty) < float('inf'):
      raise ValueError(
        f'length_penalty must be a number, not {self.length_penalty}.'
      )
    validation.one_of(
      'early_stopping', self.early_stopping, EARLY_STOPPING, str
    )
    validation.one_of(
      'matmul_precision', self.matmul_precision, precision.MODES, str
    )


@struct.dataclass
class Hypotheses:
  """N hypotheses a row, best first.

  Attributes:
    tokens: int32 [B, N, M], new tokens, zeros after them.
    length: int32 [B, N], how many, an end token included.
    score: float32 [B, N]; -inf where there is none.
  """

  tokens: base.Array
  length: base.Array
  score: base.Array


@struct.dataclass
class BeamState:
  """The carry of the loop.

  Attributes:
    running: their scores are sums of log probabilities.
    finished: their scores are normalised by length.
    cache: the model's cache, B * N rows.
    last_token: int32 [B * N].
    open: bool [B], rows that can still improve.
    finite: bool [B], False once a row's logits held a NaN or infinity.
    step: int32 [].
    calls: int32 [B], target calls of a row, prefill not counted.
  """

  running: Hypotheses
  finished: Hypotheses
  cache: base.PyTree
  last_token: base.Array
  open: base.Array
  finite: base.Array
  step: base.Array
  calls: base.Array


def search(
  target: base.CachedLM,
  spec: BeamSpec,
  params: base.PyTree,
  prompt: base.Prompt,
  controls: base.Controls,
  *,
  max_new_tokens: int,
) -> BeamState:
  """Searches; the answers are `finished` of what it returns.

  Args:
    target: the model; static.
    spec: settings; static.
    params: parameters of the model.
    prompt: tokens int32 [B, S] and lengths [B].
    controls: `max_new_tokens` and `eos_ids` are used, nothing else.
    max_new_tokens: static bound M of every row's budget.
  """
  target = precision.of_lm(target, spec.matmul_precision)
  beams = spec.num_beams
  batch, width = prompt.tokens.shape
  given = 1 if target.is_encoder_decoder else width
  prefilled = target.prefill(
    params, prompt, capacity=given + max_new_tokens + 1
  )
  rows = jnp.repeat(jnp.arange(batch), beams)
  empty = Hypotheses(
    tokens=jnp.zeros((batch, beams, max_new_tokens), jnp.int32),
    length=jnp.zeros((batch, beams), jnp.int32),
    score=jnp.full((batch, beams), _NEVER, jnp.float32),
  )
  budget = jnp.minimum(controls.max_new_tokens, max_new_tokens)
  state = BeamState(
    # N equal starts would find N equal answers, so one alone may go on:
    #   score  [0 -inf -inf]
    running=empty.replace(score=empty.score.at[:, 0].set(0.0)),
    finished=empty,
    cache=target.select(prefilled.cache, rows),
    last_token=prefilled.last_token[rows],
    open=budget > 0,
    finite=jnp.ones((batch,), bool),
    step=jnp.zeros((), jnp.int32),
    calls=jnp.zeros((batch,), jnp.int32),
  )
  step = functools.partial(
    _step, target, spec, params, budget, controls.eos_ids
  )
  return lax.while_loop(lambda state: jnp.any(state.open), step, state)


def _step(target, spec, params, budget, eos_ids, state: BeamState) -> BeamState:
  """One token for every running hypothesis."""
  batch, beams = state.running.score.shape
  scored, cache = target.extend(params, state.cache, state.last_token[:, None])
  logits = scored.logits[:, 0].astype(jnp.float32)
  # One bad hypothesis spoils its row: scores are compared among all of them.
  finite = jnp.all(jnp.isfinite(logits).reshape(batch, -1), axis=1)
  log_probs = jax.nn.log_softmax(logits).reshape(batch, beams, -1)
  score, parent, token = _best(
    log_probs + state.running.score[..., None],
    max(2, 1 + eos_ids.shape[-1]) * beams,
  )
  length = state.step + 1
  # A candidate continues its parent: parent [1 0], tokens [[a] [b]] -> [[b]
  # [a]]
  tokens = jnp.take_along_axis(state.running.tokens, parent[..., None], axis=1)
  tokens = lax.dynamic_update_index_in_dim(tokens, token, state.step, axis=2)
  candidates = Hypotheses(tokens, jnp.full_like(token, length), score)
  ends = processors.is_end(token, eos_ids) | (length >= budget)[:, None]

  finished = _merge(spec, state, candidates, ends, length)
  # N = 2, scores [5 4 3 2], ends [1 0 1 0]: kept are places 1 and 3
  keep = _order(jnp.where(ends, _NEVER, score), beams)
  running = _pick(candidates, keep)
  # At the budget every candidate ends; those kept must not run on.
  running = running.replace(
    score=jnp.where(
      jnp.take_along_axis(ends, keep, axis=1), _NEVER, running.score
    )
  )
  above = jnp.take_along_axis(parent, keep, axis=1)
  # B = N = 2, above [[0 0] [1 0]]: rows [0 0 3 2] of the cache.
  rows = (jnp.arange(batch)[:, None] * beams + above).reshape(-1)
  return BeamState(
    running=running,
    finished=finished,
    cache=target.select(
      target.commit(cache, jnp.ones((batch * beams,), jnp.int32)),
      rows,
      same_prompt=True,
    ),
    last_token=jnp.take_along_axis(token, keep, axis=1).reshape(-1),
    open=state.open
    & finite
    & (length < budget)
    & _can_improve(spec, running, finished, length, budget),
    finite=state.finite & (finite | ~state.open),
    step=length,
    calls=state.calls + state.open,
  )


def _best(score, count: int):
  """The `count` best continuations: score, parent and token, each [B, count].

  Args:
    score: float32 [B, N, V].
    count: number of continuations; may exceed V.
  """
  # score [[-1 -4 -3] [-2 -9 -9]], count 3:
  #   score [-1 -2 -3], parent [0 1 0], token [0 0 2]
  batch, _, vocab_size = score.shape
  inner = min(count, vocab_size)
  # Of one parent no more than `count` can be among the best.
  score, token = lax.top_k(score, inner)
  parent = jnp.arange(score.shape[1])[:, None]
  parent = jnp.broadcast_to(parent, score.shape).reshape(batch, -1)
  missing = max(count - parent.shape[1], 0)
  pad = ((0, 0), (0, missing))
  score = jnp.pad(score.reshape(batch, -1), pad, constant_values=_NEVER)
  at = _order(score, count)
  return tuple(
    jnp.take_along_axis(x, at, axis=1)
    for x in (
      score,
      jnp.pad(parent, pad).astype(jnp.int32),
      jnp.pad(token.reshape(batch, -1), pad).astype(jnp.int32),
    )
  )


def _order(score, count: int):
  """int32 [B, count]: places of the largest, falling, the first on ties."""
  return lax.top_k(score, count)[1]


def _pick(hypotheses: Hypotheses, at) -> Hypotheses:
  return Hypotheses(
    tokens=jnp.take_along_axis(hypotheses.tokens, at[..., None], axis=1),
    length=jnp.take_along_axis(hypotheses.length, at, axis=1),
    score=jnp.take_along_axis(hypotheses.score, at, axis=1),
  )


def _merge(spec, state, candidates, ends, length) -> Hypotheses:
  """The N best of the finished and of the candidates that end now."""
  beams = spec.num_beams
  score = candidates.score / length.astype(jnp.float32) ** spec.length_penalty
  # Candidates beyond the N best may run on but not become answers.
  # N = 2, ends [0 1 1 1]: counts [0 1 0 0]
  counts = ends & (jnp.arange(score.shape[1]) < beams) & state.open[:, None]
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1),
    state.finished,
    candidates.replace(score=jnp.where(counts, score, _NEVER)),
  )
  return _pick(both, _order(both.score, beams))


def _can_improve(spec, running, finished, length, budget):
  """bool [B]: whether a running hypothesis may still become an answer."""
  worst = finished.score[:, -1]
  if spec.early_stopping == 'true':
    enough = jnp.isfinite(worst)
  else:
    enough = jnp.zeros(worst.shape, bool)
  # Log probabilities only fall. With a positive penalty a longer text divides
  # them by more, so its score may still rise: 'never' hopes for that.
  best_length = length
  if spec.early_stopping == 'never' and spec.length_penalty > 0:
    best_length = budget
  best = running.score[:, 0] / (
    jnp.asarray(best_length, jnp.float32) ** spec.length_penalty
  )
  return ~enough & (best > worst)


@functools.cache
def compiled(
  target: base.CachedLM, spec: BeamSpec, max_new_tokens: int
) -> Callable:
  """One compiled function for a model, settings and a largest budget.

  Args:
    target: the model; static.
    spec: settings; static.
    max_new_tokens: static bound of every row's budget.

  Returns:
    `(params, prompt, controls, rank int32 [B]) -> Generation`: of each row the
    hypothesis of that rank, 0 the best.

  Raises:
    ValueError: a setting is out of range.
  """
  spec.validate()

  @jax.jit
  def call(params, prompt, controls, rank):
    state = search(
      target, spec, params, prompt, controls, max_new_tokens=max_new_tokens
    )
    chosen = _pick(state.finished, rank[:, None])
    length, tokens = chosen.length[:, 0], chosen.tokens[:, 0]
    length = jnp.where(jnp.isfinite(chosen.score[:, 0]), length, 0)
    inside = jnp.arange(tokens.shape[1]) < length[:, None]
    last = jnp.take_along_axis(
      tokens, jnp.maximum(length - 1, 0)[:, None], axis=1
    )
    ended = jnp.any(last == controls.eos_ids, axis=1)
    status = jnp.where(ended, state_lib.EOS, state_lib.LENGTH)
    emitted = inside.astype(jnp.int32)
    return state_lib.Generation(
      tokens=jnp.where(inside, tokens, 0),
      prompt_length=jnp.zeros_like(length),
      num_tokens=length,
      status=jnp.where(state.finite, status, state_lib.NAN),
      num_rounds=state.step,
      rounds=state_lib.Rounds(
        jnp.zeros_like(emitted), jnp.zeros_like(emitted), emitted
      ),
      score=chosen.score[:, 0],
    )

  return call
