"""A folder's tokenizer in GGUF's metadata, ids compared."""

import base64
from collections.abc import Iterator, Mapping
import json
from typing import Any

import numpy as np

from specjax.checkpoints import gguf_pre
from specjax.checkpoints import gguf_tokenizer as reader
from specjax.checkpoints.gguf_metadata import Metadata

# Texts that two ways of splitting give different parts of.
PROBES = (
  '  two  spaces\tand a tab\n\n \n  and lines \r\n\r\n   7  ',
  "I don't, HE'S; they'VE rock'stars: 1 22 333 4444 55555 3.14 1,000,000",
  'camelCase HTTPServer iPhone15Pro snake_case x\u00a0y\u2003z\u200b',
  'Ünïcode é e\u0301 \ufb01 Straße, привет мир. 猫が好き、2024年5月。 한국어',
  'مرحبا، ١٢٣ नमस्ते दुनिया। สวัสดี ½ ² Ⅷ 🙂👩‍🚀 🇩🇪',
  'def f(x):\n    return x**2  # 0xFF\n\n\t`a` == ~b | {c: [$1]} ``` \n',
  'a/b\n//c !=\r\n ...!?…  \n\n\n99',
)


def fields(tokenizer: Any, rows: int) -> tuple[dict[str, Any], str]:
  """(metadata, a note or '') of a tokenizer.

  Args:
    tokenizer: tokenizer of transformers, or None.
    rows: rows of the embedding table.

  Raises:
    ValueError: GGUF has no place for this tokenizer.
  """
  if tokenizer is None:
    return {'tokenizer.ggml.model': 'none'}, ''
  backend = getattr(tokenizer, 'backend_tokenizer', None)
  name = type(tokenizer).__name__
  if backend is None:
    raise ValueError(
      f'the tokenizer ({name}) has no tokenizer.json, which GGUF is made from.'
    )
  spec = json.loads(backend.to_str())
  kind = spec['model']['type']
  if spec['model'].get('byte_fallback') and kind == 'BPE':
    kind = 'scored'
  if kind not in _KINDS:
    raise ValueError(
      f'a tokenizer of the kind {kind} cannot be written as GGUF; BPE and '
      'Unigram can.'
    )
  shared = _shared(tokenizer, spec, rows)
  for made in _KINDS[kind](backend, spec, shared):
    if _gives(made, tokenizer):
      return made, ''
  # The first of its kind, and the whole beside it.
  made = next(_KINDS[kind](backend, spec, shared), None)
  if made is None:
    made = shared | {'tokenizer.ggml.model': 'none'}
  note = (
    'This tokenizer splits some texts otherwise than GGUF can state; it is '
    f'kept whole in {reader.WHOLE}, which llama.cpp does not read.'
  )
  return made | {reader.WHOLE: backend.to_str()}, note


def _shared(tokenizer, spec, rows) -> dict[str, Any]:
  """Tokens, types and special ids."""
  numbers = tokenizer.get_vocab()
  texts = {number: text for text, number in numbers.items()}
  if texts and max(texts) >= rows:
    raise ValueError(
      f'the tokenizer has ids up to {max(texts)}, but the model only {rows}.'
    )
  added = {one['id']: one for one in spec['added_tokens']}
  made: dict[str, Any] = {
    'tokenizer.ggml.tokens': [texts.get(i, f'[PAD{i}]') for i in range(rows)],
    'tokenizer.ggml.token_type': [
      _type(i, texts, added, spec, tokenizer.unk_token_id) for i in range(rows)
    ],
  }
  for short, word in (('unk', 'unknown'), ('pad', 'padding'), ('bos', 'bos')):
    number = getattr(tokenizer, f'{short}_token_id')
    if number is not None and number < rows:
      made[f'tokenizer.ggml.{word}_token_id'] = number
  ids = tokenizer('a', verbose=False).input_ids
  bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
  made['tokenizer.ggml.add_bos_token'] = bos is not None and ids[:1] == [bos]
  made['tokenizer.ggml.add_eos_token'] = eos is not None and ids[-1:] == [eos]
  if eos is not None:
    made['tokenizer.ggml.eos_token_id'] = eos
  return made | _templates(tokenizer.chat_template)


def _templates(given) -> dict[str, Any]:
  if not given:
    return {}
  if isinstance(given, str):
    return {'tokenizer.chat_template': given}
  others = {name: text for name, text in given.items() if name != 'default'}
  made: dict[str, Any] = {'tokenizer.chat_templates': list(others)}
  made |= {f'tokenizer.chat_template.{n}': text for n, text in others.items()}
  if 'default' in given:
    made['tokenizer.chat_template'] = given['default']
  return made


def _type(number, texts, added, spec, unknown) -> int:
  if number not in texts:
    return reader.UNUSED
  text = texts[number]
  if number == unknown and spec['model']['type'] == 'Unigram':
    return reader.UNKNOWN
  if number in added:
    special = added[number]['special']
    if special and number == unknown and spec['model'].get('byte_fallback'):
      return reader.UNKNOWN
    return reader.CONTROL if special else reader.USER_DEFINED
  is_byte = len(text) == 6 and text.startswith('<0x') and text.endswith('>')
  if is_byte and spec['model'].get('byte_fallback'):
    return reader.BYTE
  return reader.NORMAL


def _merges(spec) -> list[list[str]]:
  merges = spec['model']['merges']
  return [m if isinstance(m, list) else m.split(' ', 1) for m in merges]


def _byte_level(backend, spec, shared) -> Iterator[dict]:
  merges = [' '.join(pair) for pair in _merges(spec)]
  wanted = _parts(backend.pre_tokenizer)
  whole = bool(spec['model'].get('ignore_merges'))
  for split, name in gguf_pre.splits().items():
    if split.whole_words == whole and _parts(reader.splitting(split)) == wanted:
      yield shared | {
        'tokenizer.ggml.model': 'gpt2',
        'tokenizer.ggml.pre': name,
        'tokenizer.ggml.merges': merges,
      }


def _parts(splitter) -> list:
  """The parts of the probes; none where nothing splits."""
  if splitter is None:
    return []
  return [[x for x, _ in splitter.pre_tokenize_str(text)] for text in PROBES]


def _by_score(backend, spec, shared) -> Iterator[dict]:
  rank: dict[str, int] = {}
  for order, (left, right) in enumerate(_merges(spec)):
    rank.setdefault(left + right, order)
  tokens = shared['tokenizer.ggml.tokens']
  made = shared | {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.pre': 'default',
    'tokenizer.ggml.scores': [-float(rank.get(text, 0)) for text in tokens],
  }
  for spaced in (True, False):
    yield made | {'tokenizer.ggml.add_space_prefix': spaced}


def _likeliest(backend, spec, shared) -> Iterator[dict]:
  tokens, scores = shared['tokenizer.ggml.tokens'], spec['model']['vocab']
  known = dict(scores)
  made = shared | {
    'tokenizer.ggml.model': 't5',
    'tokenizer.ggml.pre': 'default',
    'tokenizer.ggml.scores': [float(known.get(text, -1e4)) for text in tokens],
  }
  charsmap = _charsmap(spec.get('normalizer'))
  if charsmap:
    made['tokenizer.ggml.precompiled_charsmap'] = base64.b64decode(charsmap)
  for merged in (True, False):
    for spaced in (True, False):
      yield made | {
        'tokenizer.ggml.remove_extra_whitespaces': merged,
        'tokenizer.ggml.add_space_prefix': spaced,
      }


_KINDS = {'BPE': _byte_level, 'scored': _by_score, 'Unigram': _likeliest}


def _charsmap(spec) -> str:
  """The table of a normalizer, which may be one of several in a row."""
  if not isinstance(spec, Mapping):
    return ''
  if spec.get('precompiled_charsmap'):
    return spec['precompiled_charsmap']
  return next(filter(None, map(_charsmap, spec.get('normalizers', ()))), '')


def _gives(made, tokenizer) -> bool:
  """Whether a reader of the metadata has the ids of a tokenizer."""
  read = reader.make(Metadata('the file', '', plain(made), {}))
  special = [one for one in (tokenizer.eos_token, tokenizer.bos_token) if one]
  texts = (*PROBES, ''.join(f'{one} x 1{one}\n' for one in special), ' ')
  return all(
    read.encode(text).ids == list(tokenizer(text, verbose=False).input_ids)
    for text in texts
  )


def plain(made: Mapping[str, Any]) -> dict[str, Any]:
  """Metadata to write, as a reader has it."""

  def read(value):
    if isinstance(value, bytes):
      return np.frombuffer(value, np.uint8)
    if isinstance(value, list) and value and not isinstance(value[0], str):
      return np.asarray(value)
    return value

  return {key: read(value) for key, value in made.items()}
