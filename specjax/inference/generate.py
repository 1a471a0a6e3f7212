"""Generation from text or token arrays, in one call.

  model, draft = specjax.load('folder'), specjax.load('smaller_folder')
  answers = specjax.generate(model, ['Once upon a time'], drafter=draft)
  print(answers[0].text)

`generate` is `planning.plan`, which checks everything, and `stream`, which
yields finished batches in the order of the prompts.
"""

from collections.abc import Callable, Iterator
import dataclasses
import os
import time
from typing import Any

from specjax import stop_strings
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import contract
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import generate as generate_lib
from specjax.decoding import stats
from specjax.distributed import processes
from specjax.inference import costs as costs_lib
from specjax.inference import decode_batch
from specjax.inference import encoding
from specjax.inference import logprobs as logprobs_lib
from specjax.inference import looping
from specjax.inference import planning
from specjax.inference import row_stops
from specjax.inference.batching import Job
from specjax.inference.batching import Row
from specjax.inference.config import DecodeConfig


@dataclasses.dataclass(frozen=True)
class Answer:
  """One generated continuation.

  Attributes:
    prompt: the prompt's text; as of `text`, ids where there is no tokenizer.
    text: generated text, cut before a stop string and before a character that
      the tokens do not finish; without a tokenizer its ids, as '5 6'.
    tokens: its ids; the end token, or the token that completes a stop string,
      is the last one.
    finish_reason: 'eos', 'length' or 'stop'; 'empty' for an empty prompt where
      the target knows no token to begin with.
    counts: `stats.Counts` of these tokens.
    prompt_index: place of the prompt, from 0.
    sequence: place among the prompt's answers, from 0.
    score: log probability of the tokens over their number to the power of the
      length penalty, for a beam search; None otherwise.
    logprobs: `Logprob` of each token, where the setting asks for them.
    id: name that the prompt's line carries, or None.
    num_truncated: tokens of the prompt that did not fit and were cut off.
  """

  prompt: str
  text: str
  tokens: tuple[int, ...]
  finish_reason: str
  counts: stats.Counts
  prompt_index: int
  sequence: int = 0
  score: float | None = None
  logprobs: tuple[logprobs_lib.Logprob, ...] | None = None
  id: str | int | None = None
  num_truncated: int = 0


@dataclasses.dataclass(frozen=True)
class Batch:
  """Answers in order, and the seconds it took to decode them."""

  answers: tuple[Answer, ...]
  seconds: float


def generate(
  model: model_lib.Model | str | os.PathLike,
  prompts: encoding.Prompts,
  *,
  drafter: Any = None,
  config: DecodeConfig | None = None,
  corpus: planning.CorpusLike | None = None,
  **settings: Any,
) -> list[Answer]:
  """Decodes prompts, speculatively where a drafter is given.

  Args:
    model: the target, from `specjax.load` or `specjax.Model.from_lm`; or its
      folder or hub id, which is loaded anew by every call, in `config.dtype`
      and onto `config.mesh`.
    prompts: a string, a list or generator of strings, chats (lists of messages)
      or token ids, an int array [S] or [N, S], or a `base.Prompt`. A dict is a
      line of a file of prompts, with settings of its own.
    drafter: a name or folder as `--drafter` takes it, a loaded model, a
      `DrafterEntry`, a `base.Drafter`, what `specjax.drafters.custom` or
      `specjax.drafters.hybrid` returns, or None for plain decoding.
    config: `DecodeConfig`; by default its defaults.
    corpus: earlier answers that `suffix` and a hybrid may copy from: a
      `specjax.Corpus`; or a file, which is made if it is missing and to which
      the answers are added at the end, as `--corpus` does.
    **settings: fields of it that differ, for instance `temperature=0.7`, or
      `verifier=` a name, a `VerifierEntry` or a `Verifier`.

  Returns:
    An `Answer` for each prompt (`num_return_sequences` for each), in order.

  Raises:
    TypeError: for a keyword that there is not.
    ValueError: for bad settings or prompts, before anything is decoded; for a
      drafter or rule of your own that breaks its contract or raises anything.
    OSError: for a model, a FILE.py:NAME or a corpus that is not readable.
    FloatingPointError: if a row's logits are not finite.
    MemoryError: if the device is too small for the batch.
  """
  is_file = isinstance(corpus, (str, os.PathLike))
  if is_file:
    corpus_lib.check_writable(corpus)
  job = planning.plan(
    model, prompts, drafter=drafter, config=config, corpus=corpus, **settings
  )
  if not is_file:
    return [answer for batch in stream(job) for answer in batch.answers]
  answers: list[Answer] = []
  try:
    for batch in stream(job):
      answers += batch.answers
  finally:
    # An interrupted call updates the corpus too.
    planning.extend_corpus(
      os.fspath(corpus),
      job.tokenizer,
      job.config.corpus_tokens,
      [answer.tokens for answer in answers],
    )
  return answers


def warm_up(job: Job) -> float:
  """Compiles every program the job needs; returns the seconds it took."""
  begin = time.perf_counter()
  for width in sorted({width for _, _, width in job.batches}):
    decode_batch.decode(job, (), width)
  return time.perf_counter() - begin


def stream(
  job: Job, progress: Callable[[str], None] = lambda text: None
) -> Iterator[Batch]:
  """Decodes batch by batch.

  Args:
    job: result of `planning.plan`.
    progress: called with a line before costs are measured.

  Yields:
    `Batch`es whose answers, one after the other, are those of `job.rows`.

  Raises:
    ValueError, FloatingPointError, MemoryError: see `generate`.
  """
  done, spent = 0, 0.0
  stops = row_stops.RowStops(job.tokenizer, job.config.stops())
  if job.config.costs == 'measure':
    job = planning.measured(job, progress)
  for number, (first, end, width) in enumerate(job.batches, 1):
    # Prompts without a token are in no batch. Their answers come in between, so
    # that the answers keep the order of the prompts.
    if first > done:
      yield Batch(tuple(map(_blank, job.rows[done:first])), 0.0)
    rows = job.rows[first:end]
    beside = job.again if number == 1 else ()
    live = [row for row in (*beside, *rows) if row.tokens]
    begin = time.perf_counter()
    generation = decode_batch.decode(job, live, width)
    seconds = time.perf_counter() - begin
    answers, failure = [], None
    for row in rows:
      if not row.tokens:
        answers.append(_blank(row))
        continue
      place = live.index(row)
      failure = _failure(job, row, generation, place)
      if failure:
        break
      mine = stops.of(row.prompt_index)
      answers.append(_answer(job, row, generation, place, mine))
    # What was whole before a fault goes out first, so that a caller keeps it
    # and a run that is resumed begins behind it.
    yield Batch(tuple(answers), seconds)
    job = planning.update_corpus(job, [answer.tokens for answer in answers])
    if failure:
      raise failure
    done, spent = end, spent + seconds
    # The time of the first batch shows whether measuring pays. All processes
    # decide as the first, since their clocks differ and measuring takes all.
    left = spent / number * (len(job.batches) - number)
    if number == 1 and processes.from_first(left > costs_lib.WORTH_SECONDS):
      job = planning.measured(job, progress)
  if done < len(job.rows):
    yield Batch(tuple(map(_blank, job.rows[done:])), 0.0)


def _answer(
  job: Job, row: Row, generation, place: int, stops: stop_strings.Stops
) -> Answer:
  """Cuts one row at a stop string and counts what is left."""
  tokens = decode_batch.new_tokens(generation, place)
  ended = generation.status[place] == generate_lib.EOS
  reason = 'eos' if ended else 'length'
  stop = stop_strings.find(stops, tokens)
  special = not job.config.skip_special_tokens
  if stop:
    tokens, text, reason = tokens[: stop[0]], stop[1], 'stop'
    if special:
      text = stop_strings.with_special(stops, tokens, text)
  else:
    text = text_lib.decode(job.tokenizer, tokens, special=special)
  rounds = generation.rounds
  counts = stats.count_row(
    rounds.drafted[place],
    rounds.accepted[place],
    rounds.emitted[place],
    len(tokens),
    job.recipe.drafter.max_path,
    tokens=tokens,
    exempt=looping.is_exempt(job.assembled, job.config.ignore_eos),
  )
  score = None
  if generation.score is not None and tokens:
    score = float(generation.score[place])
  found = None
  if generation.log_probs is not None:
    found = logprobs_lib.of_row(
      job.tokenizer, generation.log_probs, place, tokens
    )
  return Answer(
    row.prompt,
    text,
    tuple(tokens),
    reason,
    counts,
    row.prompt_index,
    row.sequence,
    score,
    found,
    id=row.id,
    num_truncated=row.num_truncated,
  )


def _blank(row: Row) -> Answer:
  """The answer to a prompt without a token: nothing."""
  return Answer(
    row.prompt,
    '',
    (),
    'empty',
    stats.Counts(),
    row.prompt_index,
    row.sequence,
    id=row.id,
  )


def _failure(job: Job, row: Row, generation, place: int):
  """The error that one row ends the job with, or None."""
  # First the cause, which a rule of the user's own may pass on.
  if generation.status[place] == generate_lib.NAN:
    return FloatingPointError(
      f"Prompt {row.prompt_index + 1}: the target's logits are not finite "
      f'after {int(generation.num_tokens[place])} new tokens, so nothing was '
      'sampled from them; check the weights, or use dtype=float32.'
    )
  faults = generation.faults
  if faults is None or not faults[place]:
    return None
  return ValueError(
    f'Prompt {row.prompt_index + 1}: {contract.explain(int(faults[place]))} '
    f'(drafter {job.assembled.source.name}, verifier '
    f'{job.assembled.rule.name}).'
  )
