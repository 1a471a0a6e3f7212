"""SpecDec's experiment: slots, rules, drafters and batches, with quality.

It reports the paper's figures for the models at hand: speed over plain greedy
decoding and over beam search, mean accepted tokens a round, BLEU, and the
nearness of outputs to the target's own.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp

from specjax import base
from specjax import text as text_lib
from specjax import validation
from specjax.benchmark import cases as cases_lib
from specjax.benchmark import check as check_lib
from specjax.benchmark import measure as measure_lib
from specjax.benchmark import memory
from specjax.benchmark import quality
from specjax.benchmark import request as request_lib
from specjax.benchmark.config import BenchmarkConfig
from specjax.checkpoints import model as model_lib
from specjax.decoding import beam
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers.top_candidates import ENTRY as TOP_CANDIDATES
from specjax.inference import assemble
from specjax.inference import decode_batch
from specjax.models import registry as families

EXACT = (1, 0.0)


@dataclasses.dataclass
class SpecDecConfig(BenchmarkConfig):
  """As `BenchmarkConfig`, in four tables; the first drafter is the main one.

  At batch 1: the main drafter with each of `num_draft`; each (beta, tau) with
  `table_draft` slots; each drafter with `table_draft`. Then the main drafter,
  plain decoding and beam search at each of `batch_size`. `verifier` and
  `temperature` keep their defaults.

  Attributes:
    relaxed: pairs (beta, tau) of the rule `top_candidates`; (1, 0) is exact.
    dial: pair (beta, tau) outside the table of pairs, beside the exact rule.
    table_draft: draft length K in the tables that do not vary it, in tokens.
    num_beams: hypotheses of the beam search; 0 leaves it out.
  """

  relaxed: tuple = ((1, 0.0), (3, 1.0), (5, 3.0), (5, 5.0))
  dial: tuple = (3, 1.0)
  table_draft: int = 10
  num_beams: int = 5

  def validate(self) -> None:
    super().validate()
    self.batch_size = tuple(sorted({1, *self.batch_size}))
    for field, lowest in (('table_draft', 1), ('num_beams', 0)):
      validation.whole(field, getattr(self, field), lowest)
    named = [('relaxed holds pairs', pair) for pair in self.relaxed]
    for what, pair in (*named, ('dial is one pair', self.dial)):
      if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f'{what} (beta, tau), not {pair!r}.')
      validation.whole('beta', pair[0], 1)
      if not validation.is_number(pair[1]) or not pair[1] >= 0:
        raise ValueError(f'tau must be 0 or more, not {pair[1]}.')
    if self.temperature != (0.0,):
      raise ValueError(
        'This experiment decodes greedily; leave temperature at (0.0,).'
      )
    if self.generation_config != type(self).generation_config:
      raise ValueError(
        'This experiment decodes by its own settings; leave generation_config '
        'at none.'
      )
    if self.refill:
      raise ValueError(
        'This experiment searches with beams, whose batches are decoded whole; '
        'leave refill at false.'
      )
    if self.verifier != ('auto',):
      raise ValueError(
        "This experiment sets the rules itself; leave verifier at ('auto',) "
        'and change relaxed and dial.'
      )

  def check(self, setup: Any) -> None:
    if len(self.quantize) > 1:
      raise ValueError(
        'Only the sweep compares several values of quantize; give one here.'
      )
    if not setup.sources:
      raise ValueError(
        'Name at least one --drafter; the first is the main one.'
      )
    if not setup.target.lm.is_encoder_decoder:
      raise ValueError(
        f'This experiment needs an encoder-decoder, but {setup.target.name} is '
        'decoder-only.'
      )
    check_slots(setup.sources[0], self)
    betas = [beta for beta, _ in (self.dial, *self.relaxed)]
    target = assemble.target_of(setup.target)
    TOP_CANDIDATES.check(target, TOP_CANDIDATES.options(beta=max(betas)))

  def cases(
    self, setup: Any, temperature: float, batch_size: int
  ) -> list[cases_lib.Case]:
    """Plain decoding, then each drafter, K and pair that a table needs."""
    main, rules = setup.sources[0], (EXACT, self.dial)
    wanted = [(main, self.table_draft, pair) for pair in rules]
    if batch_size == 1:
      wanted += itertools.product((main,), self.num_draft, rules)
      wanted += [(main, self.table_draft, pair) for pair in self.relaxed]
      wanted += itertools.product(setup.sources[1:], (self.table_draft,), rules)
    cases = {None: setup.plain(temperature, batch_size)}
    for source, num_draft, (beta, tau) in wanted:
      pair = EXACT if beta == 1 else (beta, tau)
      key = source.name, num_draft, pair
      too_many = num_draft > (request_lib.most_draft(source) or num_draft)
      if key not in cases and not too_many:
        rule = {} if pair == EXACT else _relaxed(*pair)
        cases[key] = setup.case(
          source, temperature, batch_size, num_draft=num_draft, **rule
        )
    return list(cases.values())

  def beside(self, group: Any) -> list[tuple]:
    if not self.num_beams:
      return []
    about = group.fields(f'beam-{self.num_beams}', 'search', 0)
    engine = beam_engine(group.setup.target, self, group.every_batch)
    return [(about | {'engine': 'specjax', 'mode': 'beam'}, engine)]

  def finish(self, results: Any, log_fn: Callable[[str], None]) -> Any:
    _add_ratios(results)
    log_fn('decoding with the drafter alone')
    return results._replace(alone=_judge_runs(results, self))


def label(model: model_lib.Model | None, name: str) -> str:
  """Kind of a drafter, in words of the paper."""
  if model is None or model.config is None:
    return name
  return families.family_of(model.config).label(model.config) or name


def check_slots(main: Source, config: Any) -> None:
  """Raises ValueError if the main drafter has too few slots for the tables.

  Values of `num_draft` that it cannot fill are left out, but not all of them.
  """
  for field, least in (
    ('table_draft', config.table_draft),
    ('num_draft', min(config.num_draft)),
  ):
    most = request_lib.most_draft(main)
    if most and least > most:
      raise ValueError(
        f'{field} is {least}, but {main.name} was made to draft at most {most} '
        f'tokens at once; lower {field}.'
      )


def _relaxed(beta: int, tau: float) -> dict[str, Any]:
  """Settings of the relaxed rule."""
  dials = {'beta': int(beta), 'tau': float(tau)}
  name = TOP_CANDIDATES.name
  return {'verifier': name, 'verifiers': {name: dials}}


def beam_engine(
  target: model_lib.Model, config: Any, batches: Sequence
) -> measure_lib.Engine:
  """Beam search as an engine, whose answers have a peer's form."""
  spec = beam.BeamSpec(
    config.num_beams, matmul_precision=config.matmul_precision
  )
  search = beam.compiled(target.lm, spec, config.max_new_tokens)

  def call(index: int):
    batch = batches[index]
    rank = jnp.zeros(len(batch.rows), jnp.int32)
    begin = time.perf_counter()
    made = search(target.params, batch.prompt, batch.controls, rank)
    jax.block_until_ready(made)
    seconds = time.perf_counter() - begin
    made = jax.device_get(made)
    tokens = [decode_batch.new_tokens(made, i) for i in range(len(batch.rows))]
    peak = memory.peak()
    return measure_lib.Timing(seconds), {
      'tokens': tokens,
      'peak_bytes': peak.bytes,
      'peak_kind': peak.kind,
    }

  one_of_each = {b.prompt.tokens.shape: i for i, b in enumerate(batches)}
  begin = time.perf_counter()
  for index in one_of_each.values():
    call(index)
  seconds = time.perf_counter() - begin
  name = f'beam search, {config.num_beams} beams'
  return measure_lib.Engine(name, call, None, seconds)


def outputs(
  setup: request_lib.Setup, batches: Sequence, made: Sequence
) -> list[list[int]]:
  """New tokens of every prompt, the end token left out.

  Args:
    setup: models and prompts.
    batches: prompts, in batches.
    made: `Generation` or a peer's answer for each batch.
  """
  rows = [[] for _ in setup.prompts]
  for batch, found in zip(batches, made, strict=True):
    for number, tokens in zip(
      batch.rows, check_lib.rows_of_tokens(found), strict=True
    ):
      rows[number] = [t for t in tokens if t not in setup.target.eos_ids]
  return rows


def _judge(setup, rows, plain_rows) -> dict[str, Any]:
  """`quality.compare` of outputs with plain decoding's."""

  def text(row):
    if setup.target.tokenizer is None:
      return ' '.join(map(str, row))
    return text_lib.decode(setup.target.tokenizer, row)

  texts, plain_texts = (
    [text(row) for row in side] for side in (rows, plain_rows)
  )
  references = [prompt.reference for prompt in setup.prompts]
  return quality.compare(rows, texts, plain_rows, plain_texts, references)


def _add_ratios(results) -> None:
  """Adds labels and ratios of seconds to the rows."""
  by_name = {s.name: s.model for s in results.setup.sources}
  baselines = {
    (row['batch_size'], row['mode']): row['seconds']
    for row in reversed(results.rows)
    if row['engine'] == 'specjax'
  }
  for row in results.rows:
    row['label'] = label(by_name.get(row['drafter']), row['drafter'])
    for name, mode in (('over_greedy', 'plain'), ('over_beam', 'beam')):
      seconds = baselines.get((row['batch_size'], mode))
      row[name] = None if seconds is None else seconds / row['seconds']


def _verify_nothing(context, draft, logits) -> base.Verdict:
  """Keeps every draft token: the drafter alone."""
  del context
  # A round must end in a token of its own, so the last draft token takes its
  # place: tokens [[5, 9, 4, EMPTY]] -> 2 accepted (5, 9), next token 4.
  count = jnp.sum(draft.tokens >= 0, axis=1)
  last = jnp.take_along_axis(
    draft.tokens, jnp.maximum(count - 1, 0)[:, None], axis=1
  )[:, 0]
  # Without a draft the row is at its end and takes the target's own token.
  best = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
  return base.Verdict(
    jnp.maximum(count - 1, 0).astype(jnp.int32),
    jnp.where(count > 0, last, best),
  )


def _judge_runs(results, config) -> dict[str, Any]:
  """Adds quality to our rows of batch 1; returns that of the drafter alone.

  The drafter alone shows how much of the quality the target contributes.
  """
  setup = results.setup
  _, batches, plain = results.runs[0]
  plain_rows = outputs(setup, batches, plain)
  for row, batches_of_row, made in results.runs:
    if row['batch_size'] == 1 and row['engine'] == 'specjax':
      row |= _judge(setup, outputs(setup, batches_of_row, made), plain_rows)
  case = setup.case(
    setup.sources[0],
    0.0,
    1,
    num_draft=config.table_draft,
    verifier=base.Verifier(_verify_nothing),
  )
  made = case.decode(batches, config.max_new_tokens)
  return _judge(setup, outputs(setup, batches, made), plain_rows)
