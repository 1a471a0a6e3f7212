"""Whether the head is the embedding table, where the tensors decide it.

Hugging Face's config.json has a field for it. But exporters write a head beside
a tied table, and transformers 5 writes `tie_word_embeddings: true` for all T5s.
"""

import dataclasses
from typing import Any

from specjax.models.family import StoredTensors

HEAD = 'lm_head.weight'


def settle(config: Any, stored: StoredTensors, embed: str) -> Any:
  """Returns the config with `tie_word_embeddings` as the tensors have it.

  Args:
    config: config that has this field.
    stored: tensors of the checkpoint.
    embed: name of the embedding table in it.
  """
  own = not config.tie_word_embeddings
  if not own and HEAD in stored.names:
    own = embed not in stored.names or not stored.equal(HEAD, embed)
  return dataclasses.replace(config, tie_word_embeddings=not own)


def is_spare(config: Any, name: str) -> bool:
  """Whether a tensor is the copy of a tied head."""
  return name == HEAD and config.tie_word_embeddings


def respell(wanted: dict, names: Any, others: tuple, config: Any) -> dict:
  """Tensor names, where an exporter kept the table under another one.

  Args:
    wanted: {path: `TensorName`}.
    names: names of the tensors in the files.
    others: names that share the table.
    config: config that has `tie_word_embeddings`.
  """
  path = ('embed', 'weight')
  table = wanted.get(path)
  if table is None or table.name in names:
    return wanted
  for name in others + (HEAD,) * config.tie_word_embeddings:
    if name in names:
      return wanted | {path: table._replace(name=name)}
  return wanted
