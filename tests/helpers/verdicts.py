"""Contexts, drafts and verdicts for tests of the verification rules."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from specjax import base
from tests.helpers import recipes

NEG = -np.inf


def context(batch, seed=0, length=None, **controls):
  def rows(name, off, dtype):
    value = np.asarray(controls.get(name, off), dtype)
    return jnp.asarray(np.broadcast_to(value, (batch,)))

  data = np.random.default_rng(seed).integers(0, 2**32, (batch, 2), np.uint32)
  length = np.full(batch, 4) if length is None else length
  return base.Context(
    tokens=jnp.zeros((batch, 16), jnp.int32),
    length=jnp.asarray(length, jnp.int32),
    prompt_length=jnp.asarray(length, jnp.int32),
    controls=base.Controls(
      row_key=jax.random.wrap_key_data(data),
      temperature=rows('temperature', 1.0, np.float32),
      top_k=rows('top_k', 0, np.int32),
      top_p=rows('top_p', 1.0, np.float32),
      min_p=rows('min_p', 0.0, np.float32),
      repetition_penalty=rows('repetition_penalty', 1.0, np.float32),
      max_new_tokens=rows('max_new_tokens', 9, np.int32),
      eos_ids=jnp.asarray(controls.get('eos_ids', [-1])),
      rule={
        'lenience': rows('lenience', 1.0, np.float32),
        'beta': rows('beta', 1, np.int32),
        'tau': rows('tau', 0.0, np.float32),
      },
    ),
  )


# Smaller blocks are padded to this one, so that few programs are compiled.
ROWS, SLOTS, SIZE = 512, 3, 6


def _padded(context, draft, logits):
  """Rows, empty slots and impossible tokens that change no verdict."""
  batch, slots, size = logits.shape
  rows = np.arange(ROWS) % batch
  context = jax.tree.map(
    lambda x: x[rows] if x.shape[0] == batch else x, context
  )
  ends = np.asarray(context.controls.eos_ids)
  ends = np.append(ends, [-1] * (2 - len(ends)))
  context = context.replace(
    controls=context.controls.replace(eos_ids=jnp.asarray(ends))
  )
  more = ((0, 0), (0, SLOTS + 1 - slots))
  tokens = np.pad(draft.tokens, more, constant_values=base.EMPTY)[rows]
  log_q = draft.log_probs
  if log_q is not None:
    log_q = np.pad(log_q, (*more, (0, SIZE - size)), constant_values=-np.inf)[
      rows
    ]
  logits = np.pad(
    logits, ((0, 0), (0, 0), (0, SIZE - size)), constant_values=NEG
  )
  logits = np.pad(logits, (*more, (0, 0)))[rows]
  return context, base.Draft(tokens, log_q), logits


def verify(name, context, draft, logits, sampler='gumbel'):
  rule = jax.jit(recipes.rule(name, sampler).verify)
  batch, slots, size = logits.shape
  logits = np.asarray(logits, np.float32)
  if batch < ROWS and 1 < slots <= SLOTS + 1 and size <= SIZE:
    context, draft, logits = _padded(context, draft, logits)
  verdict = rule(context, draft, logits)
  assert verdict.path is None
  assert verdict.num_accepted.dtype == verdict.next_token.dtype == jnp.int32
  return (
    np.asarray(verdict.num_accepted)[:batch],
    np.asarray(verdict.next_token)[:batch],
  )


class Cases(NamedTuple):
  """Blocks to judge; each case has its own draft length."""

  logits: np.ndarray  # [cases, K + 1, V]
  tokens: np.ndarray  # int [cases, K]
  log_q: np.ndarray  # [cases, K, V]
  q: np.ndarray  # [cases, K, V], what the drafts are drawn from
  drafted: np.ndarray  # int [cases], filled slots


def cases(seed, cases, num_draft, size, point_mass):
  """Random `Cases`, with some tokens of probability 0."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 1.5, (cases, num_draft + 1, size))
  logits[rng.random(logits.shape) < 0.15] = NEG
  logits[..., 0] = 0.3  # no row loses everything
  q = rng.dirichlet(np.full(size, 0.8), (cases, num_draft))
  q[rng.random(q.shape) < 0.15] = 0
  q[..., 1] += 0.05
  q /= q.sum(axis=-1, keepdims=True)
  tokens = np.stack(
    [rng.choice(size, p=row) for row in q.reshape(-1, size)]
  ).reshape(cases, num_draft)
  drafted = np.arange(cases) % (num_draft + 1)
  empty = np.arange(num_draft) >= drafted[:, None]
  tokens = np.where(empty, base.EMPTY, tokens)
  with np.errstate(divide='ignore'):
    log_q = np.where(empty[..., None], NEG, np.log(q))
  if point_mass:
    q = np.eye(size)[np.maximum(tokens, 0)]
  return Cases(logits, tokens, log_q, q, drafted)
