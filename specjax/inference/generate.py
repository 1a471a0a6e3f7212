"""Generation from text or token arrays, in one call.

  model, draft = specjax.load('folder'), specjax.load('smaller_folder')
  answers = specjax.generate(model, ['Once upon a time'], drafter=draft)
  print(answers[0].text)

`generate` is `planning.plan`, which checks everything, and `stream`, which
yields answers in the order of the prompts.
"""

from collections.abc import Callable, Iterator, Sequence
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
from specjax.inference import refill
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
      the target knows no token to begin with; 'error' for a line without an
      answer.
    counts: `stats.Counts` of these tokens.
    prompt_index: place of the prompt, from 0.
    sequence: place among the prompt's answers, from 0.
    score: log probability of the tokens over their number to the power of the
      length penalty, for a beam search; None otherwise.
    logprobs: `Logprob` of each token, where the setting asks for them.
    id: name that the prompt's line carries, or None.
    num_truncated: tokens of the prompt that did not fit and were cut off.
    num_prompt_tokens: number of tokens of the prompt.
    error: reason why there is no answer, or ''.
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
  num_prompt_tokens: int = 0
  error: str = ''


@dataclasses.dataclass(frozen=True)
class Batch:
  """Answers in order, and what it took to decode a part of the job.

  Attributes:
    answers: `Answer`s whose turn has come.
    seconds: time of decoding since the last one.
    row_rounds: rounds of the rows that were done meanwhile.
    all_rounds: rounds that ran, times the rows of a batch.
  """

  answers: tuple[Answer, ...]
  seconds: float
  row_rounds: int = 0
  all_rounds: int = 0


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
    prompts: a string, a list or generator of strings, chats, token ids or dicts
      as of JSON lines, an int array [S] or [N, S], or a `base.Prompt`.
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
  if job.batches:  # None are left where every answer exists.
    decoder_of(job).compile()
  return time.perf_counter() - begin


def decoder_of(job: Job) -> refill.Places | decode_batch.WholeBatches:
  """The way in which the job's rows are decoded, from the first one on."""
  how = decode_batch.WholeBatches if job.refill is None else refill.Places
  return how(job)


def stream(
  job: Job, progress: Callable[[str], None] = lambda text: None
) -> Iterator[Batch]:
  """Decodes rows, and gives answers as soon as all before them are there.

  Args:
    job: result of `planning.plan`.
    progress: called with a line before costs are measured.

  Yields:
    `Batch`es whose answers, one after the other, are those of `job.rows`; one
    may have none yet.

  Raises:
    ValueError, FloatingPointError, MemoryError: see `generate`.
  """
  if job.config.costs == 'measure':
    job = planning.measured(job, progress)
  decoder, order, spent, is_new = decoder_of(job), _Order(job), 0.0, True
  unread: list[Sequence[int]] = []
  while True:
    begin = time.perf_counter()
    step = decoder.step(order.limit)
    seconds = time.perf_counter() - begin
    for done in step.done if step else ():
      # A corpus has an answer at once, however long it waits for its turn.
      unread += [answer.tokens for answer in order.add(done)]
    answers = order.take()
    # What was whole before a fault goes out first, so that a caller keeps it
    # and a run that is resumed begins behind it.
    if answers or step:
      yield Batch(answers, seconds, *(step[1:] if step else ()))
    if order.failure:
      raise order.failure
    if step is None:
      return
    if len(unread) >= job.batch_size:
      job, unread = planning.update_corpus(job, unread), []
    # The time of the first answers shows whether measuring pays. All processes
    # decide as the first, since their clocks differ and measuring takes all.
    spent += seconds
    if is_new and order.written >= job.batch_size:
      is_new = False
      left = spent / order.written * (len(job.rows) - order.written)
      if processes.from_first(left > costs_lib.WORTH_SECONDS):
        job = planning.measured(job, progress)
    decoder.job = job


class _Order:
  """Answers, put into the order of the rows.

  Attributes:
    limit: rows from this place on are not wanted any more.
    written: answers that were taken.
    failure: error that the job ends with, once all answers before it are taken;
      or None.
  """

  def __init__(self, job: Job):
    self._job = job
    self._next = job.rows.begin
    self._end = self.limit = self._next + len(job.rows)
    self._waiting: dict[int, Answer | Exception] = {}
    self._stops = row_stops.RowStops(job.tokenizer, job.config.stops())
    self.written = 0
    self.failure: Exception | None = None

  def add(self, done: decode_batch.Done) -> tuple[Answer, ...]:
    """Keeps a row until its turn comes; returns its answer, if it has one."""
    if done.place < self._next:
      return ()  # Answered before, and decoded again beside others.
    given = self._job, done.row, done.generation, done.at
    failure = _failure(*given)
    if failure:
      # Rows before it still get their answers.
      self.limit = min(self.limit, done.place)
    mine = self._stops.of(done.row.prompt_index)
    made = failure or _answer(*given, mine)
    self._waiting[done.place] = made
    return () if failure else (made,)

  def take(self) -> tuple[Answer, ...]:
    """The answers whose turn has come."""
    # Row 0 waits for nothing, 1 is not there yet, 2 is: (answer of 0).
    found, rows = [], self._job.rows
    while self._next < self._end and not self.failure:
      # Prompts without a token are in no batch.
      if not rows.length(self._next):
        found.append(_blank(rows.at(self._next)))
      elif self._next not in self._waiting:
        break
      else:
        made = self._waiting.pop(self._next)
        if isinstance(made, Exception):
          self.failure = made
          break
        found.append(made)
      self._next += 1
    self.written += len(found)
    return tuple(found)


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
  kept = generation.log_probs
  return Answer(
    row.prompt,
    text,
    tuple(tokens),
    reason,
    counts,
    row.place,
    row.sequence,
    score,
    kept and logprobs_lib.of_row(job.tokenizer, kept, place, tokens),
    id=row.id,
    num_truncated=row.num_truncated,
    num_prompt_tokens=len(row.tokens),
  )


def _blank(row: Row) -> Answer:
  """The answer to a prompt without a token: nothing."""
  return Answer(
    row.prompt,
    '',
    (),
    'error' if row.error else 'empty',
    stats.Counts(),
    row.place,
    row.sequence,
    id=row.id,
    error=row.error,
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
