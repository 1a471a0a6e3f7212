"""Targets, drafters and verification rules as a user would write them.

All of them use what `specjax` makes public, and the noise of `sampling`. The
language of `language` has a favourite successor for every token, so that a
drafter which knows favourites is often right.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

import specjax
from specjax.decoding import sampling
from tests.helpers import fakes
from tests.helpers import tiny

VOCAB = 96
END = 2
_CYCLE = 4


def favourite() -> np.ndarray:
  """int32 [V]: the likeliest token after each token; short cycles."""
  token = np.arange(VOCAB)
  place = np.maximum(token - 4, 0)
  first = 4 + place // _CYCLE * _CYCLE
  after = np.where(token < 4, 4, first + (place + 1) % _CYCLE)
  return after.astype(np.int32)


def language(seed: int = 0, strength: float = 6.0):
  """Parameters of `fakes.markov_lm` over `VOCAB` tokens."""
  made = fakes.markov_params(seed, VOCAB, 1.0)
  likes = strength * np.eye(VOCAB, dtype=np.float32)[favourite()]
  return {**made, 'table': made['table'] + likes}


def target(seed: int = 0, tokenizer: bool = True, **settings):
  """A model of the user's own, by `Model.from_lm`."""
  return specjax.Model.from_lm(
    fakes.markov_lm(VOCAB, **settings),
    language(seed),
    tiny.tokenizer() if tokenizer else None,
    eos_ids=(END,),
    name='own',
  )


@functools.cache
def successors(num_draft: int = 3, vocab: int = VOCAB) -> specjax.Drafter:
  """Remembers in `observe` what followed each token; no probabilities."""

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, capacity
    batch = prefilled.last_token.shape[0]
    table = jnp.full((batch, vocab), specjax.EMPTY, jnp.int32)
    return {'table': table, 'last': prefilled.last_token}

  def propose(params, state, view):
    del params
    token, found = view.last_token, []
    for _ in range(num_draft):
      after = jnp.take_along_axis(
        state['table'], jnp.maximum(token, 0)[:, None], 1
      )[:, 0]
      token = jnp.where(token >= 0, after, specjax.EMPTY)
      found.append(token)
    draft = specjax.Draft(jnp.stack(found, axis=1))
    return draft, {**state, 'last': view.last_token}

  def observe(params, state, observation):
    del params
    table, last = state['table'], state['last']
    row = jnp.arange(table.shape[0])
    for place in range(observation.tokens.shape[1]):
      token = observation.tokens[:, place]
      counts = place < observation.num_tokens
      new = jnp.where(counts, token, table[row, last])
      table = table.at[row, last].set(new)
      last = jnp.where(counts, token, last)
    return {'table': table, 'last': last}

  return specjax.Drafter(init, propose, observe, num_draft, num_draft)


def _stateless(propose, num_draft, max_path=None, **more) -> specjax.Drafter:
  """A drafter of one function `(params, view) -> Draft`."""

  def init(params, prompt, prefilled, *, capacity):
    del params, prompt, prefilled, capacity
    return ()

  def observe(params, state, observation):
    del params, observation
    return state

  return specjax.Drafter(
    init,
    lambda params, state, view: (propose(params, view), state),
    observe,
    num_draft,
    max_path or num_draft,
    **more,
  )


def drafting(propose, num_draft: int = 3, max_path=None) -> specjax.Drafter:
  """A drafter of `(params, view) -> Draft`; for breaches of the contract."""
  return _stateless(propose, num_draft, max_path)


@functools.cache
def favourites_tree() -> specjax.Drafter:
  """Two branches of two nodes each, without parameters."""
  table = favourite()

  def propose(params, view):
    del params
    batch = view.last_token.shape[0]
    after = jnp.asarray(table)
    one, two = after[view.last_token], view.last_token
    tokens = jnp.stack([one, two, after[one], after[two]], axis=1)
    rows = functools.partial(jnp.broadcast_to, shape=(batch, 5))
    tree = specjax.Tree(
      rows(jnp.array([0, 0, 0, 1, 2], jnp.int32)),
      rows(jnp.array([0, 1, 1, 2, 2], jnp.int32)),
    )
    return specjax.Draft(tokens, tree=tree)

  return _stateless(propose, 4, 2)


@functools.cache
def table_of(num_draft: int, style: specjax.Style) -> specjax.Drafter:
  """A factory for `custom`: follows params['after'] int32 [V]."""
  del style

  def propose(params, view):
    token, found = view.last_token, []
    for _ in range(num_draft):
      token = params['after'][token]
      found.append(token)
    return specjax.Draft(jnp.stack(found, axis=1))

  return _stateless(propose, num_draft)


@functools.cache
def law_of(num_draft: int, style: specjax.Style) -> specjax.Drafter:
  """A factory for `custom`: draws from params['logits'] [V, V], honestly."""

  def propose(params, view):
    draft, _ = specjax.drafters.drawing.sequence(
      params['logits'][view.last_token],
      lambda state, tokens: (params['logits'][tokens[:, 0]], state),
      (),
      view.context,
      num_draft,
      style,
    )
    return draft

  return _stateless(propose, num_draft)


def law_params():
  """Logits near the language's own."""
  return {'logits': jnp.asarray(6.0 * np.eye(VOCAB)[favourite()], jnp.float32)}


@dataclasses.dataclass
class EchoOptions:
  """Options of `ECHO`: how far behind the last token it reads."""

  back: int = 0

  def validate(self):
    if self.back < 0:
      raise ValueError(f'echo.back must be 0 or more, not {self.back}.')


def _echo_plan(target, source, options, num_draft, rows):
  del target, source, rows
  return specjax.DraftPlan(
    num_draft, num_draft, reads_corpus=True, static=options.back
  )


def _echo_bind(lm, config, plan, style):
  del lm, config
  return table_of(plan.num_draft, style)


def _echo_params(plan, target, source, data):
  """Tokens that followed each one in the prompts, or better the corpus."""
  del plan, target, source
  after = np.full((VOCAB,), 0, np.int32)
  texts = [np.asarray(row) for row in data.rows]
  if data.index is not None:
    texts.append(np.asarray(data.index.text))
  for text in texts:
    pairs = text[:-1] >= 0, text[1:] >= 0
    both = pairs[0] & pairs[1]
    after[text[:-1][both]] = text[1:][both]
  return {'after': jnp.asarray(after)}


ECHO = specjax.DrafterEntry(
  'echo',
  'repeats what followed in prompts and corpus',
  _echo_plan,
  _echo_bind,
  _echo_params,
  EchoOptions,
)


def _own_samples(context, logits):
  """The target's own tokens, by the noise of plain decoding: int32 [B, T]."""
  places = context.length[:, None] + jnp.arange(logits.shape[1])
  keys = sampling.position_keys(
    context.controls.row_key, places, sampling.TARGET
  )
  return sampling.categorical(logits, keys, 'gumbel')


def _keep(same, samples):
  """The verdict that keeps leading agreement bool [B, K]."""
  count = jnp.cumprod(same, axis=1, dtype=jnp.int32).sum(axis=1)
  token = jnp.take_along_axis(samples, count[:, None], axis=1)[:, 0]
  return specjax.Verdict(count, token)


def _agree(context, draft, logits):
  samples = _own_samples(context, logits)
  return _keep(samples[:, :-1] == draft.tokens, samples)


# Keeps what equals the target's sample, for chains.
AGREE = specjax.Verifier(_agree, noise='private')


@dataclasses.dataclass
class SlackOptions:
  """Options of `SLACK`: logits by which a drafted token may be worse."""

  slack: float = 0.0

  def validate(self):
    return None


def _slack(context, draft, logits):
  samples = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  drafted = jnp.maximum(draft.tokens, 0)[..., None]
  score = jnp.take_along_axis(logits[:, :-1], drafted, axis=-1)[..., 0]
  slack = context.controls.rule['slack'][:, None]
  close = score >= jnp.max(logits[:, :-1], axis=-1) - slack
  return _keep(close & (draft.tokens >= 0), samples)


_SLACK = specjax.Verifier(_slack)

# A rule for temperature 0 with a dial: 0 keeps greedy tokens alone.
SLACK = specjax.VerifierEntry(
  'slack',
  'what is nearly the best',
  lambda sampler, max_path, static: _SLACK,
  options=SlackOptions,
  requires_zero_temperature=True,
  greedy_at_zero=False,
  exact_for='argmax',
  exact_when=lambda options: not np.any(np.asarray(options.slack)),
)


def forms(small_model=None) -> dict:
  """Every form in which a drafter may be given, by name."""
  custom = specjax.drafters.custom
  made = {
    'name': 'suffix',
    'entry': ECHO,
    'drafter': successors(),
    'parameters': custom(table_of, params={'after': favourite()}),
    'probabilities': custom(law_of, params=law_params(), has_log_probs=True),
    'tree': favourites_tree(),
    'model': small_model,
  }
  return {name: form for name, form in made.items() if form is not None}


def tokens(answers) -> list[tuple[int, ...]]:
  """Token ids of answers."""
  return [answer.tokens for answer in answers]


def accepted(answers) -> int:
  """Accepted draft tokens of answers, added up."""
  return sum(answer.counts.num_accepted for answer in answers)
