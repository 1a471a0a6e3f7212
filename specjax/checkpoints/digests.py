"""Digests by which a file of labels knows who wrote it."""

from collections.abc import Iterator
import hashlib
import json
import os
from typing import Any

from specjax import text as text_lib
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading

# Texts that two tokenizers of one vocabulary may split in two ways: spaces,
# line ends, digits, accents and other scripts.
_PROBES = (
  ' two  spaces\tand a tab\n\nand lines ',
  "I don't 1234567890 3.14 €5 100%",
  'Ünïcode é e\u0301 \ufb01 Straße 猫が好き привет 🙂👩‍🚀',
  'def f(x):\n    return x**2  # 0xFF',
)
# Who decides tokens, as digests name them, and in words.
OWNERS = {
  'target': 'target',
  'tokenizer': 'tokenizer',
  'chat_template': 'chat template',
  'drafter': 'drafter',
}
_SETTINGS = ('config.json', 'generation_config.json')


def of_owners(target: str, tokenizer: Any) -> dict[str, str]:
  """Digests of a target, its tokenizer and its chat template, by these names.

  Args:
    target: argument of `of_target`.
    tokenizer: its tokenizer, or None.
  """
  return {
    'target': of_target(target),
    'tokenizer': of_tokenizer(tokenizer) if tokenizer else '',
    'chat_template': of_template(tokenizer),
  }


def of_tokenizer(tokenizer: Any) -> str:
  """Hexadecimal digest of which id means what, and of how texts are split."""
  rows = [text_lib.fingerprint(tokenizer)]
  rows += [list(tokenizer(text, verbose=False).input_ids) for text in _PROBES]
  return _digest(rows)


def of_template(tokenizer: Any) -> str:
  """Hexadecimal digest of the chat template, '' where there is none."""
  template = getattr(tokenizer, 'chat_template', None)
  return _digest(template) if template else ''


def of_target(name: str) -> str:
  """Hexadecimal digest of a target's weights and settings.

  Args:
    name: folder, GGUF file or hub id, all of whose weights are read; of
      anything else, such as `shape:NAME`, the name is what counts.
  """
  if not loading.is_model(name):
    return _digest(name)
  folder = loading.folder_of(name)
  found = []
  for path in sorted(_files(folder)):
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    found.append((os.path.relpath(path, folder), digest))
  return _digest(found)


def _files(folder: str) -> set[str]:
  """Paths of the files that decide a model's tokens."""
  settings = {
    path
    for path in (os.path.join(folder, name) for name in _SETTINGS)
    if os.path.isfile(path)
  }
  try:
    return settings | set(hf.weight_files(folder).values())
  except FileNotFoundError:  # Orbax and T5X: arrays in folders.
    return settings | set(_below(folder))


def _below(folder: str) -> Iterator[str]:
  for where, _, names in os.walk(folder):
    if where != folder:
      yield from (os.path.join(where, name) for name in names)


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()
