"""From a folder, a GGUF file or a hub id to a model ready to decode."""

from collections.abc import Mapping
import os
import re
from typing import Any
import warnings

from specjax import models
from specjax import waiting
from specjax.checkpoints import folder as folder_lib
from specjax.checkpoints import gguf
from specjax.checkpoints import hf
from specjax.checkpoints import model as model_lib
from specjax.checkpoints import pieces_file
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry
from specjax.models import sharded
from specjax.models.common import quantize
from specjax.models.decoder import config as decoder_config
from specjax.models.facts import ModelFacts

_TOKENIZER_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  *pieces_file.NAMES,
)

DTYPES = ('float32', 'bfloat16', 'w8a8')
_HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')
# Models that are often given by a bare name, and their organisations.
_ORGANISATIONS = (
  (r'gpt2(-medium|-large|-xl)?', 'openai-community'),
  (r'distilgpt2', 'distilbert'),
  (r't5-(small|base|large|3b|11b)', 'google-t5'),
  (r'flan-t5-\w+', 'google'),
)


def load(
  folder_or_hub_id: str,
  *,
  dtype: str | None = None,
  hidden_layers: tuple = (),
  layout: mesh_lib.Layout | None = None,
  int8: bool = False,
  prepare: bool = True,
) -> model_lib.Model:
  """Loads a model and its tokenizer. Needs no PyTorch.

  Args:
    folder_or_hub_id: a folder with config.json, weights (safetensors, Orbax in
      `params/`, or the arrays of T5X) and tokenizer files, a GGUF file, or
      `organisation/name` on the Hugging Face hub.
    dtype: 'float32' or 'bfloat16', for parameters, computing and cache; None:
      the one that config.json states (`dtype`, or `torch_dtype`), else that of
      the widest weights. 'w8a8': float32, but matrix products of weights and
      activations in eight bits.
    hidden_layers: states that `lm` returns; see `models.make_lm`.
    layout: a mesh to put the parameters on (see `mesh.make_layout`); a
      process then reads what its devices hold, and `lm` runs on all of them.
    int8: keeps matrices in eight bits, with a scale for each output channel.
    prepare: transposes matrices to the layout in which this backend decodes
      fastest (see `models.prepare`); False keeps them as stored, for training.

  Returns:
    `Model`. Its logits have V entries, V being the smaller of the embedding
    table's rows and the tokenizer's ids, so that rows which only pad the table
    have no probability.

  Raises:
    FileNotFoundError, ValueError: one sentence naming what is wrong.
  """
  name = os.fspath(folder_or_hub_id)
  if dtype is not None and str(dtype) not in DTYPES:
    raise ValueError(
      f'dtype must be one of {", ".join(map(repr, DTYPES))}, not {dtype!r}.'
    )
  folder = folder_of(name)
  scale = quantize.WEIGHTS if int8 else ''
  if dtype == 'w8a8':
    dtype, scale = 'float32', quantize.W8A8
  with waiting.noted(f'Loading {name}.'):
    config, params = folder_lib.load(
      folder, dtype=dtype, layout=layout, scale=scale
    )
    if prepare and layout is None:
      params = models.prepare(config, params)
    return _model(name, folder, config, params, tuple(hidden_layers), layout)


def _model(name, folder, config, params, hidden_layers, layout):
  """`Model` of parameters where they are to be."""
  generation = hf.read_json(folder, 'generation_config.json') or {}
  start = generation.get('decoder_start_token_id')
  if start is not None and registry.facts(config).start_id is not None:
    config = models.replace(config, decoder_start_token_id=start)
  tokenizer = load_tokenizer(folder)
  facts = registry.facts(config)
  eos_ids, pad_id = special_ids(generation, facts, tokenizer)
  whole = config
  if layout is not None:
    layout = sharded.fit(config, layout)
    whole = sharded.expanded(config, layout)
  return model_lib.Model(
    params=params,
    config=config,
    module=models.make_module(whole),
    tokenizer=tokenizer,
    lm=model_lib.lm_of(
      config,
      layout,
      vocab_size=model_lib.vocabulary_size(config, tokenizer),
      hidden_layers=hidden_layers,
    ),
    eos_ids=eos_ids,
    pad_id=pad_id,
    name=name,
    layout=layout,
    bos_id=bos_id(generation, facts, tokenizer),
    generation_config=generation,
  )


def load_tokenizer(folder: str) -> Any:
  """Returns the folder's tokenizer, or None if it holds no tokenizer files.

  Args:
    folder: folder, or GGUF file.

  Raises:
    OSError, ValueError: there are tokenizer files but they do not load.
  """
  if gguf.is_file(folder):
    folder = gguf.folder_of(folder)
  present = [
    name
    for name in _TOKENIZER_FILES
    if os.path.isfile(os.path.join(folder, name))
  ]
  if not present:
    return None
  import transformers  # Slow to import, and needed here alone.

  _note_class(folder, transformers)
  kind = (hf.read_json(folder, 'config.json') or {}).get('model_type', '')
  auto = transformers.AutoTokenizer
  known = isinstance(kind, str) and kind in transformers.CONFIG_MAPPING
  if 'tokenizer.json' in present and not known:
    # transformers warns of a config.json that it does not know.
    auto = transformers.PreTrainedTokenizerFast

  def by_class(folder):
    return auto.from_pretrained(folder, local_files_only=True)

  try:
    path = pieces_file.find(folder)
    if path is not None:
      return pieces_file.load(folder, path, (by_class,) if known else ())
    return by_class(folder)
  except Exception as first:
    error = first
    # A bare tokenizer.json is enough, whatever class its model wants.
    if 'tokenizer.json' in present:
      try:
        return transformers.PreTrainedTokenizerFast.from_pretrained(
          folder, local_files_only=True
        )
      except Exception as second:
        error = second
    reason = ' '.join(str(error).split()).rstrip('.')
    raise ValueError(
      f'the tokenizer files in {folder} do not load '
      f'({type(error).__name__}: {reason}).'
    ) from None


def _note_class(folder: str, transformers: Any) -> None:
  """Warns of a tokenizer class that transformers does not have."""
  name = 'tokenizer_config.json'
  kind = (hf.read_json(folder, name) or {}).get('tokenizer_class')
  base = str(kind).removesuffix('Fast')
  found = [getattr(transformers, word, None) for word in (base, f'{base}Fast')]
  parent = transformers.PreTrainedTokenizerBase
  if kind is not None and not any(
    isinstance(one, type) and issubclass(one, parent) for one in found
  ):
    warnings.warn(
      f'{os.path.join(folder, name)} names the tokenizer class {kind!r}, which '
      'transformers does not have; the files are read without it.',
      stacklevel=2,
    )


def folder_of(name: str) -> str:
  """Returns the folder itself, or a hub repository's local copy.

  The folder of a training run stands for the model that it exported, a GGUF
  file for the folder that it is turned into.

  Raises:
    OSError, ValueError: one sentence naming what is wrong.
  """
  if os.path.isdir(name) or gguf.is_file(name):
    return folder_lib.of_model(name)
  if not is_hub_id(name):
    raise FileNotFoundError(
      f'there is no folder {name}, nor is it a hub id like organisation/name'
      f'{suggestion(name)}.'
    )
  try:
    import huggingface_hub

    return huggingface_hub.snapshot_download(
      name,
      # Repositories often hold the same weights for PyTorch and others as well.
      allow_patterns=['*.json', '*.safetensors', '*.model', '*.txt', '*.jinja'],
    )
  except Exception as error:
    reason = str(error).strip().split('\n')[0].rstrip('. ')
    raise FileNotFoundError(
      f'there is no folder {name}, and it cannot be fetched from the Hugging '
      f'Face hub ({type(error).__name__}: {reason}).'
    ) from None


def suggestion(name: str) -> str:
  """'; give ' and the hub id that a bare name means; '' where it means none."""
  for pattern, organisation in _ORGANISATIONS:
    if re.fullmatch(pattern, name):
      return f'; give {organisation}/{name}'
  return ''


def is_hub_id(name: str) -> bool:
  """Whether a name has the form organisation/name."""
  return bool(_HUB_ID.fullmatch(name))


def is_model(name: str) -> bool:
  """Whether a name is a folder, a GGUF file or has the form of a hub id."""
  return os.path.isdir(name) or gguf.is_file(name) or is_hub_id(name)


def _ids(value) -> tuple:
  ids = decoder_config.token_ids(value)
  decoder_config.check_token_ids(ids)
  return ids


def special_ids(
  generation: Mapping[str, Any], facts: ModelFacts, tokenizer: Any
) -> tuple[tuple, int]:
  """(end ids, padding id) of a model, by what states them first.

  Args:
    generation: its generation_config.json.
    facts: facts of its config.
    tokenizer: its tokenizer, or None.

  Raises:
    ValueError: an end id is none of the model's ids.
  """
  # generation_config.json first: chat models often name the end of a turn
  # there, and in config.json the end of a text alone.
  eos_ids = _ids(generation.get('eos_token_id')) or facts.eos_ids
  if not eos_ids and tokenizer is not None:
    eos_ids = _ids(tokenizer.eos_token_id)
  for token in eos_ids:
    if not 0 <= token < facts.vocab_size:
      raise ValueError(
        f'the end id (eos_token_id) {token} is none of the {facts.vocab_size} '
        f'ids of the model, which go from 0 to {facts.vocab_size - 1}.'
      )
  # Any id of the table will do for padding, which is masked; an end token last,
  # since a missing padding token is no reason to refuse a model.
  given = (
    generation.get('pad_token_id'),
    facts.pad_id,
    tokenizer.pad_token_id if tokenizer is not None else None,
    *eos_ids,
  )
  whole = (i for i in given if isinstance(i, int))
  inside = [i for i in whole if 0 <= i < facts.vocab_size]
  return eos_ids, inside[0] if inside else 0


def bos_id(
  generation: Mapping[str, Any], facts: ModelFacts, tokenizer: Any
) -> int | None:
  """The first id of a text, by what states it first; takes `special_ids`'."""
  own = None if tokenizer is None else tokenizer.bos_token_id
  for given in (generation.get('bos_token_id'), facts.bos_id, own):
    if type(given) is int and 0 <= given < facts.vocab_size:
      return given
  return None
