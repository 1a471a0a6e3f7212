"""What is measured: models from folders, or of named shapes, and drafters.

A `shape:` model has the size of a known one and random weights: its speed is
that of the real thing and its text is noise. Nothing is downloaded for it.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
from typing import NamedTuple, Optional

import jax
import numpy as np

from specjax import models
from specjax import text as text_lib
from specjax.benchmark import networks
from specjax.checkpoints import hf
from specjax.checkpoints import load as loading
from specjax.checkpoints import placement
from specjax.decoding import corpus as corpus_lib
from specjax.decoding import drafters
from specjax.distributed import mesh as mesh_lib
from specjax.inference import assemble
from specjax.inference import drafting
from specjax.models import sharded
from specjax.models.common import cpu_layout
from specjax.models.common import quantize

_T5 = dict(vocab_size=32128, d_kv=64)
_LLAMA = dict(vocab_size=32000, max_position_embeddings=2048)

SHAPES = {
  't5-tiny': models.T5Config(
    512, 64, 16, 128, num_layers=2, num_decoder_layers=2, num_heads=4
  ),
  't5-mini': models.T5Config(
    d_model=384, d_ff=1536, num_layers=4, num_decoder_layers=4, num_heads=8,
    **(_T5 | {'d_kv': 32}),
  ),
  't5-small': models.T5Config(
    d_model=512, d_ff=2048, num_layers=6, num_decoder_layers=6, num_heads=8,
    **_T5,
  ),
  't5-base': models.T5Config(
    d_model=768, d_ff=3072, num_layers=12, num_decoder_layers=12, num_heads=12,
    **_T5,
  ),
  't5-large': models.T5Config(
    d_model=1024, d_ff=4096, num_layers=24, num_decoder_layers=24,
    num_heads=16, **_T5,
  ),
  't5-3b': models.T5Config(
    d_model=1024, d_ff=16384, num_layers=24, num_decoder_layers=24,
    num_heads=32, **(_T5 | {'d_kv': 128}),
  ),
  't5-xxl': models.T5Config(
    d_model=4096, d_ff=10240, num_layers=24, num_decoder_layers=24,
    num_heads=64, hidden_act='gelu_new', gated=True, tie_word_embeddings=False,
    scale_decoder_outputs=False, **_T5,
  ),
  'llama-tiny': models.DecoderConfig(
    512, 64, 172, 3, 4, 2, 16, max_position_embeddings=512
  ),
  'llama-68m': models.DecoderConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
    num_attention_heads=12, num_key_value_heads=12, head_dim=64, **_LLAMA,
  ),
  'llama-160m': models.DecoderConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
    num_attention_heads=12, num_key_value_heads=12, head_dim=64, **_LLAMA,
  ),
  'llama-1b': models.DecoderConfig(
    hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
    num_attention_heads=32, num_key_value_heads=4, head_dim=64, **_LLAMA,
  ),
  'llama-8b': models.DecoderConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    head_dim=128, max_position_embeddings=8192,
  ),
}  # fmt: skip

# Parameters from which on a shape's weights are drawn on the devices.
_LARGE = 2**28
# Tokens of a random sequence in a corpus, its separator included.
_SEQUENCE = 256
TABLE_ORDER = {'unigram': 1, 'bigram': 2}
FREE = assemble.FREE_DRAFTERS + ('unigram', 'bigram')
DRAFTERS = (
  'a folder, shape:NAME, hybrid: and one of these, prompt_lookup, suffix, '
  'token_recycling, unigram, bigram, simulated:RATE, network:VARIANT or none'
)


class Subject(NamedTuple):
  """A drafter as a row of the benchmark wants it.

  Attributes:
    name: as the user wrote it.
    kind: 'model', 'slots' (a network that fills slots, such as a
      Spec-Drafter), 'hybrid', 'simulated', or a name of `FREE`.
    model: `load.Model` of kinds 'model', 'slots' and 'hybrid'.
    rate: acceptance of kind 'simulated'.
  """

  name: str
  kind: str
  model: Optional[loading.Model] = None
  rate: float = 1.0

  @property
  def drafter(self) -> drafting.Drafter:
    """As `drafting` takes it; not for simulated drafters and tables."""
    if self.kind == 'hybrid':
      return drafting.Hybrid(self.model)
    return self.model or self.kind


def load(
  name: str,
  *,
  dtype: str,
  seed: int = 0,
  layout: Optional[mesh_lib.Layout] = None,
  int8: bool = False,
) -> loading.Model:
  """Loads a folder or hub id, or makes a model of a named shape.

  Args:
    name: of a folder, or 'shape:' and a name of `SHAPES`.
    dtype: 'float32', 'bfloat16' or 'w8a8'.
    seed: of random weights.
    layout: the mesh, or None for one device.
    int8: keeps matrices in eight bits, as `load.load` does.

  Returns:
    `load.Model`; a shape has no tokenizer and no end tokens, and the weights
    of a large one are made on the devices.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if not is_shape(name):
    return loading.load(name, dtype=dtype, layout=layout, int8=int8)
  shape = name.removeprefix('shape:')
  if shape not in SHAPES:
    raise ValueError(
      f'There is no shape {shape!r}; there are {", ".join(SHAPES)}.'
    )
  scale = quantize.WEIGHTS if int8 else ''
  if dtype == 'w8a8':
    dtype, scale = 'float32', quantize.W8A8
  config = dataclasses.replace(SHAPES[shape], dtype=dtype, eos_token_id=())
  if layout is not None:
    layout = sharded.fit(config, layout)
  params = _weights(config, layout, jax.random.key(seed), scale)
  if layout is None:
    params = cpu_layout.prepare(config, params)
  made = loading.Model(
    params=params,
    config=config,
    module=models.make_module(config),
    tokenizer=None,
    lm=models.make_lm(config),
    eos_ids=(),
    pad_id=0,
    name=name,
  )
  return made if layout is None else loading.on_mesh(made, layout, params)


def _weights(config, layout, key, scale: str):
  """Random parameters; large models pass through no host."""
  sizes = (
    leaf.size for leaf in jax.tree.leaves(models.abstract_params(config))
  )
  if sum(sizes) >= _LARGE:
    return placement.draw(config, layout, key, dtype=config.dtype, scale=scale)
  # The devices' generators would have to be compiled.
  params = models.init_params(config, key, dtype=config.dtype)
  params = quantize.tree(params, scale) if scale else params
  return params if layout is None else placement.move(config, layout, params)


def is_shape(name: str) -> bool:
  """Whether a name means random weights of a known size."""
  return name.startswith('shape:')


def drafter(
  name: str, target: loading.Model, config, *, int8: bool = False
) -> Optional[Subject]:
  """Resolves a drafter's name; None for 'none'.

  Args:
    name: one of `DRAFTERS`.
    target: the model it drafts for.
    config: `BenchmarkConfig` or `CertifyConfig`.
    int8: keeps its matrices in eight bits.

  Raises:
    ValueError, FileNotFoundError: one sentence naming what is wrong.
  """
  if name in ('none', ''):
    return None
  if name in FREE:
    return Subject(name, name)
  if name.startswith('simulated'):
    return Subject(name, 'simulated', rate=_rate(name))
  if name.startswith(drafting.HYBRID):
    inner = drafter(
      name.removeprefix(drafting.HYBRID), target, config, int8=int8
    )
    if inner is None or inner.kind != 'model':
      raise ValueError(
        f'{name!r} names no draft model; give hybrid:FOLDER or '
        'hybrid:shape:NAME.'
      )
    return inner._replace(name=name, kind='hybrid')
  if name.startswith(networks.PREFIX):
    if int8:
      raise ValueError(
        f'{name!r} is not made in int8; leave quantize at none or target.'
      )
    model = networks.make(
      name,
      target,
      dtype=config.dtype,
      num_draft=config.longest_draft,
      seed=config.seed + 1,
    )
    return Subject(name, 'slots', model=model)
  if not is_shape(name) and not os.path.isdir(name) and '/' not in name:
    raise ValueError(f'Unknown drafter {name!r}; give {DRAFTERS}.')
  # Another seed: a drafter equal to the target would agree with it always.
  layout = target.layout
  if layout is not None and config.mesh.drafter == 'replicated':
    layout = mesh_lib.with_rules(layout, mesh_lib.REPLICATED)
  model = load(
    name,
    dtype=config.dtype,
    seed=config.seed + 1,
    layout=layout,
    int8=int8,
  )
  text_lib.check_same_vocabulary(target.tokenizer, model.tokenizer)
  if model.lm is None:
    return Subject(name, 'slots', model=model)
  vocab_size = min(target.lm.vocab_size, model.lm.vocab_size)
  if (target.tokenizer is None) != (model.tokenizer is None):
    raise ValueError(
      f'The target {target.name} and the drafter {name} must both have a '
      'tokenizer, or neither.'
    )
  if model.lm.vocab_size != target.lm.vocab_size:
    if target.lm.vocab_size > vocab_size:
      raise ValueError(
        f'The drafter {name} scores {vocab_size} tokens but the target '
        f'{target.lm.vocab_size}; take one with as many.'
      )
    lm = loading.make_lm(model, vocab_size=vocab_size)
    model = model._replace(lm=lm)
  return Subject(name, 'model', model=model)


def tables(rows, vocab_size: int, kinds) -> dict:
  """Parameters of table drafters.

  Args:
    rows: texts to count, as ids.
    vocab_size: V.
    kinds: 'unigram', 'bigram' or both.
  """
  return {
    kind: drafters.count_table(rows, order=order, vocab_size=vocab_size)
    for kind, order in TABLE_ORDER.items()
    if kind in kinds
  }


def corpus(rows, target: loading.Model, config) -> corpus_lib.Corpus:
  """A corpus of the rows given, behind `config.corpus_tokens` random tokens."""
  rng = np.random.default_rng(config.seed)
  filler = rng.integers(
    0, target.lm.vocab_size, (config.corpus_tokens // _SEQUENCE, _SEQUENCE - 1)
  )
  rows = [*filler, *rows]
  size = sum(len(row) + 1 for row in rows)
  return corpus_lib.add(corpus_lib.empty(max(size, 2), ''), rows)


def _rate(name: str) -> float:
  text = name.removeprefix('simulated').removeprefix(':')
  try:
    rate = float(text)
  except ValueError:
    rate = -1.0
  if not 0 <= rate <= 1:
    raise ValueError(
      f'{name!r} must name an acceptance rate from 0 to 1, such as '
      'simulated:0.8.'
    )
  return rate


@contextlib.contextmanager
def exported(*loaded: Optional[loading.Model]):
  """Folders that a peer can read, of models in the order given.

  A model from a folder is that folder; a shape is written to a temporary one,
  which is removed at the end. None gives None.
  """
  with contextlib.ExitStack() as stack:
    folders = []
    for model in loaded:
      if model is None or not is_shape(model.name):
        folders.append(None if model is None else _local(model.name))
        continue
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      hf.save_hf(folder, quantize.floats(model.params), model.config)
      folders.append(folder)
    yield folders


@functools.lru_cache(maxsize=None)
def _local(name: str) -> str:
  if os.path.isdir(name):
    return os.path.abspath(name)
  import huggingface_hub

  return huggingface_hub.snapshot_download(name, local_files_only=True)
