"""Whether the head is the embedding table, where the tensors decide it.

Hugging Face's config.json says so too, but exporters write a head beside a tied
table, and transformers 5 writes `tie_word_embeddings: true` for every T5.
"""

import dataclasses
from typing import Any

from specjax.models.family import StoredTensors

HEAD = 'lm_head.weight'


def settle(config: Any, stored: StoredTensors, embed: str) -> Any:
  """The config, with `tie_word_embeddings` as the tensors have it.

  Args:
    config: with that field.
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
    names: of the tensors that are there.
    others: names that share the table.
    config: with `tie_word_embeddings`.
  """
  path = ('embed', 'weight')
  table = wanted.get(path)
  if table is None or table.name in names:
    return wanted
  for name in others + (HEAD,) * config.tie_word_embeddings:
    if name in names:
      return wanted | {path: table._replace(name=name)}
  return wanted
