"""Exact speculative decoding in one `lax.while_loop`.

The loop knows no model, no drafter and no rule: it is given a `Recipe` of
pure functions and repeats seven verbs, `propose`, `extend`, `warp`, `verify`,
`emit`, `commit` and `observe`, until every row is done. Plain decoding is the
same loop with a drafter that proposes nothing.

`generate = start -> run -> finish`, so that a caller who wants to stream, stop
or insert rows calls the three and changes nothing else. All of it can be
traced inside a caller's own `jax.jit`.

References:
  Leviathan et al. 2023, algorithm 1; Xia et al. 2023, section 3.
"""

from typing import NamedTuple, Optional

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax.decoding import warp as warp_lib

# Why a row stopped.
RUNNING, EOS, LENGTH, NAN = range(4)


class Recipe(NamedTuple):
  """What to decode with; hashable, so it can be a static argument."""

  target: base.CachedLM
  drafter: base.Drafter
  verifier: base.Verifier
  warp: warp_lib.WarpSpec


@struct.dataclass
class Params:
  """Parameters of the target and of the drafter (None if it has none)."""

  target: base.PyTree
  drafter: base.PyTree = None


@struct.dataclass
class Rounds:
  """One column a round, for counting afterwards. All int32 [B, R].

  Attributes:
    drafted: proposed tokens (empty slots not counted).
    accepted: emitted tokens that were drafted.
    emitted: emitted tokens; 0 once a row is finished.
  """

  drafted: base.Array
  accepted: base.Array
  emitted: base.Array


@struct.dataclass
class DecodeState:
  """Everything the next round needs; rollback is an integer in `cache`."""

  context: base.Context
  last_token: base.Array
  cache: base.PyTree
  hidden: tuple
  drafter: base.PyTree
  status: base.Array
  num_rounds: base.Array
  rounds: Rounds


@struct.dataclass
class Generation:
  """What was generated.

  Attributes:
    tokens: int32 [B, L], prompt (for an encoder-decoder: the start token)
      followed by the new tokens; zeros after them.
    prompt_length: int32 [B].
    num_tokens: int32 [B], new tokens, an end token included.
    status: int32 [B], one of EOS, LENGTH, NAN (RUNNING if `run` was stopped).
    num_rounds: int32 [], target calls of the batch, prefill not counted.
    rounds: `Rounds`.
  """

  tokens: base.Array
  prompt_length: base.Array
  num_tokens: base.Array
  status: base.Array
  num_rounds: base.Array
  rounds: Rounds


class Emission(NamedTuple):
  """Tokens that survive end tokens, budgets and finished rows."""

  tokens: base.Array  # [B, P + 1]
  count: base.Array  # [B]
  status: base.Array  # [B]


def capacity_for(recipe: Recipe, prompt_width: int, max_new_tokens: int) -> int:
  """Token slots L that a generation needs, with slack for one whole block.

  Args:
    recipe: what to decode with.
    prompt_width: S of the prompt.
    max_new_tokens: largest budget of any row.

  Returns:
    L. A write that began within the last block would be clamped by
    `dynamic_update_slice` onto committed rows, hence the slack.
  """
  given = 1 if recipe.target.is_encoder_decoder else prompt_width
  return given + max_new_tokens + recipe.drafter.num_draft + 2


def generate(
  recipe: Recipe,
  params: Params,
  prompt: base.Prompt,
  controls: base.Controls,
  *,
  max_new_tokens: int,
  capacity: Optional[int] = None,
) -> Generation:
  """Decodes a batch speculatively.

  Args:
    recipe: target, drafter, verifier and warp; static.
    params: their parameters.
    prompt: tokens int32 [B, S] and lengths [B].
    controls: each row's wishes; `controls.max_new_tokens` above
      `max_new_tokens` is cut to it.
    max_new_tokens: static bound of every row's budget.
    capacity: static L; by default just enough.

  Returns:
    `Generation`.

  Raises:
    ValueError: if `capacity` is too small.
  """
  state = start(
    recipe,
    params,
    prompt,
    controls,
    max_new_tokens=max_new_tokens,
    capacity=capacity,
  )
  return finish(run(recipe, params, state))


def start(
  recipe: Recipe,
  params: Params,
  prompt: base.Prompt,
  controls: base.Controls,
  *,
  max_new_tokens: int,
  capacity: Optional[int] = None,
) -> DecodeState:
  """Prefills target and drafter. See `generate` for the arguments."""
  batch, width = prompt.tokens.shape
  needed = capacity_for(recipe, width, max_new_tokens)
  capacity = needed if capacity is None else capacity
  if capacity < needed:
    raise ValueError(
      f'A capacity of {capacity} is too small: a prompt width of {width}, '
      f'{max_new_tokens} new tokens and {recipe.drafter.num_draft} draft '
      f'slots need {needed}.'
    )
  target = recipe.target
  prefilled = target.prefill(params.target, prompt, capacity=capacity)
  if target.is_encoder_decoder:
    given = jnp.full((batch, 1), target.start_id, jnp.int32)
    given_length = jnp.ones((batch,), jnp.int32)
  else:
    inside = jnp.arange(width) < prompt.length[:, None]
    given = jnp.where(inside, prompt.tokens, 0).astype(jnp.int32)
    given_length = prompt.length.astype(jnp.int32)
  controls = controls.replace(
    max_new_tokens=jnp.minimum(controls.max_new_tokens, max_new_tokens)
  )
  context = base.Context(
    tokens=jnp.zeros((batch, capacity), jnp.int32)
    .at[:, : given.shape[1]]
    .set(given),
    length=given_length,
    prompt_length=given_length,
    controls=controls,
  )
  empty = jnp.zeros((batch, max(max_new_tokens, 1)), jnp.int32)
  return DecodeState(
    context=context,
    last_token=prefilled.last_token,
    cache=prefilled.cache,
    hidden=_empty_hidden(recipe, params, prefilled),
    drafter=recipe.drafter.init(
      params.drafter, prompt, prefilled, capacity=capacity
    ),
    status=jnp.where(controls.max_new_tokens > 0, RUNNING, LENGTH),
    num_rounds=jnp.zeros((), jnp.int32),
    rounds=Rounds(drafted=empty, accepted=empty, emitted=empty),
  )


def run(
  recipe: Recipe,
  params: Params,
  state: DecodeState,
  *,
  max_rounds: Optional[base.Array] = None,
) -> DecodeState:
  """Runs rounds until every row is done, or `max_rounds` more have run."""
  limit = state.rounds.emitted.shape[1]
  if max_rounds is not None:
    limit = jnp.minimum(limit, state.num_rounds + max_rounds)

  def unfinished(state):
    return (state.num_rounds < limit) & jnp.any(state.status == RUNNING)

  return lax.while_loop(
    unfinished, lambda state: _round(recipe, params, state), state
  )


def finish(state: DecodeState) -> Generation:
  """Reads the result out of a state."""
  context = state.context
  inside = jnp.arange(context.tokens.shape[1]) < context.length[:, None]
  return Generation(
    tokens=jnp.where(inside, context.tokens, 0),
    prompt_length=context.prompt_length,
    num_tokens=context.length - context.prompt_length,
    status=state.status,
    num_rounds=state.num_rounds,
    rounds=state.rounds,
  )


def _round(recipe: Recipe, params: Params, state: DecodeState) -> DecodeState:
  """One round: propose, extend, warp, verify, emit, commit, observe."""
  context = state.context
  draft, drafter = recipe.drafter.propose(
    params.drafter,
    state.drafter,
    base.View(context, state.last_token, state.cache, state.hidden),
  )
  block = jnp.concatenate(
    [state.last_token[:, None], jnp.maximum(draft.tokens, 0)], axis=1
  )
  scored, cache = recipe.target.extend(
    params.target, state.cache, block, draft.tree
  )
  path, path_length = _histories(recipe, draft)
  logits = warp_lib.warp(recipe.warp, scored.logits, context, path, path_length)
  verdict = recipe.verifier.verify(context, draft, logits)
  emission = _emit(state, draft, verdict, _finite(scored.logits))
  hidden = _along_path(scored.hidden, verdict)
  count = emission.count
  accepted = jnp.minimum(verdict.num_accepted, count)
  length = context.length + count
  drafter = recipe.drafter.observe(
    params.drafter,
    drafter,
    base.Observation(emission.tokens, count, hidden, length, accepted),
  )
  proposed = jnp.sum(draft.tokens != base.EMPTY, axis=1, dtype=jnp.int32)
  live = state.status == RUNNING
  return DecodeState(
    context=context.replace(
      tokens=_write(context.tokens, emission.tokens, context.length, count),
      length=length,
    ),
    last_token=jnp.where(
      count > 0,
      _take(emission.tokens, jnp.maximum(count - 1, 0)),
      state.last_token,
    ),
    cache=recipe.target.commit(cache, count, verdict.path),
    hidden=hidden,
    drafter=drafter,
    status=emission.status,
    num_rounds=state.num_rounds + 1,
    rounds=_record(
      state.rounds,
      state.num_rounds,
      drafted=jnp.where(live, proposed, 0),
      accepted=accepted,
      emitted=count,
    ),
  )


def _emit(
  state: DecodeState,
  draft: base.Draft,
  verdict: base.Verdict,
  finite: base.Array,
) -> Emission:
  """The one place that knows end tokens, budgets and finished rows.

  Args:
    state: before the round.
    draft: the proposal.
    verdict: the verifier's decision on it.
    finite: bool [B, T], whether a slot's logits can be trusted.

  Returns:
    `Emission` of at most P + 1 tokens a row.
  """
  drafted = draft.tokens
  if verdict.path is not None:
    drafted = jnp.take_along_axis(
      drafted, jnp.maximum(verdict.path - 1, 0), axis=1
    )
  num_accepted = verdict.num_accepted[:, None]
  slot = jnp.arange(drafted.shape[1] + 1)[None]
  tokens = jnp.where(
    slot < num_accepted,
    jnp.pad(drafted, ((0, 0), (0, 1))),
    jnp.where(slot == num_accepted, verdict.next_token[:, None], 0),
  )
  controls = state.context.controls
  is_end = jnp.any(tokens[..., None] == controls.eos_ids, axis=-1)
  is_end &= slot <= num_accepted
  first_end = jnp.argmax(is_end, axis=1)
  has_end = jnp.any(is_end, axis=1)
  produced = state.context.length - state.context.prompt_length
  count = jnp.where(has_end, first_end + 1, verdict.num_accepted + 1)
  count = jnp.minimum(count, controls.max_new_tokens - produced)
  has_end &= first_end < count

  bad = ~jnp.all(finite | ~_judged(verdict, finite.shape[1]), axis=1)
  live = state.status == RUNNING
  count = jnp.where(live & ~bad, count, 0)
  spent = produced + count >= controls.max_new_tokens
  status = jnp.where(spent, LENGTH, RUNNING)
  status = jnp.where(has_end, EOS, status)
  status = jnp.where(bad, NAN, status)
  status = jnp.where(live, status, state.status)
  return Emission(tokens, count, status)


def _judged(verdict: base.Verdict, width: int) -> base.Array:
  """bool [B, T]: slots whose logits decided an emitted token."""
  slot = jnp.arange(width)[None]
  if verdict.path is None:
    return slot <= verdict.num_accepted[:, None]
  step = jnp.arange(verdict.path.shape[1])[None]
  path = jnp.where(step < verdict.num_accepted[:, None], verdict.path, 0)
  return jnp.any(slot[..., None] == path[:, None], axis=-1) | (slot == 0)


def _finite(logits: base.Array) -> base.Array:
  """bool [B, T]: no NaN among a slot's logits, and a finite largest one."""
  return jnp.isfinite(jnp.max(logits, axis=-1))


def _histories(recipe: Recipe, draft: base.Draft):
  """Draft tokens on each slot's path, where the warp looks at history."""
  spec = recipe.warp
  if not (spec.repetition_penalty or spec.no_repeat_ngram_size):
    return None, None
  if draft.tree is None:
    return warp_lib.chain_paths(draft.tokens)
  return warp_lib.tree_paths(draft.tokens, draft.tree, recipe.drafter.max_path)


def _along_path(hidden: tuple, verdict: base.Verdict) -> tuple:
  """States at slot 0 and the accepted path: tuple of [B, P + 1, D]."""
  if verdict.path is None:
    return hidden
  slots = jnp.pad(verdict.path, ((0, 0), (1, 0)))
  return tuple(
    jnp.take_along_axis(states, slots[..., None], axis=1) for states in hidden
  )


def _empty_hidden(recipe, params, prefilled) -> tuple:
  """Zeros shaped like the hidden states of a committed path."""
  batch = prefilled.last_token.shape[0]
  width = recipe.drafter.max_path + 1
  block = jax.ShapeDtypeStruct((batch, width), jnp.int32)
  scored, _ = jax.eval_shape(
    recipe.target.extend, params.target, prefilled.cache, block
  )
  return tuple(jnp.zeros(h.shape, h.dtype) for h in scored.hidden)


def _record(rounds: Rounds, index, **columns) -> Rounds:
  """Writes one column of the trace."""
  return Rounds(
    **{
      name: lax.dynamic_update_slice(
        getattr(rounds, name),
        column[:, None].astype(jnp.int32),
        (jnp.zeros((), index.dtype), index),
      )
      for name, column in columns.items()
    }
  )


def _take(rows: base.Array, index: base.Array) -> base.Array:
  """rows[b, index[b]]."""
  return jnp.take_along_axis(rows, index[:, None], axis=1)[:, 0]


def _write(buffer, rows, start, count) -> base.Array:
  """Writes the first count[b] entries of rows[b] at start[b], in place."""

  def write_row(buffer, row, start, count):
    old = lax.dynamic_slice(buffer, (start,), row.shape)
    new = jnp.where(jnp.arange(row.shape[0]) < count, row, old)
    return lax.dynamic_update_slice(buffer, new, (start,))

  return jax.vmap(write_row)(buffer, rows, start, count)
