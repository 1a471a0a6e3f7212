"""Files in the format of OpenAI's batches: requests in, responses out.

A line of the input has `custom_id`, `method`, `url` and `body`, a line of the
output `id`, `custom_id`, `response` and `error`. A request that cannot be
honoured as it is written gets a response of status 400 that names the reason;
the others are decoded. What a body leaves open comes from the run's settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import time
from typing import Any

from specjax import files
from specjax import prompts as prompts_lib
from specjax.commands import answer_files
from specjax.inference import line_settings
from specjax.inference.generate import Answer
from specjax.inference.logprobs import Logprob

CHAT, TEXT = '/v1/chat/completions', '/v1/completions'

# Fields of a body and the settings that they are here. Of two fields for one
# setting the later one here is the newer and counts.
_SETTINGS = {
  'max_tokens': 'max_new_tokens',
  'max_completion_tokens': 'max_new_tokens',
  'min_tokens': 'min_new_tokens',
  **{
    name: name
    for name in (
      'temperature',
      'top_p',
      'top_k',
      'min_p',
      'seed',
      'stop',
      'stop_token_ids',
      'presence_penalty',
      'frequency_penalty',
      'repetition_penalty',
      'logit_bias',
      'chat_template_kwargs',
      'continue_final_message',
    )
  },
}
# Fields that change no text.
_IDLE = frozenset(
  {
    'metadata',
    'model',
    'parallel_tool_calls',
    'prompt_cache_key',
    'safety_identifier',
    'service_tier',
    'store',
    'stream_options',
    'user',
  }
)
# Other fields, and their values that ask for nothing special.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
  'add_generation_prompt': (True,),
  'best_of': (1,),
  'echo': (False,),
  'modalities': (['text'],),
  'response_format': ({'type': 'text'},),
  'stream': (False,),
  'suffix': ('',),
  'tool_choice': ('none',),
  'tools': ([],),
}


def parser(
  num_answers: int, logprobs: int | None
) -> Callable[[str, str], prompts_lib.Line]:
  """A function that reads a line of a batch; see `prompts.parse`.

  Args:
    num_answers: answers to each prompt, which `n` must equal.
    logprobs: number of likeliest tokens that answers name, or None.
  """

  def parse(text: str, where: str) -> prompts_lib.Line:
    try:
      row = files.parse_json(text)
    except ValueError as error:
      raise ValueError(f'{where} is not JSON: {error}.') from None
    name = row.get('custom_id') if isinstance(row, dict) else None
    if not isinstance(name, str):
      raise ValueError(
        f'{where} has no string "custom_id", as a line of an OpenAI batch has.'
      )
    try:
      source, settings = _request(row, where, num_answers, logprobs)
      line = prompts_lib.Line(source, name, settings, where)
      line_settings.own(line)
    except ValueError as error:
      reason = str(error).removeprefix(f'{where}: ')
      return prompts_lib.Line('', name, where=where, error=reason)
    return line

  return parse


def _request(
  row: Mapping[str, Any], where: str, num_answers: int, logprobs: int | None
) -> tuple[prompts_lib.Source, dict[str, Any]]:
  """(prompt, settings) of a line.

  Raises:
    ValueError: it asks for what is not done here.
  """
  if row.get('method') != 'POST':
    raise ValueError(f'method must be POST, not {row.get("method")!r}.')
  url, body = row.get('url'), row.get('body')
  if url not in (CHAT, TEXT):
    raise ValueError(f'url must be {CHAT} or {TEXT}, not {url!r}.')
  if not isinstance(body, dict):
    raise ValueError(f'body must be an object, not {body!r}.')
  kind = 'messages' if url == CHAT else 'prompt'
  if kind not in body:
    raise ValueError(f'body has no {kind!r}, which {url} needs.')
  prompt = body[kind]
  # A list of one text is one text.
  if kind == 'prompt' and isinstance(prompt, list) and len(prompt) == 1:
    prompt = prompt[0] if isinstance(prompt[0], (str, list)) else prompt
  for key, value in body.items():
    if value is None or key == kind or key in _IDLE or key in _SETTINGS:
      continue
    if key == 'n':
      _check_number(value, num_answers)
    elif key in ('logprobs', 'top_logprobs'):
      _check_logprobs(key, value, logprobs)
    elif key not in _NEUTRAL or value not in _NEUTRAL[key]:
      raise ValueError(f'{key}={json.dumps(value)[:80]} is not done here.')
  given = [key for key in _SETTINGS if body.get(key) is not None]
  settings = {_SETTINGS[key]: body[key] for key in given}
  return prompts_lib.of({kind: prompt}, where).source, settings


def _check_number(value: Any, num_answers: int) -> None:
  if value != num_answers:
    raise ValueError(
      f'n={value!r} asks for another number of answers than this run gives; '
      f'decode it with num_return_sequences={value!r}.'
    )


def _check_logprobs(key: str, value: Any, logprobs: int | None) -> None:
  """Refuses log probabilities of more tokens than the run names."""
  if value is False or (key == 'top_logprobs' and value == 0):
    return
  wanted = 0 if value is True else value
  if logprobs is None or not isinstance(wanted, int) or wanted > logprobs:
    raise ValueError(
      f'{key}={value!r} asks for more than this run computes; decode it with '
      f'logprobs={wanted!r}.'
    )


class ResponseWriter:
  """Writes one line for each request, when all of its answers are there."""

  def __init__(
    self, lines: Sequence[prompts_lib.Line], num_answers: int, model: str
  ):
    """Makes a writer.

    Args:
      lines: all requests.
      num_answers: answers to each.
      model: name of the model.
    """
    self._lines = lines
    self._num_answers = num_answers
    self._model = model
    self._place = 0
    self._waiting: list[Answer] = []

  @contextlib.contextmanager
  def opened(
    self, path: str, keep_bytes: int, begin: int
  ) -> Iterator[answer_files.Write]:
    """Opens the output.

    Args:
      path: path of a file, or '-' for standard output.
      keep_bytes: bytes that are kept of an existing file.
      begin: number of requests whose lines these are.

    Yields:
      A function that takes answers in the order of the requests.
    """
    self._place = begin
    with answer_files.lines_writer(path, keep_bytes) as write:
      yield lambda answers: write(self.text(answers))

  def text(self, answers: Sequence[Answer]) -> str:
    """The lines of requests that have all of their answers now."""
    # Two answers a request and batches of three: the third answer waits for
    # the first of the next batch.
    made, size = '', self._num_answers
    self._waiting += answers
    while len(self._waiting) >= size:
      own, self._waiting = self._waiting[:size], self._waiting[size:]
      found = record(self._lines[self._place], own, self._model)
      self._place += 1
      made += json.dumps(found, ensure_ascii=False) + '\n'
    return made


def record(
  line: prompts_lib.Line, answers: Sequence[Answer], model: str
) -> dict[str, Any]:
  """One line of the output.

  Args:
    line: the request.
    answers: all answers to it.
    model: name of the model.
  """
  made = hashlib.sha256(json.dumps([line.where, line.id]).encode()).hexdigest()
  name, error, status = made[:24], None, 200
  # A line may be wrong by itself, or for this target.
  reason = line.error or next((one.error for one in answers if one.error), '')
  if reason:
    error, status = {'code': 'invalid_request', 'message': reason}, 400
    kind = {'type': 'invalid_request_error', 'param': None, 'code': None}
    body: dict[str, Any] = {'error': {'message': reason, **kind}}
  else:
    body = _body(answers, name, model, line.is_chat)
  return {
    'id': f'batch_req_{name}',
    'custom_id': line.id,
    'response': {
      'status_code': status,
      'request_id': f'req_{name}',
      'body': body,
    },
    'error': error,
  }


def _body(
  answers: Sequence[Answer], name: str, model: str, is_chat: bool
) -> dict[str, Any]:
  given = answers[0].num_prompt_tokens
  made = sum(len(answer.tokens) for answer in answers)
  return {
    'id': f'{"chatcmpl" if is_chat else "cmpl"}-{name}',
    'object': 'chat.completion' if is_chat else 'text_completion',
    'created': int(time.time()),
    'model': model,
    'choices': [_choice(answer, is_chat) for answer in answers],
    'usage': {
      'prompt_tokens': given,
      'completion_tokens': made,
      'total_tokens': given + made,
    },
  }


def _choice(answer: Answer, is_chat: bool) -> dict[str, Any]:
  reason = 'length' if answer.finish_reason == 'length' else 'stop'
  text: dict[str, Any] = {'text': answer.text}
  if is_chat:
    text = {'message': {'role': 'assistant', 'content': answer.text}}
  logprobs = None
  if answer.logprobs is not None:
    logprobs = (_of_chat if is_chat else _of_text)(answer.logprobs)
  return {
    'index': answer.sequence,
    **text,
    'logprobs': logprobs,
    'finish_reason': reason,
  }


def _of_chat(found: Sequence[Logprob]) -> dict[str, Any]:
  """Log probabilities as a response to a chat has them."""

  def entry(one):
    return {
      'token': one.text,
      'logprob': one.logprob,
      'bytes': list(one.text.encode()),
    }

  return {
    'content': [
      {**entry(one), 'top_logprobs': list(map(entry, one.top))} for one in found
    ]
  }


def _of_text(found: Sequence[Logprob]) -> dict[str, Any]:
  """Log probabilities as a response to a text has them."""
  offsets, at = [], 0
  for one in found:
    offsets.append(at)
    at += len(one.text)
  return {
    'tokens': [one.text for one in found],
    'token_logprobs': [one.logprob for one in found],
    'top_logprobs': [
      {other.text: other.logprob for other in one.top} for one in found
    ],
    'text_offset': offsets,
  }
