"""Tokenizers of folders that hold a SentencePiece model and no tokenizer.json.

transformers makes such a tokenizer anew from the pieces, in one of several
ways. The one that is taken splits texts as SentencePiece itself does.
"""

from collections.abc import Callable
import os
from typing import Any
import warnings

from specjax.checkpoints import hf

NAMES = ('spiece.model', 'tokenizer.model', 'sentencepiece.bpe.model')
_WHOLE = 'tokenizer.json'
# Spaces, line ends, scripts, digits and characters that no piece spells.
_PROBES = (
  'The cat, 3.14 times',
  ' leads and trails ',
  'two  spaces\tand\na line',
  'Ünïcode Straße ½ ﬁ',
  'привет мир',
  '吾輩は猫である',
  'हिन्दी العربية 한국어',
  '🙂👩‍🚀',
)


def find(folder: str) -> str | None:
  """Path of the SentencePiece model that alone decides; None where none does.

  Args:
    folder: folder of a model.
  """
  if os.path.isfile(os.path.join(folder, _WHOLE)):
    return None
  import sentencepiece  # Not needed by most models.

  for name in NAMES:
    path = os.path.join(folder, name)
    try:
      sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError):  # Not there, or of another kind.
      continue
    return path
  return None


def load(folder: str, path: str, ways: tuple[Callable[[str], Any], ...]) -> Any:
  """The tokenizer of a SentencePiece model.

  Args:
    folder: folder of the model, whose tokenizer_config.json is followed.
    path: result of `find`.
    ways: functions that make a tokenizer of the folder, the best one first.

  Returns:
    The first tokenizer that splits texts as SentencePiece does; else the first
    that can be made at all, with a warning.

  Raises:
    ValueError: none can be made.
  """
  import sentencepiece
  import transformers

  pieces = sentencepiece.SentencePieceProcessor(model_file=path)
  made, error = [], None
  for way in (*ways, lambda folder: _backend(folder, path, transformers)):
    try:
      tokenizer = way(folder)
    except Exception as failure:
      error = error or failure
      continue
    if not _differing(tokenizer, pieces):
      return _completed(tokenizer, folder, pieces)
    made.append(tokenizer)
  if not made:
    raise ValueError(str(error))
  text = _differing(made[0], pieces)
  warnings.warn(
    f'The tokenizer made of {path} splits {text!r} in another way than '
    'SentencePiece; a tokenizer.json beside it would decide.',
    stacklevel=3,
  )
  return _completed(made[0], folder, pieces)


def _backend(folder: str, path: str, transformers: Any) -> Any:
  """A tokenizer by the settings of the model alone."""
  backend = transformers.TokenizersBackend
  if os.path.basename(path) in backend.vocab_files_names.values():
    return backend.from_pretrained(folder, local_files_only=True)
  return backend(**backend.convert_to_native_format(vocab_file=path))


def _differing(tokenizer: Any, pieces: Any) -> str | None:
  """The first probe that a tokenizer splits in a way of its own."""
  for text in _PROBES:
    found = tokenizer(text, add_special_tokens=False, verbose=False)
    if list(found.input_ids) != pieces.encode(text):
      return text
  return None


def _completed(tokenizer: Any, folder: str, pieces: Any) -> Any:
  """The tokenizer with the special tokens that begin and end a text.

  Where nothing states them, a model with a first token begins texts with it, as
  Llama, and one without ends them with the last, as T5.
  """
  for name, id_ in (
    ('bos_token', pieces.bos_id()),
    ('eos_token', pieces.eos_id()),
    ('pad_token', pieces.pad_id()),
  ):
    if getattr(tokenizer, name) is None and id_ >= 0:
      setattr(tokenizer, name, pieces.id_to_piece(id_))
  stated = hf.read_json(folder, 'tokenizer_config.json') or {}
  if {'add_bos_token', 'add_eos_token'} & set(stated):
    return tokenizer
  if not tokenizer('', verbose=False).input_ids:
    begins = pieces.bos_id() >= 0
    tokenizer.add_bos_token = begins
    tokenizer.add_eos_token = not begins and pieces.eos_id() >= 0
  return tokenizer
