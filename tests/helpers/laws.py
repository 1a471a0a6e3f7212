"""The law of a whole loop: tables as models, and Pearson's statistic."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from specjax import base
from specjax.decoding import generate as generate_lib
from specjax.decoding import warp as warp_lib
from specjax.decoding.controls import row_keys
from specjax.decoding.controls import Sampling
from tests.helpers import fakes
from tests.helpers import references

# Chance that a right program fails a test; no file has more than 20 of them.
ALARM = 1e-7
VOCAB, END, LENGTH, NUM_DRAFT = 4, 0, 4, 3
ROWS = 2500  # of each prompt and warp
PROMPTS = ((1, 2, 3, 1, 2), (3,))
WARPS = (
  dict(temperature=1.0),
  dict(temperature=0.5),
  dict(temperature=1.0, top_k=2),
  dict(temperature=1.5, top_p=0.7),
  dict(temperature=1.0, min_p=0.3),
  dict(temperature=0.8, repetition_penalty=1.5),
  dict(temperature=0.0),
)
SPEC = warp_lib.WarpSpec(
  sampled=True, top_k=True, top_p=True, min_p=True, repetition_penalty=True
)
TARGET, DRAFT = fakes.markov_params(0, VOCAB), fakes.markov_params(5, VOCAB)
# A draft model that is neither the target nor far from it.
DRAFT = jax.tree.map(lambda p, q: 0.5 * p + 0.6 * q, TARGET, DRAFT)


def _batch(warps, **settings):
  """Prompt and controls; row i belongs to cell i % cells."""
  cells = [(prompt, values) for prompt in PROMPTS for values in warps]
  rows = [cells[i % len(cells)] for i in range(ROWS * len(cells))]
  width = max(map(len, PROMPTS))
  tokens = np.array([[*p, *[2] * (width - len(p))] for p, _ in rows], np.int32)

  def column(name, off):
    return [values.get(name, off) for _, values in rows]

  dials = ('lenience', 'wish', 'bug')
  rule = {k: np.asarray(settings.pop(k)) for k in dials if k in settings}
  settings = Sampling(
    temperature=column('temperature', 1.0),
    top_k=column('top_k', 0),
    top_p=column('top_p', 1.0),
    min_p=column('min_p', 0.0),
    repetition_penalty=column('repetition_penalty', 1.0),
    min_new_tokens=column('min_new_tokens', 0),
    presence_penalty=column('presence_penalty', 0.0),
    frequency_penalty=column('frequency_penalty', 0.0),
    **settings,
  )
  controls = settings.controls(
    row_keys(7, range(len(rows))), LENGTH, (END,), rule
  )
  length = jnp.asarray([len(p) for p, _ in rows], jnp.int32)
  return cells, base.Prompt(jnp.asarray(tokens), length), controls


def _law(target, prompt, values, encoder_decoder):
  table = np.asarray(target['table'], np.float64)
  source = np.asarray(target['source'], np.float64)
  start = (0,) if encoder_decoder else prompt
  values = {'prompt_length': len(start), 'end_ids': (END,)} | values

  def model(prefix):
    before = prefix[-2] if len(prefix) > 1 else VOCAB
    logits = table[before, prefix[-1]]
    if encoder_decoder:
      logits = logits + source[prompt[0]]
    return references.warp(logits, prefix, **values)

  return references.sequence_law(model, start, LENGTH, END)


def program(recipe):
  """The loop, compiled afresh: a patched function must not meet a cache."""

  def decode(params, prompt, controls):
    return generate_lib.generate(
      recipe, params, prompt, controls, max_new_tokens=LENGTH
    )

  return jax.jit(decode)


def p_value(
  decode,
  encoder_decoder=False,
  *,
  tables=(TARGET, DRAFT),
  warps=WARPS,
  **settings,
):
  """Probability that a right program deviates from the law as far as this.

  Args:
    decode: function (params, prompt, controls) -> `Generation`, see `program`.
    encoder_decoder: whether the target is one.
    tables: parameters of target and drafter.
    warps: settings of the rows, each with every prompt.
    **settings: further fields of `Sampling`, the lists of tokens among them,
      and the dials `lenience`, `wish` and `bug` of a rule.

  Returns:
    The p-value of all rows together.
  """
  lists = ('logit_bias', 'bad_words', 'suppress_tokens')
  lists = {name: settings[name] for name in lists if name in settings}
  cells, prompt, controls = _batch(warps, **settings)
  params = generate_lib.Params(*tables)
  got = jax.device_get(decode(params, prompt, controls))
  first = got.prompt_length[:, None]
  column = np.arange(got.tokens.shape[1])
  after = (column >= first) & (column < first + got.num_tokens[:, None])
  rows = [
    tuple(row[keep].tolist())
    for row, keep in zip(got.tokens, after, strict=True)
  ]
  statistic = freedom = 0
  for cell, (given, values) in enumerate(cells):
    seen = {}
    for tokens in rows[cell :: len(cells)]:
      seen[tokens] = seen.get(tokens, 0) + 1
    part, cells_seen = references.chi_square(
      seen, _law(tables[0], given, values | lists, encoder_decoder)
    )
    statistic, freedom = statistic + part, freedom + cells_seen
  return stats.chi2.sf(statistic, freedom)
