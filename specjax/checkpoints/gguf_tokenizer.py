"""The tokenizer of a GGUF file as tokenizer.json, splitting as llama.cpp does.

Three kinds: `gpt2`, pieces of bytes that are merged by rank; `llama`, pieces of
text that are merged by score, with bytes for what no piece covers; and `t5`,
the likeliest pieces.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors

from specjax.checkpoints import gguf_pre
from specjax.checkpoints.gguf_metadata import Metadata

# tokenizer.json itself, written where no other field can express it.
WHOLE = 'tokenizer.huggingface.json'
# `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_SPECIAL = {'bos': 'bos', 'eos': 'eos', 'unknown': 'unk', 'padding': 'pad'}
# Ends of a turn, which some files name in their chat template alone.
_TURN_ENDS = (
  '<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> '
  '<EOT> <|eom_id|> </s> <end_of_utterance>'
).split()
_SPACE = '▁'
_NO_TOKENIZER = frozenset({'none', 'no_vocab'})


def kind_of(meta: Metadata) -> str:
  """`tokenizer.ggml.model`, or `WHOLE`; '' for a file without a tokenizer.

  Raises:
    ValueError: it is missing, or one that is not supported.
  """
  if meta.text(WHOLE, ''):
    return WHOLE
  kind = meta.text('tokenizer.ggml.model')
  if kind in _NO_TOKENIZER:
    return ''
  if kind not in _MAKERS:
    raise ValueError(
      f'tokenizer.ggml.model={kind!r} in {meta.path} is a kind of tokenizer '
      f'that is not supported; supported are {", ".join(_MAKERS)}.'
    )
  return kind


def make(meta: Metadata) -> tokenizers.Tokenizer | None:
  """The tokenizer of a file; None where it has none.

  Raises:
    ValueError: one sentence about what is missing or not supported.
  """
  kind = kind_of(meta)
  if not kind:
    return None
  if kind == WHOLE:
    return _parsed(meta)
  pieces = _pieces(meta)
  try:
    made, ends = _MAKERS[kind](meta, pieces)
    _add_tokens(made, meta, pieces)
  except ValueError:
    raise
  except Exception as error:  # The library raises nothing more precise.
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'the tokenizer of {meta.path} is damaged ({reason}): copy or convert '
      'the file again.'
    ) from None
  made.post_processor = _template(meta, made, *ends)
  return made


def _parsed(meta) -> tokenizers.Tokenizer:
  try:
    return tokenizers.Tokenizer.from_str(meta.text(WHOLE))
  except Exception as error:
    raise ValueError(
      f'{WHOLE} in {meta.path} is no tokenizer ({error}).'
    ) from None


def _pieces(meta) -> dict[int, tuple[str, int]]:
  """{id: (text, type)} without those that only pad the table."""
  texts = meta.texts('tokenizer.ggml.tokens')
  types = np.full(len(texts), NORMAL)
  if meta.has('tokenizer.ggml.token_type'):
    types = meta.numbers('tokenizer.ggml.token_type', len(texts))
  made, seen = {}, set()
  for number, (text, kind) in enumerate(zip(texts, types, strict=True)):
    # Converters fill the list up to the rows of the table: [PAD49155] or, in
    # older ones, [PAD3]. With them, ids would have a text that never was.
    if kind == UNUSED and text.startswith('[PAD') and text.endswith(']'):
      continue
    if text in seen:
      raise ValueError(
        f'tokenizer.ggml.tokens in {meta.path} has {text!r} twice.'
      )
    seen.add(text)
    made[number] = text, int(kind)
  return made


def _byte_level(meta, pieces) -> tuple:
  split = gguf_pre.named(meta.text('tokenizer.ggml.pre'), meta.path)
  vocab = {text: number for number, (text, _) in pieces.items()}
  merges = []
  for line in meta.texts('tokenizer.ggml.merges'):
    # A piece may begin with a space, of some files only.
    at = line.find(' ', 1)
    merges.append((line[:at], line[at + 1 :]))
  made = tokenizers.Tokenizer(
    models.BPE(vocab, merges, ignore_merges=split.whole_words)
  )
  made.pre_tokenizer = splitting(split)
  made.decoder = decoders.ByteLevel()
  return made, (split.adds_bos, False)


def splitting(
  split: gguf_pre.PreTokenizer,
) -> pre_tokenizers.PreTokenizer:
  """A pre-tokenizer in the words of the library, bytes as letters."""
  steps = [
    pre_tokenizers.Split(tokenizers.Regex(expression), 'isolated')
    for expression in split.expressions
  ]
  letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return pre_tokenizers.Sequence([*steps, letters])


def _by_score(meta, pieces) -> tuple:
  vocab = {text: number for number, (text, _) in pieces.items()}
  scores = meta.numbers(
    'tokenizer.ggml.scores', len(meta.texts('tokenizer.ggml.tokens'))
  )
  unknown = [text for text, kind in pieces.values() if kind == UNKNOWN]
  made = tokenizers.Tokenizer(
    models.BPE(
      vocab,
      merges_of_scores(vocab, scores),
      unk_token=unknown[0] if unknown else None,
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  spaced = meta.flag('tokenizer.ggml.add_space_prefix', True)
  first = [normalizers.Prepend(_SPACE)] if spaced else []
  made.normalizer = normalizers.Sequence(
    [*first, normalizers.Replace(' ', _SPACE)]
  )
  steps = [
    decoders.Replace(_SPACE, ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  steps += [decoders.Strip(' ', 1, 0)] if spaced else []
  made.decoder = decoders.Sequence(steps)
  return made, (True, False)


def merges_of_scores(
  vocab: Mapping[str, int], scores: Sequence[float]
) -> list[tuple[str, str]]:
  """The merges, best first, that lead to pieces with scores.

  Args:
    vocab: {piece: id}.
    scores: score of each id.
  """
  # Any two pieces whose join is a piece may be merged, the best join first.
  # In:  {'a': 0, 'b': 1, 'ab': 2, 'aba': 3} with scores [0 0 -1 -2]
  # Out: a b, ab a
  found = []
  for text, number in vocab.items():
    for at in range(1, len(text)):
      left, right = text[:at], text[at:]
      if left in vocab and right in vocab:
        order = (-float(scores[number]), number, vocab[left], vocab[right])
        found.append((order, left, right))
  return [(left, right) for _, left, right in sorted(found)]


def _likeliest(meta, pieces) -> tuple:
  count = len(meta.texts('tokenizer.ggml.tokens'))
  scores = meta.numbers('tokenizer.ggml.scores', count)
  last = max(pieces, default=-1) + 1
  # A hole in the numbering needs an entry: text that nobody writes.
  vocab = [
    (pieces[i][0] if i in pieces else f'\0{i}', float(scores[i]))
    for i in range(last)
  ]
  unknown = [i for i, (_, kind) in pieces.items() if kind == UNKNOWN]
  unknown = unknown or [meta.whole('tokenizer.ggml.unknown_token_id', 2)]
  made = tokenizers.Tokenizer(models.Unigram(vocab, unknown[0], False))
  steps = []
  if meta.has('tokenizer.ggml.precompiled_charsmap'):
    charsmap = meta.get('tokenizer.ggml.precompiled_charsmap')
    steps.append(normalizers.Precompiled(bytes(charsmap.astype(np.uint8))))
  if meta.flag('tokenizer.ggml.remove_extra_whitespaces', False):
    steps.append(normalizers.Replace(tokenizers.Regex(r'\A +| +\z'), ''))
    steps.append(normalizers.Replace(tokenizers.Regex(' +'), ' '))
  spaced = meta.flag('tokenizer.ggml.add_space_prefix', False)
  if spaced:
    # Before text only: spaces alone get none.
    first = tokenizers.Regex(r'\A(?= *[^ ])')
    steps.append(normalizers.Replace(first, _SPACE))
  steps.append(normalizers.Replace(' ', _SPACE))
  made.normalizer = normalizers.Sequence(steps)
  steps = [decoders.Replace(_SPACE, ' '), decoders.Fuse()]
  steps += [decoders.Strip(' ', 1, 0)] if spaced else []
  made.decoder = decoders.Sequence(steps)
  return made, (False, True)


_MAKERS = {'gpt2': _byte_level, 'llama': _by_score, 't5': _likeliest}


def _add_tokens(made, meta, pieces) -> None:
  """Marks the tokens that are found in text before it is split."""
  for kinds, special in (((CONTROL, UNKNOWN), True), ((USER_DEFINED,), False)):
    found = [text for text, kind in pieces.values() if kind in kinds]
    made.add_tokens(
      [
        tokenizers.AddedToken(text, special=special, normalized=False)
        for text in found
        if text
      ]
    )


def _template(meta, made, adds_bos, adds_eos) -> processors.PostProcessor:
  """The tokens before and after every text."""
  adds_bos = meta.flag('tokenizer.ggml.add_bos_token', adds_bos)
  adds_eos = meta.flag('tokenizer.ggml.add_eos_token', adds_eos)
  known = special_ids(meta)
  bos = known.get('bos') if adds_bos else None
  eos = known.get('eos') if adds_eos else None
  tokens = {made.id_to_token(i): i for i in (bos, eos) if i is not None}
  first = f'{made.id_to_token(bos)} ' if bos is not None else ''
  last = f' {made.id_to_token(eos)}' if eos is not None else ''
  return processors.TemplateProcessing(
    single=f'{first}$A{last}',
    pair=f'{first}$A{last} {first}$B:1{last}',
    special_tokens=list(tokens.items()),
  )


def special_ids(meta: Metadata) -> dict[str, int]:
  """{'bos': id, 'eos': id, 'unk': id, 'pad': id}, as far as they are stated.

  Raises:
    ValueError: an id is none of the tokens.
  """
  count, made = len(meta.texts('tokenizer.ggml.tokens')), {}
  for name, short in _SPECIAL.items():
    key = f'tokenizer.ggml.{name}_token_id'
    given = meta.whole(key, None)
    if given is None or given == 2**32 - 1:
      continue
    if not 0 <= given < count:
      raise ValueError(
        f'{key}={given} in {meta.path} is none of its {count} tokens.'
      )
    made[short] = given
  return made


def end_ids(meta: Metadata) -> list[int]:
  """Ids that end an answer: those stated, and ends of turns in the template."""
  texts = meta.texts('tokenizer.ggml.tokens')
  stated = [
    meta.whole(f'tokenizer.ggml.{name}_token_id', None)
    for name in ('eos', 'eot', 'eom')
  ]
  made = [i for i in stated if i is not None and 0 <= i < len(texts)]
  # Gemma's files state <eos> alone, while its answers end with <end_of_turn>.
  template = meta.text('tokenizer.chat_template', '')
  numbers = {text: number for number, text in enumerate(texts)}
  made += [
    numbers[text] for text in _TURN_ENDS if text in template and text in numbers
  ]
  return list(dict.fromkeys(made))


def settings(meta: Metadata) -> dict[str, Any]:
  """tokenizer_config.json of a file."""
  texts = meta.texts('tokenizer.ggml.tokens')
  made: dict[str, Any] = {
    # The plain class, so that tokenizer.json counts as it stands.
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'clean_up_tokenization_spaces': False,
    'model_max_length': meta.whole('context_length', 512),
  }
  for short, number in special_ids(meta).items():
    made[f'{short}_token'] = texts[number]
  template = meta.text('tokenizer.chat_template', '')
  others = {
    name: meta.text(f'tokenizer.chat_template.{name}')
    for name in meta.get('tokenizer.chat_templates', [])
    if meta.has(f'tokenizer.chat_template.{name}')
  }
  if template and others:
    made['chat_template'] = [
      {'name': name, 'template': text}
      for name, text in ({'default': template} | others).items()
    ]
  elif template:
    made['chat_template'] = template
  return made


def save(folder: str, meta: Metadata) -> None:
  """Writes tokenizer.json and tokenizer_config.json, if a file has a tokenizer.

  Raises:
    ValueError: as `make`.
  """
  made = make(meta)
  if made is None:
    return
  # Written here: the library's errors do not name what is wrong with the disk.
  stated = json.dumps(settings(meta), indent=2, sort_keys=True)
  for name, text in (
    ('tokenizer.json', made.to_str(pretty=True)),
    ('tokenizer_config.json', stated),
  ):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
      file.write(text)
