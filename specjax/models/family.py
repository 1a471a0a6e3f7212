"""The record that describes a network architecture to every room.

A family is a folder below `models/` that ends in a `FAMILY` of this type and
has one line in `registry`. Loading, saving, converting, training, placing on
a mesh and decoding read these fields; none of them looks at a config's type or
at its fields.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from specjax.base import Array
from specjax.base import CachedLM
from specjax.base import PyTree
from specjax.models.facts import ModelFacts


class TensorName(NamedTuple):
  """A parameter's place in a safetensors file.

  Attributes:
    name: the tensor.
    transpose: whether it is stored `[in, out]`.
    part, parts: index and number of equal parts of its output axis.
  """

  # GPT-2 keeps queries, keys and values of a layer in one tensor [in, 3 * out].
  # The place of its keys:
  #   TensorName('transformer.h.0.attn.c_attn.weight', True, part=1, parts=3)
  name: str
  transpose: bool = False
  part: int = 0
  parts: int = 1


class StoredTensors(NamedTuple):
  """The tensors of a checkpoint, as far as they decide settings.

  Attributes:
    names: names of all tensors.
    equal: two names -> whether both tensors hold the same values.
  """

  names: frozenset
  # A function and not the tensors: whether a head is tied needs two of them,
  # and reading all would take as long as loading the model.
  equal: Callable[[str, str], bool]


class FileFormat(NamedTuple):
  """A family's spelling in folders of config.json and safetensors.

  Attributes:
    model_types: `model_type` -> names of `architectures` that are read; the
      first is the one that `to_json` writes.
    from_json: parsed config.json -> config. Raises ValueError in one sentence.
    to_json: config -> config.json.
    inner: config.json -> the part of it that describes a language model, where
      a model with images wraps one.
    tensor_name: (config, path of a parameter) -> `TensorName`.
    respell: ({path: `TensorName`}, names in the files, config) -> the same
      under the names that these files use.
    is_spare: (config, name) -> whether a file may hold a tensor of this name
      that no parameter needs.
    settle: (config, `StoredTensors`) -> the config with what the tensors
      decide, such as whether the head is tied to the embedding table.
  """

  model_types: Mapping[str, tuple[str, ...]]
  from_json: Callable[[Mapping[str, Any]], Any]
  to_json: Callable[[Any], dict]
  inner: Callable[[dict], dict] = lambda raw: raw
  # ('layers_0', 'attn', 'q', 'weight'): 'layers_0.attn.q.weight'
  tensor_name: Callable[[Any, tuple], TensorName] = lambda config, path: (
    TensorName('.'.join(path))
  )
  respell: Callable[..., dict] = lambda wanted, names, config: wanted
  is_spare: Callable[[Any, str], bool] = lambda config, name: False
  # config.json alone is not believed: transformers 5 writes
  # `tie_word_embeddings: true` for every T5.
  settle: Callable[[Any, StoredTensors], Any] = lambda config, stored: config


class T5XArray(NamedTuple):
  """A parameter's place in a T5X checkpoint.

  Attributes:
    name: path joined by '/', as T5X spells it, without 'target'.
    layer: index along axis 1 of a scanned array, or None.
    transpose: whether it is stored the other way round.
  """

  name: str
  layer: int | None
  transpose: bool


class T5XFormat(NamedTuple):
  """A family's spelling in T5X checkpoints.

  Attributes:
    array: (config, path of a parameter, names of the arrays) -> `T5XArray`.
    settle: (config, names of the arrays) -> the config with what they decide.
    layers: (config, array name) -> how many layers a scanned array holds.
  """

  array: Callable[[Any, tuple, frozenset], T5XArray]
  settle: Callable[[Any, frozenset], Any]
  layers: Callable[[Any, str], int]


class Sharding(NamedTuple):
  """Sharding of a family's network over the model axis of a mesh.

  Its parameters are named as in `mesh.PARAMETER_AXES` and its cache is a
  `common.cache.Cache`. Networks without this lie whole on every device, which
  then computes its own rows of a batch.

  Attributes:
    sizes: config -> dict of 'heads', 'mlp', 'embed', 'vocab': tuples of the
      numbers that each logical axis must divide.
    with_key_heads: (config, n) -> the config with n key heads, copies included.
    on_device: (config, `mesh.Shards`) -> the config of the network that one
      device runs.
    per_device: (config, heads, mlp) -> the config of the size that one device
      computes, where heads and feed-forward are cut into so many parts.
  """

  # 'heads': (32,) can lie on 2, 4, 8, 16 or 32 devices, not on 6.
  sizes: Callable[[Any], dict]
  with_key_heads: Callable[[Any, int], Any]
  on_device: Callable[[Any, Any], Any]
  per_device: Callable[[Any, int, int], Any]


class Shape(NamedTuple):
  """Sizes of a new network, under names that all families share.

  Attributes:
    width: model width D.
    layers: number of layers of the decoder.
    encoder_layers: number of layers of an encoder; 0 takes `layers`.
    heads, kv_heads, head_dim: attention heads, key heads (0 takes `heads`) and
      their width.
    mlp: width of the feed-forward layer.
    activation: function in the feed-forward layer, or of its gate.
    gated: whether the feed-forward layer has a gate.
    tie_embeddings: whether the head is the embedding table.
    positions: most positions.
  """

  width: int
  layers: int
  heads: int
  head_dim: int
  mlp: int
  kv_heads: int = 0
  activation: str = 'silu'
  gated: bool = True
  tie_embeddings: bool = False
  positions: int = 2048
  encoder_layers: int = 0


class TokenIds(NamedTuple):
  """Vocabulary of a new network.

  Attributes:
    size: V, rows of the embedding table.
    start: the decoder's start token of an encoder-decoder.
    pad, eos: ids.
  """

  size: int
  start: int
  pad: int
  eos: int


class ModelFamily(NamedTuple):
  """A network architecture.

  A config is a frozen, hashable dataclass with `dtype` (the compute dtype),
  `model_type`, and `validate()`, which raises ValueError naming a bad field.

  Attributes:
    name: name in registries and messages.
    config: dataclass of its settings.
    role: 'target' for language models, 'drafter' for networks that only draft.
    facts: config -> `ModelFacts`.
    network: config -> Flax module, as training calls it: a language model has
      `hidden` and `logits_from_hidden`; an encoder-decoder also `encode` and
      `decode`.
    init: (config, key) -> parameters, the tree under 'params'; traceable.
    files: `FileFormat`.
    as_cached_lm: (config, vocab_size=, hidden_layers=, dtype=) -> `CachedLM`;
      None for networks that only draft.
    initial: (config, path, shape) -> (mean, standard deviation) of the normal
      distribution that `init` draws a parameter from; where the deviation is 0,
      the mean is the parameter. Large models are then drawn tensor by tensor
      where they lie. None: `init` draws all at once.
    t5x: `T5XFormat`, or None where T5X has no such model.
    sharding: `Sharding`, or None.
    has_common_layers: whether the network multiplies by `common.layers`, which
      read weights in eight bits and in the order that is fastest on a CPU.
    reduce_head: (config, token ids) -> the config of a network whose head knows
      only these tokens; None where every head knows all.
    replace: (config, dtype=, dropout_rate=, remat=, ...) -> the config with
      settings of the running process.
    new: (`Shape`, `TokenIds`) -> config of a new language model; None for other
      networks.
    label: config -> name of the network in its paper; '' takes `name`.
  """

  name: str
  config: type
  role: str
  facts: Callable[[Any], ModelFacts]
  network: Callable[[Any], Any]
  init: Callable[[Any, Array], PyTree]
  files: FileFormat
  as_cached_lm: Callable[..., CachedLM] | None = None
  # `init` of a model that fills the devices would hold it on one of them.
  initial: Callable[[Any, tuple, tuple], tuple] | None = None
  t5x: T5XFormat | None = None
  sharding: Sharding | None = None
  has_common_layers: bool = False
  reduce_head: Callable[[Any, tuple], Any] | None = None
  # A config that wraps another passes on what belongs to the inner one: the
  # dtype of a drafter network is that of its layers.
  replace: Callable[..., Any] = dataclasses.replace
  new: Callable[[Shape, TokenIds], Any] | None = None
  label: Callable[[Any], str] = lambda config: ''

  @property
  def is_target(self) -> bool:
    """Whether its networks are language models."""
    return self.role == 'target'
