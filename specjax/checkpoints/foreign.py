"""Published drafters in formats of other projects, named for what they are.

Their config.json looks like that of a language model or of nothing, and would
otherwise be answered with a sentence about a missing setting or tensor.

References:
  Li et al. EAGLE-3. 2025. https://arxiv.org/abs/2503.01840
  https://github.com/FasterDecoding/Medusa, https://github.com/SafeAILab/EAGLE,
  https://github.com/vllm-project/speculators
"""

from collections.abc import Iterator, Mapping
import contextlib
import os
from typing import Any
import zipfile

from specjax import files
from specjax.checkpoints import safetensors
from specjax.models import registry

# Words of a setting's name, a model_type or an architecture -> the format.
_FORMATS = (
  ('medusa', 'Medusa'),
  ('hydra_', 'Hydra'),
  ('mlp_speculator', 'MLP speculators'),
  ('mlpspeculator', 'MLP speculators'),
  ('eagle3', 'EAGLE-3'),
  ('draft_vocab_size', 'EAGLE-3'),
  ('eagle', 'EAGLE'),
)
# Heads beside a target's own folder are in files of these names.
_HEADS = {
  'medusa_lm_head.pt': 'Medusa',
  'medusa_lm_head.safetensors': 'Medusa',
  'hydra_lm_head.pt': 'Hydra',
}
# Tensors that no language model has: the matrix that joins embeddings with
# states, and the tables between two vocabularies.
_TENSORS = {'d2t': 'EAGLE-3', 't2d': 'EAGLE-3', 'fc.weight': 'EAGLE'}
# Bytes at the beginning of an old file of PyTorch that are searched for names.
_LISTED = 1 << 20
# Local copies of hub repositories are in folders of such names.
_HUB = 'models--'


def refuse(folder: str, config: Mapping[str, Any] | None) -> None:
  """Raises ValueError for a folder in another project's format.

  Args:
    folder: folder of the model.
    config: its parsed config.json, or None if there is none.

  Raises:
    ValueError: one sentence that names the format.
  """
  kind = (config or {}).get('model_type')
  for family in registry.families():
    if kind in list(family.files.model_types) and not family.is_target:
      return
  found = next(_signs(folder, config or {}), None)
  if found is not None:
    form, sign = found
    raise ValueError(
      f'{folder} is a drafter in the format of {form} ({sign}), which specjax '
      'does not read yet; train one for your target with specjax-train, or '
      'take another drafter.'
    )


def _signs(folder, config) -> Iterator[tuple[str, str]]:
  """(format, what shows it), the surest first."""
  for name, value in config.items():
    if name.startswith('speculators_'):
      yield 'speculators', f'{name}={value!r} in config.json'
  for name, form in _HEADS.items():
    if os.path.isfile(os.path.join(folder, name)):
      yield form, f'the file {name}'
  words = [(name, f'{name} in config.json') for name in config]
  for name in ('model_type', 'architectures'):
    given = config.get(name)
    given = given if isinstance(given, list) else [given]
    words += [(x, f'{name} {x!r}') for x in given if isinstance(x, str)]
  for part, form in _FORMATS:
    for word, sign in words:
      if part in word.lower():
        yield form, sign
  names = _tensors(folder)
  for name, form in _TENSORS.items():
    if name in names:
      yield form, f'the tensor {name}'
  # Of a hub id PyTorch's files are not fetched, so its name has to do.
  name = _name(folder)
  # EAGLE-3-Llama: eagle3llama
  joined = name.lower().replace('-', '')
  for part, form in _FORMATS:
    if part in joined and not _has_weights(folder):
      yield form, f'by the name {name}, and without safetensors'


def _name(folder: str) -> str:
  """Name of a folder, or the hub id whose local copy it is."""
  # .../models--org--name/snapshots/0123abc: org/name
  *_, repository, kind, own = ('', '', *os.path.abspath(folder).split(os.sep))
  if kind == 'snapshots' and repository.startswith(_HUB):
    return repository.removeprefix(_HUB).replace('--', '/')
  return own


def _has_weights(folder: str) -> bool:
  """Whether a folder has weights of a kind that is read, or may have."""
  return any(
    name.endswith(('.safetensors', '.safetensors.index.json'))
    or os.path.isdir(os.path.join(folder, name))
    for name in os.listdir(folder)
  )


def _tensors(folder: str) -> set[str]:
  """Names of tensors; none where a file is missing or broken."""
  found: set[str] = set()
  with contextlib.suppress(OSError, ValueError):
    path = os.path.join(folder, 'model.safetensors')
    found |= set(safetensors.read_header(path))
  for index in ('model.safetensors.index.json', 'pytorch_model.bin.index.json'):
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
      with open(os.path.join(folder, index), encoding='utf-8') as file:
        found |= set(files.parse_json(file.read())['weight_map'])
  with contextlib.suppress(OSError, KeyError):
    listed = _pickle(os.path.join(folder, 'pytorch_model.bin'))
    found |= {name for name in _TENSORS if _is_listed(name, listed)}
  return found


def _pickle(path: str) -> bytes:
  """The pickle in which PyTorch lists the tensors' names; it is not run here.

  Raises:
    OSError: the file cannot be read.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      inside = [x for x in archive.namelist() if x.endswith('/data.pkl')]
      return archive.read(inside[0]) if inside else b''
  except zipfile.BadZipFile:
    # Before version 1.6 it stood at the beginning of the file itself.
    with open(path, 'rb') as file:
      return file.read(_LISTED)


def _is_listed(name: str, pickled: bytes) -> bool:
  """Whether a pickle holds a string: its length stands before it."""
  # X, four bytes of the length, and the text in UTF-8
  return b'X' + len(name).to_bytes(4, 'little') + name.encode() in pickled
