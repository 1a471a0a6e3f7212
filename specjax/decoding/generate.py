"""Exact speculative decoding in one `lax.while_loop`.

The loop knows no model, no drafter and no rule: it is given a `Recipe` of
pure functions and repeats seven verbs, `propose`, `extend`, `warp`, `verify`,
`emit`, `commit` and `observe`, until every row is done. Plain decoding is the
same loop with a drafter that proposes nothing. `inference.assemble` makes
recipes.

`generate = start -> run -> finish`, so that a caller who wants to stream, stop
or insert rows calls the three and changes nothing else. All of it can be
traced inside a caller's own `jax.jit`.

References:
  Leviathan et al. 2023, algorithm 1; Xia et al. 2023, section 3.
"""

from collections.abc import Callable
import functools

import jax
from jax import lax
import jax.numpy as jnp

from specjax import base
from specjax import control_flow
from specjax.decoding import contract
from specjax.decoding import emit as emit_lib
from specjax.decoding import log_probs as log_probs_lib
from specjax.decoding import precision
from specjax.decoding import prefill
from specjax.decoding import reach
from specjax.decoding import warp as warp_lib
from specjax.decoding.insertion import insert
from specjax.decoding.recipe import Recipe
from specjax.decoding.state import DecodeState
from specjax.decoding.state import EOS
from specjax.decoding.state import Generation
from specjax.decoding.state import LENGTH
from specjax.decoding.state import NAN
from specjax.decoding.state import Params
from specjax.decoding.state import Rounds
from specjax.decoding.state import RUNNING
from specjax.decoding.state import runs

__all__ = [
  'EOS',
  'LENGTH',
  'NAN',
  'RUNNING',
  'DecodeState',
  'Generation',
  'Params',
  'Recipe',
  'Rounds',
  'capacity_for',
  'finish',
  'generate',
  'insert',
  'run',
  'runs',
  'start',
]


def capacity_for(recipe: Recipe, prompt_width: int, max_new_tokens: int) -> int:
  """Token slots L that a generation needs, with slack for one whole block.

  Args:
    recipe: target, drafter, verifier and warp.
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
  capacity: int | None = None,
) -> Generation:
  """Decodes a batch speculatively.

  Args:
    recipe: target, drafter, verifier and warp; static.
    params: their parameters.
    prompt: tokens int32 [B, S] and lengths [B].
    controls: settings of each row; `controls.max_new_tokens` above
      `max_new_tokens` is cut to it.
    max_new_tokens: static bound of every row's budget.
    capacity: static L; by default just enough.

  Returns:
    `Generation`.

  Raises:
    ValueError: `capacity` is too small.
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


@precision.scoped
def start(
  recipe: Recipe,
  params: Params,
  prompt: base.Prompt,
  controls: base.Controls,
  *,
  max_new_tokens: int,
  capacity: int | None = None,
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
  with jax.named_scope('prefill'):
    prefilled = target.prefill(params.target, prompt, capacity=capacity)
  with jax.named_scope('init'):
    given = prefill.for_drafter(recipe.drafter, prompt)
    drafter = recipe.drafter.init(
      params.drafter, given, prefilled, capacity=capacity
    )
  if recipe.checked:
    contract.check_arrays('The state that Drafter.init returns', drafter)
  if target.is_encoder_decoder:
    given = jnp.full((batch, 1), target.start_id, jnp.int32)
    given_length = jnp.ones((batch,), jnp.int32)
  else:
    # Padding of a prompt may hold anything, and penalties read these tokens.
    inside = jnp.arange(width) < prompt.length[:, None]
    given = jnp.where(inside, prompt.tokens, 0).astype(jnp.int32)
    given_length = prompt.length.astype(jnp.int32)
  controls = controls.replace(
    max_new_tokens=jnp.minimum(controls.max_new_tokens, max_new_tokens)
  )
  context = base.Context(
    tokens=jnp.pad(given, ((0, 0), (0, capacity - given.shape[1]))),
    length=given_length,
    prompt_length=given_length,
    controls=controls,
  )
  empty = jnp.zeros((batch, max(max_new_tokens, 1)), jnp.int32)
  return DecodeState(
    context=context,
    last_token=prefilled.last_token,
    cache=prefilled.cache,
    drafter=drafter,
    status=jnp.where(controls.max_new_tokens > 0, RUNNING, LENGTH),
    num_rounds=jnp.zeros((), jnp.int32),
    row_rounds=jnp.zeros((batch,), jnp.int32),
    rounds=Rounds(drafted=empty, accepted=empty, emitted=empty),
    faults=jnp.zeros((batch,), jnp.int32) if recipe.checked else None,
    log_probs=log_probs_lib.empty(recipe.logprobs, *empty.shape),
  )


@precision.scoped
def run(
  recipe: Recipe,
  params: Params,
  state: DecodeState,
  *,
  max_rounds: base.Array | None = None,
  enough_done: base.Array | None = None,
) -> DecodeState:
  """Runs rounds until `enough_done` rows (by default every one) are done.

  With `max_rounds` at most so many rounds more.
  """
  end = None if max_rounds is None else state.num_rounds + max_rounds

  def unfinished(state):
    live = runs(state)
    goes_on = jnp.any(live)
    if enough_done is not None:
      goes_on &= jnp.sum(~live) < enough_done
    return goes_on if end is None else goes_on & (state.num_rounds < end)

  return lax.while_loop(
    unfinished, lambda state: _round(recipe, params, state, unfinished), state
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
    faults=state.faults,
    log_probs=state.log_probs,
  )


def _round(
  recipe: Recipe, params: Params, state: DecodeState, unfinished: Callable
) -> DecodeState:
  """One round: propose, then verify at the width the draft needs.

  Rounds for which the drafter is known to be idle follow at once.
  """
  live = state.status == RUNNING
  # The scopes are named as the verbs, so that a profile reads like this file.
  with jax.named_scope('propose'):
    proposal = recipe.drafter.propose(
      params.drafter,
      state.drafter,
      base.View(state.context, state.last_token, state.cache, live),
    )
  if recipe.checked:
    contract.check_proposal(recipe, live.shape[0], state.drafter, proposal)
  draft = reach.within(recipe.target, proposal[0], state.context)
  state = state.replace(drafter=proposal[1])
  widths = recipe.widths or (recipe.drafter.num_draft,)
  if len(widths) == 1:
    return _verify(recipe, params, state, draft)
  # The longest draft of a live row decides: proposals of 0, 2 and 5 tokens at
  # widths (0, 2, 8) run at 8; if the row with 5 has ended, at 2.
  proposed = jnp.sum(draft.tokens != base.EMPTY, axis=1)
  longest = jnp.max(jnp.where(live, proposed, 0))
  choice = jnp.searchsorted(jnp.asarray(widths[:-1]), longest)
  for index, width in enumerate(widths):
    if width:
      # A loop of one turn for each width and not a `lax.switch`, which would
      # copy the caches that go through it, and wait for the host on a GPU.
      state = control_flow.run_if(
        choice == index,
        functools.partial(
          _verify, recipe, params, draft=emit_lib.leading(draft, width)
        ),
        state,
      )
  if widths[0]:
    return state
  return _steps_while_idle(
    recipe, params, state, choice == 0, emit_lib.leading(draft, 0), unfinished
  )


def _steps_while_idle(
  recipe, params, state, begin, nothing, unfinished
) -> DecodeState:
  """Plain steps: one if `begin`, then more as long as the drafter is idle."""

  def is_idle(state):
    if recipe.drafter.is_idle is None:
      return False
    idle = recipe.drafter.is_idle(state.drafter)
    if recipe.checked:
      contract.check_idle(state.status.shape[0], idle)
    return jnp.all(idle | (state.status != RUNNING)) & unfinished(state)

  _, state = lax.while_loop(
    lambda carry: carry[0] | is_idle(carry[1]),
    lambda carry: (
      jnp.asarray(False),
      _verify(recipe, params, carry[1], nothing),
    ),
    (begin, state),
  )
  return state


def _verify(
  recipe: Recipe, params: Params, state: DecodeState, draft: base.Draft
) -> DecodeState:
  """Extend, warp, verify, emit, commit and observe."""
  context, live = state.context, state.status == RUNNING
  # Last token x, draft [a b EMPTY]: block [x a b 0].
  block = jnp.concatenate(
    [state.last_token[:, None], jnp.maximum(draft.tokens, 0)], axis=1
  )
  with jax.named_scope('extend'):
    scored, cache = recipe.target.extend(
      params.target, state.cache, block, draft.tree
    )
  with jax.named_scope('warp'):
    logits = warp_lib.warp(
      recipe.warp,
      scored.logits,
      context,
      *warp_lib.histories(recipe.warp, draft, recipe.drafter.max_path),
    )
  with jax.named_scope('verify'):
    verdict = recipe.verifier.verify(context, draft, logits)
  if recipe.checked:
    contract.check_verdict(recipe, live.shape[0], verdict)
    found = contract.faults(draft, verdict, recipe.target.vocab_size)
    state = state.replace(faults=state.faults | jnp.where(live, found, 0))
  with jax.named_scope('emit'):
    finite = emit_lib.finite(scored.logits)
    emission = emit_lib.emit(state, draft, verdict, finite)
    accepted = jnp.minimum(verdict.num_accepted, emission.count)
    proposed = jnp.sum(draft.tokens != base.EMPTY, axis=1, dtype=jnp.int32)
    state = log_probs_lib.record(state, scored.logits, verdict, emission)
    trace = dict(drafted=jnp.where(live, proposed, 0), accepted=accepted)
    state = emit_lib.advance(state, emission, **trace)
  with jax.named_scope('commit'):
    # Emitted [a b y] of the block [x a b c]: rows of x, a and b are committed,
    # three as the emitted tokens, and y is the next round's first slot.
    cache = recipe.target.commit(cache, emission.count, verdict.path)
  with jax.named_scope('observe'):
    longest = recipe.drafter.max_path
    observation = base.Observation(
      tokens=emit_lib.pad(emission.tokens, longest + 1),
      num_tokens=emission.count,
      hidden=emit_lib.along_path(scored.hidden, verdict, longest),
      length=state.context.length,
      num_accepted=accepted,
    )
    drafter = _observe(recipe, params, state, observation)
  return state.replace(cache=cache, drafter=drafter)


def _observe(recipe: Recipe, params: Params, state: DecodeState, observation):
  """The drafter's state after it observed a round."""
  drafter = recipe.drafter.observe(params.drafter, state.drafter, observation)
  if recipe.checked:
    contract.check_state('Drafter.observe', state.drafter, drafter)
  return drafter
