"""A file such as a user would name in FILE.py:NAME."""

import pathlib

TEXT = '''"""A drafter, rules, and what breaks their contracts."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

import specjax
from specjax.decoding import sampling

VOCAB = 96


def drafter(draft, num_draft, init=None, observe=None):
  def start(params, prompt, prefilled, *, capacity):
    return init(prefilled) if init else ()

  def propose(params, state, view):
    return draft(params, state, view), state

  def learn(params, state, observation):
    return observe(state, observation) if observe else state

  return specjax.Drafter(start, propose, learn, num_draft, num_draft)


def start(prefilled):
  rows = prefilled.last_token.shape[0]
  return jnp.full((rows, VOCAB), -1, jnp.int32), prefilled.last_token


def follow(params, state, view):
  token, found = view.last_token, []
  for _ in range(3):
    after = state[0][jnp.arange(token.shape[0]), jnp.maximum(token, 0)]
    token = jnp.where(token < 0, -1, after)
    found.append(token)
  return specjax.Draft(jnp.stack(found, axis=1))


def learn(state, observation):
  table, last = state
  rows = jnp.arange(last.shape[0])
  for place in range(observation.tokens.shape[1]):
    token = observation.tokens[:, place]
    there = place < observation.num_tokens
    new = jnp.where(there, token, table[rows, last])
    table = table.at[rows, last].set(new)
    last = jnp.where(there, token, last)
  return table, last


DRAFTER = drafter(follow, 3, start, learn)


def law(num_draft, style):
  def draft(params, state, view):
    shape = (view.last_token.shape[0], num_draft, VOCAB)
    logits = jnp.broadcast_to(params, shape)
    return specjax.drafters.drawing.chain(logits, view.context, style)

  return drafter(draft, num_draft)


LAW = specjax.drafters.custom(law, params=jnp.zeros(VOCAB), has_log_probs=True)


@dataclasses.dataclass
class Options:
  token: int = 9

  def validate(self) -> None:
    if not 0 <= self.token < VOCAB:
      raise ValueError(f'mine.token must be a token, not {self.token}.')


def plan(target, source, options, num_draft, rows):
  return specjax.DraftPlan(num_draft, num_draft, static=options.token)


def bind(lm, config, plan, style):
  def draft(params, state, view):
    shape = (view.last_token.shape[0], plan.num_draft)
    return specjax.Draft(jnp.full(shape, plan.static, jnp.int32))

  return drafter(draft, plan.num_draft)


ENTRY = specjax.DrafterEntry(
  'mine', 'one token again and again', plan, bind, options=Options
)


def agree(context, draft, logits):
  places = context.length[:, None] + jnp.arange(logits.shape[1])
  keys = sampling.position_keys(
    context.controls.row_key, places, sampling.TARGET
  )
  samples = sampling.categorical(logits, keys, 'gumbel')
  same = samples[:, :-1] == draft.tokens
  count = jnp.cumprod(same, axis=1, dtype=jnp.int32).sum(axis=1)
  token = jnp.take_along_axis(samples, count[:, None], axis=1)[:, 0]
  return specjax.Verdict(count, token)


RULE = specjax.Verifier(agree, noise='private')


@dataclasses.dataclass
class Dial:
  luck: float = 0.0

  def validate(self) -> None:
    if self.luck < 0:
      raise ValueError(f'lucky.luck must be 0 or more, not {self.luck}.')


def lucky(context, draft, logits):
  verdict = agree(context, draft, logits)
  luck = context.controls.rule['luck'] > 0
  filled = (draft.tokens >= 0).sum(axis=1, dtype=jnp.int32)
  count = jnp.where(luck, filled, verdict.num_accepted)
  return specjax.Verdict(count, verdict.next_token)


LUCKY = specjax.Verifier(lucky, noise='private')
LUCKY_ENTRY = specjax.VerifierEntry(
  'lucky',
  'what equals the sample, or with luck everything',
  lambda sampler, max_path, static: LUCKY,
  options=Dial,
  greedy_at_zero=False,
  keeps_target_sample=True,
  exact_when=lambda options: not np.any(np.asarray(options.luck)),
)


def wide(params, state, view):
  return specjax.Draft(jnp.zeros((view.last_token.shape[0], 4), jnp.int32))


WIDE = drafter(wide, 3)


def heavy(num_draft, style):
  def draft(params, state, view):
    shape = (view.last_token.shape[0], num_draft, VOCAB)
    laws = jnp.full(shape, -np.log(VOCAB) + 0.01, jnp.float32)
    return specjax.Draft(jnp.full(shape[:2], 9, jnp.int32), laws)

  return drafter(draft, num_draft)


HEAVY = specjax.drafters.custom(heavy, has_log_probs=True)


def greedy_for_more(context, draft, logits):
  rows = jnp.full(logits.shape[:1], logits.shape[1] + 1, jnp.int32)
  return specjax.Verdict(rows, jnp.zeros_like(rows))


GREEDY_FOR_MORE = specjax.Verifier(greedy_for_more)
NUMBER = 3
'''


def write(folder: pathlib.Path, name: str = 'mine.py', text: str = TEXT) -> str:
  """Writes the file; its path.

  Args:
    folder: place of the file, made if missing.
    name: name of the file.
    text: content of the file.
  """
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / name
  path.write_text(text, encoding='utf-8')
  return str(path)
