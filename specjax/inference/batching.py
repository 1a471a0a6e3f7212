"""Prompts, checked and laid out into batches of few shapes.

Everything that can be wrong with settings or prompts is found here, before
anything is decoded.
"""

import dataclasses
from typing import Any, Optional, Sequence, Union

import jax
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.checkpoints import load as loading
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import drafting
from specjax.inference.config import DecodeConfig
from specjax.inference.config import per_row

Drafter = drafting.Drafter
_WHOLE = (int, np.integer)
Prompts = Union[str, Sequence[Any], np.ndarray, jax.Array, base.Prompt]


@dataclasses.dataclass(frozen=True)
class Row:
  """A prompt as the decoder gets it; one for each answer wanted."""

  prompt: str
  tokens: tuple[int, ...]
  prompt_index: int
  sequence: int


@dataclasses.dataclass(frozen=True)
class Job:
  """Checked prompts laid out into batches of few shapes.

  Attributes:
    recipe, params: what decodes.
    config: how.
    tokenizer: of the target, or None.
    eos_ids: end tokens in force.
    rows: every answer wanted, in order.
    batches: (first row, end row, padded prompt width); blank rows in between
      are not decoded.
    batch_size: rows of every batch; the last is filled up with finished ones.
    drafter: what drafts.
    corpus: earlier answers that it may copy from, or None.
    unsorted: tokens added to the corpus since it was sorted for search.
    layout: the mesh, or None for one device.
  """

  recipe: generate_lib.Recipe
  params: generate_lib.Params
  config: DecodeConfig
  tokenizer: Any
  eos_ids: tuple[int, ...]
  rows: tuple[Row, ...]
  batches: tuple[tuple[int, int, int], ...]
  batch_size: int
  drafter: Drafter = None
  corpus: Optional[corpus_lib.Corpus] = None
  unsorted: int = 0
  layout: Optional[mesh_lib.Layout] = None


def plan(
  model: loading.Model,
  prompts: Prompts,
  *,
  drafter: Drafter = None,
  config: Optional[DecodeConfig] = None,
  skip: int = 0,
  corpus: Optional[corpus_lib.Corpus] = None,
  **settings,
) -> Job:
  """Checks everything and lays the prompts out. See `generate`.

  Args:
    model: the target.
    prompts: as in `generate`.
    drafter: as in `generate`.
    config: as in `generate`.
    skip: answers that exist already, counted from the first.
    corpus: earlier answers, for the drafters that read them.
    **settings: as in `generate`.

  Returns:
    `Job`.
  """
  config = dataclasses.replace(config or DecodeConfig(), **settings)
  config.validate()
  drafting.check_target(model)
  drafter = None if drafter == 'none' or not config.num_draft else drafter
  if config.num_beams > 1 and drafter is not None:
    raise ValueError(
      f'A beam search (num_beams={config.num_beams}) is not speculative; leave '
      'the drafter out, or num_beams at 1.'
    )
  drafter = drafting.follow(drafter, model.layout)
  drafting.check_beta(model, config.beta)
  draft_model = drafting.draft_model(drafter)
  if draft_model is not None:
    text_lib.check_same_vocabulary(model.tokenizer, draft_model.tokenizer)
  encoded = _encode(model, prompts, config)
  _check_per_prompt(config, len(encoded))
  rows = tuple(
    Row(shown, tuple(tokens), index, sequence)
    for index, (shown, tokens) in enumerate(encoded)
    for sequence in range(config.num_return_sequences)
  )[skip:]
  parts = model.layout.size('batch') if model.layout else 1
  batch_size, batches = _layout(rows, config.batch_size, parts)
  recipe = assemble.recipe(
    drafting.target_lm(model, drafter),
    drafting.for_recipe(model, drafter, config.num_draft, batch_size),
    num_draft=config.num_draft,
    verify=config.verify,
    warp=config.sampling().warp_spec(),
    sampler=config.sampler,
    min_promise=drafting.min_promise(model, config.num_draft, batch_size),
    search=config.search,
    tree=config.tree,
  )
  for index, (_, tokens) in enumerate(encoded):
    _check_length(recipe, config, index, tokens)
    drafting.check_prompt(drafter, index, len(tokens))
  if config.stops() and model.tokenizer is None:
    raise ValueError(
      'Stop strings need a tokenizer, and the target has none; leave stop '
      'empty.'
    )
  return Job(
    recipe=recipe,
    params=generate_lib.Params(
      model.params, _drafter_params(drafter, corpus, model)
    ),
    config=config,
    tokenizer=model.tokenizer,
    eos_ids=() if config.ignore_eos else tuple(model.eos_ids),
    rows=rows,
    batches=batches,
    batch_size=batch_size,
    drafter=drafter,
    corpus=corpus,
    layout=model.layout,
  )


def learn(job: Job, answers: Sequence[Sequence[int]]) -> Job:
  """The job with answers added to its corpus, if it has one.

  The corpus is sorted anew once an eighth of it is new, so that the work stays
  in proportion to what is decoded.
  """
  if job.corpus is None:
    return job
  corpus = drafting.remember(job.corpus, answers)
  unsorted = job.unsorted + sum(len(answer) + 1 for answer in answers)
  job = dataclasses.replace(job, corpus=corpus, unsorted=unsorted)
  if 8 * unsorted < corpus.text.size:
    return job
  found = _place(drafting.params(job.drafter, corpus), corpus, job.layout)
  return dataclasses.replace(
    job, params=job.params.replace(drafter=found), unsorted=0
  )


def _drafter_params(drafter, corpus, target):
  """As `drafting.params`, where the target is."""
  return _place(drafting.params(drafter, corpus, target), corpus, target.layout)


def _place(made, corpus, layout):
  """What lies on no mesh yet goes onto all devices."""
  if layout is None or corpus is None:
    return made
  return jax.tree.map(
    lambda x: x if len(x.devices()) > 1 else transfer.put(x, layout), made
  )


def first_batch(job: Job) -> Job:
  """The job cut down to its first batch."""
  batches = job.batches[:1]
  end = batches[0][1] if batches else 0
  return dataclasses.replace(job, rows=job.rows[:end], batches=batches)


def as_list(value: Any) -> list:
  """The values of a setting that has one or one for each prompt."""
  return np.ravel(np.asarray(value)).tolist()


def batch_inputs(
  job: Job, rows: Sequence[Row], width: int
) -> tuple[base.Prompt, base.Controls]:
  """Arrays for one batch, filled up with rows that are finished at once.

  Args:
    job: from `plan`.
    rows: at most `job.batch_size`, none of them blank.
    width: S.

  Returns:
    (prompt [B, S], controls [B]).
  """
  config = job.config
  spare = job.batch_size - len(rows)
  indices = np.array([row.prompt_index for row in rows] + [0] * spare, int)
  sequences = [row.sequence for row in rows] + [0] * spare
  live = np.arange(job.batch_size) < len(rows)
  budgets = np.where(live, per_row(config.max_new_tokens, indices), 0)
  tokens, lengths = text_lib.pad(
    [row.tokens for row in rows] + [()] * spare, width
  )
  controls = config.sampling(indices).controls(
    _row_keys(config.seed, indices, sequences), budgets, job.eos_ids
  )
  prompt = base.Prompt(tokens, lengths)
  if job.layout is None:
    return prompt, controls
  rows = job.layout.rows(job.batch_size)
  return (
    transfer.put(prompt, job.layout, rows),
    transfer.put_controls(controls, job.layout),
  )


def _row_keys(seed, indices: Sequence[int], sequences: Sequence[int]):
  """A key for each row, the same in whatever batch the row stands."""
  if np.ndim(seed):
    seeds, names = per_row(seed, indices), np.zeros(len(indices))
  else:
    seeds, names = np.full(len(indices), seed), np.asarray(indices)
  return _fold_keys(
    np.asarray(seeds, np.uint32),
    np.asarray(names, np.uint32),
    np.asarray(sequences, np.uint32),
  )


@jax.jit
@jax.vmap
def _fold_keys(seed, index, sequence):
  key = jax.random.fold_in(jax.random.key(seed), sequence)
  return jax.random.fold_in(key, index)


def _encode(model, prompts: Prompts, config) -> list[tuple[str, list[int]]]:
  """(text to show, ids) of every prompt."""
  tokenizer = model.tokenizer
  if isinstance(prompts, str):
    prompts = [prompts]
  elif isinstance(prompts, base.Prompt):
    lengths = np.asarray(prompts.length)
    prompts = [row[:n] for row, n in zip(np.asarray(prompts.tokens), lengths)]
  elif isinstance(prompts, (np.ndarray, jax.Array)):
    prompts = list(np.atleast_2d(np.asarray(prompts)))
  elif _is_chat(prompts) or isinstance(next(iter(prompts), 0.5), _WHOLE):
    prompts = [prompts]
  if not len(prompts):
    raise ValueError('There is no prompt; give at least one.')
  encoded = []
  for index, prompt in enumerate(prompts):
    is_text = isinstance(prompt, str)
    is_chat = _is_chat(prompt)
    if is_text or is_chat:
      if tokenizer is None:
        raise ValueError(
          'The target has no tokenizer, so prompts must be token ids.'
        )
      tokens = text_lib.encode(
        tokenizer, prompt, chat=config.chat, prefix=config.prefix
      )
      _check_ids(model.lm, index, tokens)
      encoded.append((text_lib.shown(prompt), tokens))
      continue
    tokens = np.asarray(prompt)
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in 'iu'):
      raise ValueError(
        f'Prompt {index + 1} is neither text, nor messages, nor a row of '
        f'token ids (it has shape {tokens.shape} and type {tokens.dtype}).'
      )
    _check_ids(model.lm, index, tokens)
    encoded.append((text_lib.decode(tokenizer, tokens), tokens.tolist()))
  return encoded


def _is_chat(prompt: Any) -> bool:
  return (
    isinstance(prompt, (list, tuple))
    and len(prompt) > 0
    and isinstance(prompt[0], dict)
    and 'role' in prompt[0]
  )


def _check_per_prompt(config: DecodeConfig, count: int) -> None:
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name != 'stop' and np.ndim(value) and len(value) != count:
      raise ValueError(
        f'{field.name} has {len(value)} values for {count} prompts; give one '
        'value or one for each prompt.'
      )


def _check_ids(lm: base.CachedLM, index: int, tokens: Sequence[int]) -> None:
  for token in (min(tokens, default=0), max(tokens, default=0)):
    if not 0 <= token < lm.vocab_size:
      raise ValueError(
        f'Prompt {index + 1} holds the token id {token}, but the target knows '
        f'ids from 0 to {lm.vocab_size - 1}.'
      )


def _check_length(recipe, config, index: int, tokens: Sequence[int]) -> None:
  """Refuses what the target's positions cannot hold."""
  lm = recipe.target
  budget = int(per_row(config.max_new_tokens, index))
  given = 1 if lm.is_encoder_decoder else len(tokens)
  # A node of a tree stands where its depth puts it.
  needed = given + budget + recipe.drafter.max_path
  if lm.max_positions is None or needed <= lm.max_positions or not tokens:
    return
  if given >= lm.max_positions:
    raise ValueError(
      f'Prompt {index + 1} has {given} tokens, but the target was made for '
      f'{lm.max_positions} positions; shorten it.'
    )
  raise ValueError(
    f'Prompt {index + 1} has {given} tokens; with {budget} new ones and '
    f'{recipe.drafter.max_path} draft slots that is {needed}, but the target '
    f'was made for {lm.max_positions} positions; shorten it, or lower '
    'max_new_tokens or num_draft.'
  )


def _layout(rows: Sequence[Row], batch_size: int, parts: int):
  """(batch size, batches) for rows, a batch being cut into parts; see `Job`."""
  if batch_size % parts:
    raise ValueError(
      f'batch_size={batch_size} cannot be divided by the {parts} devices of '
      f'the data axis; take a multiple of {parts}, or a mesh.shape with fewer '
      'there.'
    )
  live = [index for index, row in enumerate(rows) if row.tokens]
  if not live:
    return batch_size, ()
  fewer = 1 << (len(live) - 1).bit_length()
  batch_size = min(batch_size, -(-fewer // parts) * parts)
  groups = [live[i : i + batch_size] for i in range(0, len(live), batch_size)]
  widths = text_lib.widths(
    [max(len(rows[index].tokens) for index in group) for group in groups]
  )
  return batch_size, tuple(
    (group[0], group[-1] + 1, width) for group, width in zip(groups, widths)
  )
