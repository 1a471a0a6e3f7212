"""Prompts of every kind to token rows, checked."""

import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import copy
import functools
import operator
from typing import Any

import jax
import numpy as np

from specjax import base
from specjax import chat_template
from specjax import prompts as prompts_lib
from specjax import text as text_lib
from specjax.inference import line_settings

_WHOLE = (int, np.integer)


Prompts = (
  str | Mapping[str, Any] | Sequence[Any] | np.ndarray | jax.Array | base.Prompt
)


def listed(prompts: Prompts) -> Sequence[prompts_lib.Line]:
  """Prompts of every kind as lines.

  Args:
    prompts: argument of `generate`; a sequence of lines is returned as it is,
      so that it may read a file as it goes.

  Raises:
    ValueError: there is none, or one is of no kind that is read.
  """
  # 'a b'               one prompt, of text
  # [5, 6]              one prompt, of ids
  # ['a b', [5, 6]]     two prompts
  # array [[5 6] [7 8]] two prompts of ids
  prompts = _sequence(prompts)
  if isinstance(prompts, str) or prompts_lib.is_prompt(prompts):
    prompts = [prompts]
  elif isinstance(prompts, base.Prompt):
    # tokens [[5 6 0] [7 0 0]], length [2 1]: [5 6] and [7]
    lengths = np.asarray(prompts.length)
    prompts = [
      row[:n]
      for row, n in zip(np.asarray(prompts.tokens), lengths, strict=True)
    ]
  elif isinstance(prompts, (np.ndarray, jax.Array)):
    prompts = list(np.atleast_2d(np.asarray(prompts)))
  # 0.5 stands for the first of an empty list, which is no row of ids.
  elif _is_chat(prompts) or isinstance(next(iter(prompts), 0.5), _WHOLE):
    prompts = [prompts]
  if not len(prompts):
    raise ValueError('There is no prompt; give at least one.')
  if isinstance(prompts[0], prompts_lib.Line):
    return prompts
  return [line_of(one, f'Prompt {n}') for n, one in enumerate(prompts, 1)]


def line_of(prompt: Any, where: str) -> prompts_lib.Line:
  """A prompt of any kind as a line.

  Args:
    prompt: text, messages, token ids, or a mapping as of a JSON line.
    where: name of the prompt, for errors.

  Raises:
    ValueError: it is of no kind that is read.
  """
  if isinstance(prompt, str):
    return prompts_lib.Line(prompt, where=where)
  if isinstance(prompt, Mapping):
    return prompts_lib.of(prompt, where)
  if _is_chat(prompt):
    return prompts_lib.Line(prompts_lib.messages(prompt, where), where=where)
  tokens = np.asarray(prompt)
  if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in 'iu'):
    raise ValueError(
      f'{where} is neither text, nor messages, nor a row of token ids (it has '
      f'shape {tokens.shape} and type {tokens.dtype}).'
    )
  return prompts_lib.Line(tuple(tokens.tolist()), where=where)


class Encoded(Sequence[tuple[str, list[int]]]):
  """(text to show, ids) of every prompt, made anew whenever one is read.

  Attributes:
    lines: the prompts.
    lengths: int array, tokens of each prompt; all that is kept of them.
    lost: int array, tokens that were cut off each.
  """

  def __init__(
    self, model: Any, lines: Sequence[prompts_lib.Line], config: Any
  ):
    self.lines = lines
    self._read = functools.partial(encode_line, model, config=config)
    self._cut: Cut | None = None
    lengths = (len(self._read(line=line)[1]) for line in lines)
    self.lengths = array.array('i', lengths)
    self.lost = array.array('i', bytes(4 * len(self.lengths)))

  def shortened(self, lengths: Sequence[int], cut: 'Cut') -> 'Encoded':
    """The same prompts with at most so many ids, chosen by (ids, number)."""
    made = copy.copy(self)
    made._cut = cut
    made.lengths = array.array('i', map(min, self.lengths, lengths))
    made.lost = array.array('i', map(operator.sub, self.lengths, made.lengths))
    return made

  @property
  def first(self) -> int:
    """Place of the first prompt in an input of which these may be a part."""
    return getattr(self.lines, 'first', 0)

  @property
  def ids(self) -> '_Ids':
    """The ids of every prompt, which may be read more than once."""
    return _Ids(self)

  def __len__(self) -> int:
    return len(self.lines)

  def __getitem__(self, index: int) -> tuple[str, list[int]]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    shown, tokens = self._read(line=self.lines[index])
    if self.lost[index]:
      tokens = self._cut(tokens, self.lengths[index])
    return shown, tokens


Cut = Callable[[list[int], int], list[int]]


class _Ids:
  """The ids of every prompt."""

  def __init__(self, encoded: Encoded):
    self._encoded = encoded

  def __iter__(self) -> Iterator[list[int]]:
    return (tokens for _, tokens in self._encoded)


def encode(model: Any, prompts: Prompts, config: Any) -> Encoded:
  """Checks every prompt; the result reads them again where they are needed."""
  return Encoded(model, listed(prompts), config)


def encode_line(
  model: Any, line: prompts_lib.Line, config: Any
) -> tuple[str, list[int]]:
  """(text to show, ids) of one prompt.

  Args:
    model: the target.
    line: the prompt.
    config: `PromptSettings` of the job.

  Returns:
    No ids at all stand for an empty prompt where no answer can begin, and for
    a line with an error.

  Raises:
    ValueError: the target cannot read it.
  """
  source = line.source
  if line.error:
    return '', []
  if model.tokenizer is None and line.is_text:
    if config.chat or config.prefix:
      raise ValueError(
        'The target has no tokenizer, so prompts are token ids; leave chat and '
        'prefix out.'
      )
    source = text_lib.spelled_ids(source, line.where)
  if isinstance(source, tuple):
    check_ids(model.lm, line.where, source)
    # Text of ids is shown as it was given, by which a resumed run knows it.
    shown = prompts_lib.shown(line.source)
    shown = shown or text_lib.decode(model.tokenizer, source)
    return shown, list(source) or _beginning(model)
  if model.tokenizer is None:
    raise ValueError(
      'The target has no tokenizer, so prompts must be token ids.'
    )
  template = line_settings.template_of(line, config.template())
  try:
    tokens = of_text(
      model, source, chat=config.chat, prefix=config.prefix, template=template
    )
  except ValueError as error:
    raise ValueError(f'{line.where}: {error}') from None
  check_ids(model.lm, line.where, tokens)
  return prompts_lib.shown(source), tokens or _beginning(model)


def rough(
  tokenizer: Any, line: prompts_lib.Line, config: Any
) -> Sequence[int | str]:
  """About as many tokens as a prompt has, without its model.

  Args:
    tokenizer: tokenizer of the target, or None.
    line: the prompt.
    config: `PromptSettings` of the job.

  Raises:
    ValueError: the chat template refuses it.
  """
  if isinstance(line.source, tuple):
    return line.source
  if tokenizer is None:
    return str(line.source).split()
  template = line_settings.template_of(line, config.template())
  try:
    return text_lib.encode(
      tokenizer,
      line.source,
      chat=config.chat,
      prefix=config.prefix,
      template=template,
    )
  except ValueError as error:
    raise ValueError(f'{line.where}: {error}') from None


def _beginning(model: Any) -> list[int]:
  """The ids that stand for an empty prompt, as transformers has them.

  A source of an encoder, or a text of a model without a token to begin with, is
  what the tokenizer makes of an empty string. None at all: no answer begins.
  """
  if model.bos_id is not None and not model.lm.is_encoder_decoder:
    return [model.bos_id]
  tokenizer = model.tokenizer
  return [] if tokenizer is None else text_lib.encode(tokenizer, '')


def of_text(
  model: Any,
  prompt: str | prompts_lib.Messages,
  *,
  chat: bool = False,
  prefix: str = '',
  template: chat_template.Template = chat_template.PLAIN,
) -> list[int]:
  """Ids of a text or a chat, as a target reads it.

  Behind a prompt of a decoder-only target there is no end token, also where its
  tokenizer appends one to every text: the target would begin another text.

  Args:
    model: the target; has a tokenizer.
    prompt: argument of `text.encode`, as are the others.
    chat: whether text is wrapped in the chat template.
    prefix: text in front of it.
    template: way in which a chat is put into the template.
  """
  tokenizer = model.tokenizer
  tokens = text_lib.encode(
    tokenizer, prompt, chat=chat, prefix=prefix, template=template
  )
  # A chat template sets the special tokens itself.
  is_templated = chat or not isinstance(prompt, str)
  eos_id = getattr(tokenizer, 'eos_token_id', None)
  if model.lm.is_encoder_decoder or is_templated or tokens[-1:] != [eos_id]:
    return tokens
  # One that the user typed stays: text [5 6 1], ids [5 6 1 1].
  typed = tokenizer(
    prefix + prompt, add_special_tokens=False, verbose=False
  ).input_ids
  appended = not typed or tokens[:-1][-len(typed) :] == list(typed)
  return tokens[:-1] if appended else tokens


def _sequence(prompts: Prompts) -> Prompts:
  """A list in place of an iterator, which can be read only once."""
  kinds = (str, Sequence, np.ndarray, jax.Array, base.Prompt)
  # bytes are a sequence of numbers, and would pass as a row of ids.
  if isinstance(prompts, kinds) and not isinstance(prompts, bytes):
    return prompts
  if prompts_lib.is_prompt(prompts):
    return prompts
  if isinstance(prompts, (bytes, Mapping)) or not isinstance(prompts, Iterable):
    raise ValueError(
      'Prompts must be text, a list or generator of texts, messages or token '
      f'ids, or an array of token ids, not {type(prompts).__name__}.'
    )
  return list(prompts)


def _is_chat(prompt: Any) -> bool:
  return (
    isinstance(prompt, (list, tuple))
    and len(prompt) > 0
    and isinstance(prompt[0], dict)
    and 'role' in prompt[0]
  )


def check_ids(lm: base.CachedLM, where: str, tokens: Sequence[int]) -> None:
  """Refuses an id that the target does not know.

  Args:
    lm: the target.
    where: name of the tokens, for errors.
    tokens: ids.

  Raises:
    ValueError: names the id.
  """
  # On a device an id out of range raises nothing: by the kind of gather it
  # reads another token's row, or NaN.
  for token in (min(tokens, default=0), max(tokens, default=0)):
    if not 0 <= token < lm.vocab_size:
      raise ValueError(
        f'{where} holds the token id {token}, but the target knows '
        f'ids from 0 to {lm.vocab_size - 1}.'
      )
