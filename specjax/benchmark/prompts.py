"""Prompts of a benchmark: text, JSON lines, Spec-Bench's file, or random ids.

References:
  Xia et al. Unlocking efficiency in large language model inference: a
    comprehensive survey of speculative decoding. Findings of ACL 2024.
    https://github.com/hemingkx/Spec-Bench
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from specjax import files
from specjax import prompt_files
from specjax import text as text_lib
from specjax.checkpoints import model as model_lib
from specjax.inference import encoding
from specjax.inference import line_settings
from specjax.models import registry as families
from specjax.training.data import readers

# Spec-Bench's file names MT-bench by its eight subjects.
MT_BENCH = (
  'writing',
  'roleplay',
  'reasoning',
  'math',
  'coding',
  'extraction',
  'stem',
  'humanities',
)


class EncodedPrompt(NamedTuple):
  """One prompt.

  Attributes:
    tokens: ids of the prompt.
    text: text as a person wrote it; '' for random ids.
    category: category of Spec-Bench, else ''.
    turn: number of the turn in a chat, 0 or 1.
    reference: answer of a person; '' if it is not known.
    question: number of the question in Spec-Bench, which both turns of a chat
      share; None elsewhere.
  """

  tokens: tuple[int, ...]
  text: str = ''
  category: str = ''
  turn: int = 0
  reference: str = ''
  question: int | None = None


class Question(NamedTuple):
  """A line of Spec-Bench: its category and one or two turns."""

  category: str
  turns: tuple[str, ...]


# Greedy answers of the target to prompts; second turns follow them.
Answer = Callable[[Sequence[EncodedPrompt]], list[list[int]]]


def collect(
  target: model_lib.Model,
  path: str,
  config: Any,
  answer: Answer | None = None,
  *,
  join: int = 1,
) -> list[EncodedPrompt]:
  """Reads or makes the prompts.

  Args:
    target: model whose tokenizer is used.
    path: file for `prompt_files.read_prompts`, Spec-Bench's `question.jsonl`,
      a .tsv file of sources and references, or '' for random ids.
    config: `BenchmarkConfig` or `CertifyConfig`.
    answer: function that answers first turns; without it there are no second
      turns.
    join: number of pairs of a .tsv file in a passage.

  Returns:
    At least one prompt.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if not path:
    return random_prompts(target, config)
  if target.tokenizer is None:
    raise ValueError(
      f'The target {target.name} has no tokenizer, so it reads no text; leave '
      '--input out and random tokens are used.'
    )
  questions = read_spec_bench(path)
  if files.kind(path) == '.tsv':
    return _pairs(target, path, config, join)
  if questions:
    prompts = _spec_bench(target, questions, config, answer)
  else:
    lines = [line for line in prompt_files.read_prompts(path) if line.source]
    lines = lines[: config.num_prompts or None]
    line_settings.note_left_out(lines)
    prompts = []
    for line in lines:
      shown, tokens = encoding.encode_line(target, line, config)
      prompts.append(EncodedPrompt(tuple(tokens) or (target.pad_id,), shown))
  if config.max_prompt_tokens:
    prompts = [
      p._replace(tokens=p.tokens[: config.max_prompt_tokens]) for p in prompts
    ]
  if not prompts:
    raise ValueError(f'{path} holds nothing but blank lines.')
  return prompts


def _pairs(
  target: model_lib.Model, path: str, config, join: int
) -> list[EncodedPrompt]:
  """Sentence pairs, joined to passages of `join` of them.

  Each source is taken once, in an order drawn by the seed. A passage longer
  than `config.max_prompt_tokens` is left out: cut, it would not fit its
  reference.
  """
  read = readers.read_pairs([path], fields=('source', 'target'))
  pairs = list(dict(zip(read.sources, read.targets, strict=True)).items())
  order = np.random.default_rng(config.seed).permutation(len(pairs))
  prompts = []
  for first in range(0, len(pairs) - join + 1, join):
    group = [pairs[i] for i in order[first : first + join]]
    source, reference = (' '.join(side) for side in zip(*group, strict=True))
    tokens = tuple(_encode(target, source, config))
    if not config.max_prompt_tokens or len(tokens) <= config.max_prompt_tokens:
      prompts.append(EncodedPrompt(tokens, source, reference=reference))
    if config.num_prompts and len(prompts) == config.num_prompts:
      break
  if not prompts:
    raise ValueError(
      f'{path} gives no passage of {join} pairs within '
      f'{config.max_prompt_tokens} tokens; lower --config.join or raise '
      '--config.max_prompt_tokens.'
    )
  return prompts


def further(
  target: model_lib.Model, path: str, config: Any
) -> list[EncodedPrompt]:
  """The `config.table_prompts` prompts behind those that are measured.

  Raises:
    ValueError: if the file has no more.
  """
  more = dataclasses.replace(
    config, num_prompts=config.num_prompts + config.table_prompts
  )
  prompts = collect(target, path, more, join=config.join)
  rest = prompts[config.num_prompts :] if config.num_prompts else []
  if not rest:
    raise ValueError(
      f'{path} has no prompts beyond the {config.num_prompts or "all"} that '
      'are measured; lower --config.num_prompts or set '
      '--config.table_prompts=0.'
    )
  return rest


def random_prompts(target: model_lib.Model, config: Any) -> list[EncodedPrompt]:
  """Ids drawn evenly, for models without a tokenizer."""
  rng = np.random.default_rng(config.seed)
  shape = (config.num_prompts or 8, config.prompt_length)
  # From 3 on, behind the ids that usually pad, end and stand for the unknown.
  rows = rng.integers(
    min(3, target.lm.vocab_size - 1), target.lm.vocab_size, shape
  )
  return [EncodedPrompt(tuple(int(i) for i in row)) for row in rows]


def read_spec_bench(path: str) -> list[Question]:
  """Questions of a file in Spec-Bench's form; empty if it has another form.

  The first line that is not blank decides.

  Raises:
    FileNotFoundError, IsADirectoryError: if there is no such file.
    ValueError: naming the line that is no question.
  """
  if files.kind(path) != '.jsonl':
    return []
  questions = []
  for number, line in enumerate(prompt_files.read_lines(path), 1):
    if not line.strip():
      continue
    try:
      row = files.parse_json(line)
    except ValueError:
      row = None
    if not isinstance(row, dict) or 'turns' not in row:
      if not questions:
        return []  # the general reader names the error and its line
      raise ValueError(
        f'{path}, line {number} is no question of Spec-Bench, as the first '
        'line is: it needs "turns", a list of strings.'
      )
    turns = row['turns']
    if not isinstance(turns, list) or not all(
      isinstance(turn, str) and turn.strip() for turn in turns or ['']
    ):
      raise ValueError(
        f'{path}, line {number}: "turns" must be a list of strings, one at '
        'least and none of them blank.'
      )
    name = str(row.get('category') or '')
    name = 'mt_bench' if name in MT_BENCH else name
    questions.append(Question(name, tuple(turns[:2])))
  return questions


def balanced(questions: Sequence[Question], count: int) -> list[Question]:
  """The first of each category in turn, `count` in all (0: everything)."""
  if not count:
    return list(questions)
  # The order is one for every count, so that `further` begins where it ends.
  count = min(count, len(questions))
  by_category = {}
  for question in questions:
    by_category.setdefault(question.category, []).append(question)
  # categories [a, a, b, c], 3 questions -> one of each: a, b, c
  chosen = []
  rank = 0
  while len(chosen) < count:
    chosen += [qs[rank] for qs in by_category.values() if rank < len(qs)]
    rank += 1
  return chosen[:count]


def _spec_bench(target, questions, config, answer) -> list[EncodedPrompt]:
  """First turns, then second turns on the target's own greedy replies."""
  questions = balanced(questions, config.num_prompts)
  firsts = []
  for i, question in enumerate(questions):
    source = _chat(target, [question.turns[0]])
    tokens = tuple(_encode(target, source, config))
    tokens = tokens[: config.max_prompt_tokens or None]
    firsts.append(
      EncodedPrompt(tokens, question.turns[0], question.category, question=i)
    )
  two = [
    i
    for i, question in enumerate(questions)
    if len(question.turns) > 1 and _fits(firsts[i], target, config)
  ]
  if not two or answer is None:
    return firsts
  replies = answer([firsts[i] for i in two])
  seconds = []
  for i, reply in zip(two, replies, strict=True):
    first, second = questions[i].turns
    answered = text_lib.decode(target.tokenizer, reply)
    source = _chat(target, [first, answered, second])
    tokens = tuple(_encode(target, source, config))
    seconds.append(
      EncodedPrompt(tokens, second, questions[i].category, 1, question=i)
    )
  return firsts + seconds


def _chat(target: model_lib.Model, turns: Sequence[str]):
  """Messages where the tokenizer has a template, else plain text."""
  if getattr(target.tokenizer, 'chat_template', None):
    roles = ('user', 'assistant')
    return [
      {'role': roles[i % 2], 'content': turn} for i, turn in enumerate(turns)
    ]
  return '\n\n'.join(turns)


def _encode(target, source, config) -> list[int]:
  tokens = encoding.of_text(
    target,
    source,
    chat=config.chat,
    prefix=config.prefix,
    template=config.template(),
  )
  return tokens or [target.pad_id]


def fitting(
  prompts: Sequence[EncodedPrompt],
  target: model_lib.Model,
  config: Any,
  models: Sequence[model_lib.Model] = (),
) -> list[EncodedPrompt]:
  """Drops prompts for which the target or a drafter has too few positions.

  Args:
    prompts: prompts from `collect`.
    target: model that decodes them.
    config: config whose `max_new_tokens` must fit behind them.
    models: drafters, of which some have few source positions.

  Raises:
    ValueError: if none is left.
  """
  kept = [p for p in prompts if _fits(p, target, config)]
  if not kept:
    shortest = min(_given(p, target) for p in prompts)
    raise ValueError(
      'No prompt fits: the target was made for '
      f'{target.lm.max_positions} positions, and '
      f'{config.max_new_tokens} new tokens and the shortest prompt '
      f'({shortest}) need more; lower '
      '--config.max_new_tokens or set --config.max_prompt_tokens.'
    )
  limits = [
    families.facts(model.config).max_source_tokens
    for model in models
    if model.config is not None
  ]
  most = min((limit for limit in limits if limit is not None), default=None)
  if most is None:
    return kept
  kept = [p for p in kept if len(p.tokens) <= most]
  if not kept:
    raise ValueError(
      f'Every source is longer than the drafters were trained for ({most} '
      'tokens); give shorter ones or set --config.max_prompt_tokens.'
    )
  return kept


def _given(prompt: EncodedPrompt, target: model_lib.Model) -> int:
  """Decoder positions that a prompt takes."""
  return 1 if target.lm.is_encoder_decoder else len(prompt.tokens)


def _fits(prompt: EncodedPrompt, target, config) -> bool:
  """Whether prompt and answer fit the target's positions."""
  most = target.lm.max_positions
  needed = _given(prompt, target) + config.max_new_tokens
  return most is None or needed <= most
