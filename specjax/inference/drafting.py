"""Drafters as a user names them, and the corpus that some of them read.

A name is a folder or hub id of a draft model, one of `assemble.FREE_DRAFTERS`,
'hybrid:' and a folder, or 'none'.
"""

import dataclasses
import os
from typing import Any, Optional, Sequence, Union
import warnings

import jax
import numpy as np

from specjax import base
from specjax import models
from specjax import text as text_lib
from specjax.checkpoints import load as loading
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import drafters
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.models.speculator import modeling as speculator

HYBRID = 'hybrid:'
# Weights below this stay in a CPU's caches from step to step.
_CACHED_BYTES = 64 * 2**20
# Of a CPU: weights read, and what a layer takes however small it is.
_BYTES_PER_SECOND = 30e9
_LAYER_SECONDS = 8e-6


@dataclasses.dataclass(frozen=True)
class Hybrid:
  """A draft model where it promises more, suffix matching where that does.

  Attributes:
    model: the draft model, from `specjax.load`.
  """

  model: loading.Model


Drafter = Union[None, str, loading.Model, Hybrid]


def load(name: str, dtype: Optional[str] = None, **settings) -> Drafter:
  """Resolves a name.

  Args:
    name: see above; '' is 'none'.
    dtype: of a draft model's weights, as for `load.load`.
    **settings: of `load.load`, for a draft model.

  Returns:
    What `specjax.generate` takes as `drafter`.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  check_name(name)
  if name in ('', 'none'):
    return None
  if name in assemble.FREE_DRAFTERS:
    return name
  if name.startswith(HYBRID):
    folder = name.removeprefix(HYBRID)
    if not folder:
      raise ValueError(
        'A hybrid needs a draft model: hybrid:FOLDER, with the folder or hub '
        'id of one.'
      )
    model = loading.load(folder, dtype=dtype, **settings)
    if model.lm is None:
      raise ValueError(
        f'A hybrid needs a draft model that is a language model, but {folder} '
        f'holds a {model.config.model_type}; name it without hybrid:.'
      )
    return Hybrid(model)
  return loading.load(name, dtype=dtype, **settings)


def check_name(name: str) -> None:
  """Refuses what can be no drafter's name, before anything is loaded.

  Raises:
    FileNotFoundError: it is no folder, no hub id and none of our names.
  """
  folder = name.removeprefix(HYBRID)
  ours = ('', 'none', *assemble.FREE_DRAFTERS)
  if folder in ours or os.path.isdir(folder) or loading.is_hub_id(folder):
    return
  raise FileNotFoundError(
    f'There is no drafter {name}: give the folder of a model, a hub id like '
    f'organisation/name, hybrid:FOLDER, {", ".join(ours[1:])}.'
  )


def follow(drafter: Drafter, layout: Optional[mesh_lib.Layout]) -> Drafter:
  """The drafter on the target's mesh; a draft model goes there whole."""
  model = draft_model(drafter)
  if model is None or layout is None or model.layout is not None:
    return drafter
  whole = mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
  moved = loading.spread(model, whole)
  return Hybrid(moved) if isinstance(drafter, Hybrid) else moved


def draft_model(drafter: Drafter) -> Optional[loading.Model]:
  """The model inside a drafter, if there is one."""
  if isinstance(drafter, Hybrid):
    return drafter.model
  return drafter if isinstance(drafter, loading.Model) else None


def is_one_pass(drafter: Drafter) -> bool:
  """Whether the drafter is a network that fills all slots at once."""
  model = draft_model(drafter)
  if model is None or model.lm is not None:
    return False
  config = model.config
  if not isinstance(config, models.ParallelConfig):
    return True
  return config.masks or config.is_heads


def reads_corpus(drafter: Drafter) -> bool:
  """Whether the drafter copies from a corpus."""
  return drafter == 'suffix' or isinstance(drafter, Hybrid)


def for_recipe(
  target: loading.Model, drafter: Drafter, num_draft: int, rows: int = 1
) -> Union[
  None,
  str,
  base.CachedLM,
  assemble.Hybrid,
  drafters.SlotSpec,
  assemble.Attached,
]:
  """The drafter as `assemble.recipe` takes it.

  What a hybrid's model costs is estimated, see `draft_cost`, for so many rows
  at a time.
  """
  if is_attached(drafter):
    return _attached(target, drafter, num_draft)
  if isinstance(drafter, loading.Model):
    if not models.is_language_model(drafter.config):
      return drafters.SlotSpec(
        drafter.config,
        loading.vocabulary_size(drafter.config, drafter.tokenizer),
      )
    return drafter.lm
  if not isinstance(drafter, Hybrid):
    return drafter
  model_draft = max(1, min(4, num_draft))
  return assemble.Hybrid(
    drafter.model.lm,
    model_draft,
    draft_cost(target, drafter.model, model_draft),
    min_promise(target, model_draft, rows),
  )


def target_lm(target: loading.Model, drafter: Drafter) -> base.CachedLM:
  """The target's `CachedLM`, returning the states that the drafter reads."""
  model = draft_model(drafter)
  if model is None or not isinstance(model.config, models.BlockwiseConfig):
    return target.lm
  if not isinstance(target.config, models.T5Config):
    return target.lm  # refused where the recipe is made
  if model.config.d_model != target.config.d_model:
    raise ValueError(
      f'The heads were made for states of width {model.config.d_model}, but '
      f'those of the target have {target.config.d_model}; train heads for '
      'this target.'
    )
  return loading.make_lm(target, hidden_layers=(-1,))


def check_target(model: loading.Model) -> None:
  """Raises ValueError if a model cannot decide what is said."""
  if model.lm is None:
    raise loading.no_target(model.name)


def check_beta(model: loading.Model, beta: Any) -> None:
  """Raises ValueError if a beta, or one of several, exceeds the vocabulary."""
  if np.max(beta) > model.lm.vocab_size:
    raise ValueError(
      f'beta must be at most {model.lm.vocab_size}, the number of tokens that '
      f'the target knows, not {np.max(beta)}.'
    )


def check_prompt(drafter: Drafter, index: int, length: int) -> None:
  """Raises ValueError if a source is longer than the drafter was trained for.

  Args:
    drafter: what drafts.
    index: place of the prompt, from 0.
    length: its tokens.
  """
  model = draft_model(drafter)
  most = getattr(model and model.config, 'max_source_positions', None)
  if most is not None and length > most:
    raise ValueError(
      f'Prompt {index + 1} has {length} tokens, but the drafter {model.name} '
      f'was trained for sources of at most {most}; shorten it, or decode '
      'without this drafter.'
    )


def is_attached(drafter: Drafter) -> bool:
  """Whether the drafter is a network that hangs on its target."""
  return isinstance(drafter, loading.Model) and isinstance(
    drafter.config, models.ParallelConfig
  )


def _attached(
  target: loading.Model, drafter: loading.Model, num_draft: int
) -> assemble.Attached:
  """Checks that a drafter network was made for this target."""
  config, mine = drafter.config, target.config
  is_pairs = isinstance(mine, models.T5Config)
  found = (
    mine.d_model if is_pairs else mine.hidden_size,
    mine.num_decoder_layers if is_pairs else mine.num_hidden_layers,
    mine.vocab_size,
    'an encoder-decoder' if is_pairs else 'a decoder-only model',
  )
  wanted = (
    config.target_width,
    config.target_layers,
    config.vocab_size,
    'an encoder-decoder' if config.encoder_width else 'a decoder-only model',
  )
  # A stand-alone drafter reads tokens and, at most, the encoded source.
  if config.kind == 'parallel' and not is_pairs:
    found, wanted = found[2:], wanted[2:]
  if found != wanted:
    raise ValueError(
      f'The drafter {drafter.name} was trained for another target: '
      f'{wanted[-1]} of width {config.target_width}, {config.target_layers} '
      f'layers and {config.vocab_size} tokens.'
    )
  if num_draft > config.num_draft and (config.masks or config.is_heads):
    what = 'are not drafted' if config.is_heads else 'will hardly be accepted'
    warnings.warn(
      f'The drafter {drafter.name} was trained for {config.num_draft} slots, '
      f'but num_draft is {num_draft}: those beyond {what}.',
      stacklevel=2,
    )
  hidden = () if config.feature == 'none' and not config.is_heads else (-1,)
  lm = loading.make_lm(target, hidden_layers=hidden)
  return assemble.Attached(config, lm)


def min_promise(target: loading.Model, num_draft: int, rows: int = 1) -> float:
  """Accepted tokens that a draft of K must promise to be worth verifying.

  That is what a block costs beyond a plain step, in steps. On a CPU a step of
  one token is limited by reading the weights and a block by arithmetic, so a
  block is dear unless the weights have to come from memory (measured with 3
  million parameters: 2.0 to 2.6 steps for 5 tokens, 2.9 to 5 for 9, 7 for 17;
  with 60 million: 1.1 for 5). Rows are arithmetic too: a step of several is
  dearer, and their blocks more so (60 million, 8 rows: 1.8 to 2.3 steps for 5
  tokens a row). An accelerator verifies a block nearly for free.

  Args:
    target: the target.
    num_draft: K.
    rows: decoded together; the promise is the mean over them.
  """
  if jax.default_backend() != 'cpu':
    return 0.25
  first, more = (0.9, 0.2) if _size(target) < _CACHED_BYTES else (0.15, 0.05)
  step = 1 + more * (rows - 1)
  return round((first + more * rows * num_draft) / step, 2)


def draft_cost(
  target: loading.Model, model: loading.Model, num_draft: int
) -> float:
  """Plain steps of the target that drafting K tokens with a model costs.

  A step reads all weights and, on a CPU, starts every layer's operations one by
  one, which is most of a small model's time. The first pass of a draft, over
  tokens that the model has not seen, costs a few steps of one token there.
  """
  is_cpu = jax.default_backend() == 'cpu'

  def seconds(model):
    layer = _LAYER_SECONDS if is_cpu else 0.0
    layers = getattr(model.config, 'num_decoder_layers', 0)
    layers = layers or model.config.num_layers
    return _size(model) / _BYTES_PER_SECOND + layer * layers

  steps = num_draft + 3 * is_cpu
  # To two digits, since the value is compiled in.
  return round(steps * seconds(model) / seconds(target), 2)


def _size(model: loading.Model) -> int:
  """Bytes of a model's parameters."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))


def params(
  drafter: Drafter,
  corpus: Optional[corpus_lib.Corpus] = None,
  target: Optional[loading.Model] = None,
) -> base.PyTree:
  """Parameters of the drafter, with the corpus sorted for search.

  A network that hangs on its target also gets what that lends it.
  """
  model = draft_model(drafter)
  if is_attached(drafter):
    return speculator.bind(model.config, model.params, target.params)
  if not reads_corpus(drafter):
    return None if model is None else model.params
  index = None if corpus is None else corpus_lib.index(corpus)
  return drafters.HybridParams(model.params, index) if model else index


def open_corpus(
  path: str, drafter: Drafter, tokenizer: Any, capacity: int
) -> corpus_lib.Corpus:
  """Reads a corpus file, or begins an empty corpus if there is none.

  Args:
    path: of the file.
    drafter: what will read it.
    tokenizer: of the target.
    capacity: most tokens, separators included.

  Raises:
    ValueError: if the drafter reads no corpus, or the file is not a corpus of
      this tokenizer.
  """
  if not reads_corpus(drafter):
    raise ValueError(
      'A corpus is read by the drafters suffix and hybrid:FOLDER only; take '
      'one of them or leave --corpus out.'
    )
  if tokenizer is None:
    raise ValueError('A corpus needs a target with a tokenizer.')
  fingerprint = text_lib.fingerprint(tokenizer)
  if os.path.exists(path):
    return corpus_lib.load(path, capacity, fingerprint)
  return corpus_lib.empty(capacity, fingerprint)


def remember(
  corpus: corpus_lib.Corpus, answers: Sequence[Sequence[int]]
) -> corpus_lib.Corpus:
  """The corpus with answers added; one too long for it keeps its end."""
  most = corpus.capacity - 1
  return corpus_lib.add(corpus, [answer[-most:] for answer in answers])
