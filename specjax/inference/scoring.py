"""Log probabilities of completions that are given, in one call.

scores = specjax.score(model, [('Once upon a', ' time'), ('Once', ' more')])
print(scores[0].logprob)
"""

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from specjax import base
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding import scoring
from specjax.distributed import transfer
from specjax.inference import assemble
from specjax.inference import encoding
from specjax.inference import logprobs as logprobs_lib
from specjax.inference import pairs as pairs_lib
from specjax.inference import planning
from specjax.inference import sources
from specjax.inference.config import DecodeConfig
from specjax.inference.windows import batch_rows

# Settings that change a score, or its time.
READ = (
  'batch_size',
  'chat',
  'chat_template_kwargs',
  'continue_final_message',
  'dtype',
  'logprobs',
  'matmul_precision',
  'mesh',
  'prefill_chunk',
  'prefix',
  'quantize',
)
# Batches whose pairs are laid out together by their lengths.
_WINDOW = 64


@dataclasses.dataclass(frozen=True)
class Score:
  """A completion with its log probabilities under the target as it is.

  Attributes:
    prompt: the prompt's text, as in `Answer`.
    completion: the completion's text.
    tokens: its ids.
    logprob: log probability of all of them behind the prompt.
    logprobs: `Logprob` of each.
    id: id of the pair's line, or None.
  """

  prompt: str
  completion: str
  tokens: tuple[int, ...]
  logprob: float
  logprobs: tuple[logprobs_lib.Logprob, ...]
  id: str | int | None = None


class _Row(NamedTuple):
  """A pair as ids, and its texts."""

  pair: pairs_lib.Pair
  prompt: str
  prompt_ids: list[int]
  completion_ids: list[int]


def score(
  model: model_lib.Model | str | os.PathLike,
  pairs: Iterable[Any],
  *,
  config: DecodeConfig | None = None,
  **settings: Any,
) -> list[Score]:
  """Log probabilities of completions behind their prompts.

  Temperature, penalties and filters play no part. An end token counts where a
  completion holds it, as text or as an id.

  Args:
    model: the target, as for `generate`.
    pairs: (prompt, completion) of each, or mappings with these keys. A prompt
      is one of `generate`, a completion text or token ids. Text behind text is
      tokenised with it, unless that changes the prompt's tokens; all else
      alone.
    config: `DecodeConfig`; by default its defaults.
    **settings: fields of it that differ; those of `READ` have a meaning here.

  Returns:
    A `Score` for each pair, in order.

  Raises:
    TypeError: for a keyword that has no meaning here.
    ValueError: for a bad pair, named by its place, before anything is scored.
    FloatingPointError: if the target's logits are not numbers.
  """
  for name in settings:
    if name not in READ:
      raise TypeError(
        f'score has no keyword {name}; it takes config, {", ".join(READ)}.'
      )
  config = dataclasses.replace(config or DecodeConfig(), **settings)
  check_config(config)
  model = sources.as_target(
    model, lambda name: planning.load_target(name, config)
  )
  model_lib.check_target(model)
  found = stream(model, pairs_lib.of(pairs), config)
  return [one for window in found for one in window]


def check_config(config: DecodeConfig) -> None:
  """Refuses settings that are bad, or have no meaning for scores.

  Args:
    config: the settings.

  Raises:
    ValueError: names the first of them.
  """
  config.validate()
  plain = DecodeConfig()
  for field in dataclasses.fields(plain):
    name = field.name
    if name in READ or getattr(config, name) == getattr(plain, name):
      continue
    raise ValueError(
      f'Scores are of the target as it is, so {name} changes nothing; leave it '
      'out.'
    )


def stream(
  model: model_lib.Model,
  pairs: Sequence[pairs_lib.Pair],
  config: DecodeConfig,
) -> Iterator[tuple[Score, ...]]:
  """Scores some pairs after the other; see `score`.

  Args:
    model: the target.
    pairs: all pairs.
    config: settings.

  Yields:
    Scores in the order of the pairs, after all pairs are checked.
  """
  logprobs_lib.check_vocabulary(config.logprobs, model.lm.vocab_size)
  rows = [_encoded(model, pair, config) for pair in pairs]
  settings = config.recipe_settings(num_draft=0, logprobs=config.logprobs or 0)
  assembled = assemble.assemble(assemble.target_of(model), None, settings)
  parts = model.layout.size('batch') if model.layout else 1
  size = batch_rows(len(rows), config.rows_known, parts)
  for begin in range(0, len(rows), _WINDOW * size):
    window = rows[begin : begin + _WINDOW * size]
    made: dict[int, Score] = {}
    for places, shape in _batches(window, size):
      batch = [window[place] for place in places]
      found = _run(assembled, model, batch, (size, *shape))
      for number, place in enumerate(places):
        made[place] = _score(model, window[place], found, number)
    yield tuple(made[place] for place in range(len(window)))


def _encoded(model, pair: pairs_lib.Pair, config) -> _Row:
  """A pair as ids, checked."""
  line, where = pair.line, pair.line.where
  shown, prompt = encoding.encode_line(model, line, config)
  if not prompt:
    raise ValueError(
      f'{where}: the prompt is empty, and {model.name} knows no token to begin '
      'with.'
    )
  completion = _completion(model, pair, prompt, config)
  given = 1 if model.lm.is_encoder_decoder else len(prompt)
  most = model.lm.max_positions
  # The last token is predicted and not read.
  if most is not None and given + len(completion) - 1 > most:
    raise ValueError(
      f'{where} has {given} tokens in its prompt and {len(completion)} in its '
      f'completion, but the target was made for {most} positions; shorten it.'
    )
  return _Row(pair, shown, prompt, completion)


def _completion(model, pair, prompt: list[int], config) -> list[int]:
  """Ids of a completion."""
  completion, line = pair.completion, pair.line
  if model.tokenizer is None and isinstance(completion, str):
    completion = text_lib.spelled_ids(completion, line.where)
  joins = not (config.chat or model.lm.is_encoder_decoder)
  found = []
  if isinstance(completion, tuple):
    found = list(completion)
  elif line.is_text and joins:
    # 'a' and 'b' with a piece 'ab': together they are one token, which the
    # prompt alone does not begin.
    whole = encoding.of_text(
      model, line.source + completion, prefix=config.prefix
    )
    if whole[: len(prompt)] == prompt:
      found = whole[len(prompt) :]
  if not found and isinstance(completion, str):
    found = list(
      model.tokenizer(
        completion, add_special_tokens=False, verbose=False
      ).input_ids
    )
  if not found:
    raise ValueError(f'{line.where}: the completion has no tokens.')
  encoding.check_ids(model.lm, line.where, found)
  return found


def _batches(
  rows: Sequence[_Row], size: int
) -> Iterator[tuple[list[int], tuple[int, int]]]:
  """(places of rows, (prompt width, completion width)) of each batch."""
  # Completions of 3 widths at most, and in each of them prompts by length.
  columns = text_lib.widths([len(row.completion_ids) for row in rows])
  for width in sorted(set(columns)):
    places = [i for i, column in enumerate(columns) if column == width]
    places.sort(key=lambda i: len(rows[i].prompt_ids))
    groups = [places[i : i + size] for i in range(0, len(places), size)]
    longest = [len(rows[group[-1]].prompt_ids) for group in groups]
    for group, one in zip(groups, text_lib.widths(longest), strict=True):
      yield group, (one, width)


def _run(assembled, model, rows: Sequence[_Row], shape):
  """`LogProbs` of numpy, its first rows those of the batch."""
  size, width, columns = shape
  spare = [()] * (size - len(rows))
  prompt = base.Prompt(
    *text_lib.pad([*(row.prompt_ids for row in rows), *spare], width)
  )
  completion = base.Prompt(
    *text_lib.pad([*(row.completion_ids for row in rows), *spare], columns)
  )
  if model.layout is not None:
    where = model.layout, model.layout.rows(size)
    prompt, completion = (
      transfer.put(one, *where) for one in (prompt, completion)
    )
  vocab_size = model.lm.vocab_size
  found = _jitted(
    assembled.recipe,
    assembled.params(),
    prompt,
    completion,
    block=scoring.block_of(columns, size, vocab_size),
  )
  return transfer.to_host(found)


_jitted = jax.jit(scoring.score, static_argnames=('recipe', 'block'))


def _score(model, row: _Row, found, place: int) -> Score:
  """The score of one row of a batch."""
  tokens, pair = row.completion_ids, row.pair
  chosen = found.chosen[place, : len(tokens)]
  if np.isnan(chosen).any():
    raise FloatingPointError(
      f"{pair.line.where}: the target's logits are not numbers; check the "
      'weights, or use dtype=float32.'
    )
  completion = pair.completion
  if not isinstance(completion, str):
    completion = text_lib.decode(model.tokenizer, tokens)
  return Score(
    row.prompt,
    completion,
    tuple(tokens),
    float(np.sum(chosen, dtype=np.float64)),
    logprobs_lib.of_row(model.tokenizer, found, place, tokens),
    pair.line.id,
  )
