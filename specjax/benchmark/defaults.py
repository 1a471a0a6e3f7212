"""Settings that a benchmark takes from its target's generation_config.json."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
import types
from typing import Any, NamedTuple

import numpy as np

from specjax.benchmark.config import BenchmarkConfig
from specjax.benchmark.peers import engines as peers_lib
from specjax.checkpoints import model as model_lib
from specjax.decoding.controls import Sampling
from specjax.inference import generation_config
from specjax.inference import token_lists
from specjax.inference.config import DecodeConfig

_NOTHING: Mapping[str, Any] = types.MappingProxyType({})
# Settings of both configs.
_SHARED = ('temperature', 'top_k', 'top_p')
# Values of the file that a peer gets by other ways: temperature and filters
# are of the config, and of min_length each prompt has its own part.
_ELSEWHERE = ('do_sample', 'min_length', *_SHARED)


class Defaults(NamedTuple):
  """Settings taken from a file.

  Attributes:
    values: values taken, under their names in the file.
    fields: fields of `Sampling` that these make.
  """

  values: Mapping[str, Any] = _NOTHING
  fields: Mapping[str, Any] = _NOTHING

  def sampling(self, given: Sampling) -> Sampling:
    """Settings of a temperature with those of the file beside them."""
    return dataclasses.replace(given, **self.fields)

  def text(self) -> str:
    """The values as JSON; '' where there are none."""
    return json.dumps(self.values) if self.values else ''

  def for_peers(self) -> dict[str, Any]:
    """Settings of transformers' GenerationConfig with the same meaning."""
    made = {k: v for k, v in self.values.items() if k not in _ELSEWHERE}
    if 'min_length' in self.values:
      made['min_new_tokens'] = int(self.fields['min_new_tokens'])
    return made


def take(
  config: BenchmarkConfig,
  target: model_lib.Model,
  prompts: Sequence[Sequence[int]],
  peers: Sequence[str] = (),
  chosen: Collection[str] = (),
) -> tuple[BenchmarkConfig, Defaults]:
  """Takes what `config.generation_config` asks for.

  Args:
    config: settings of the user.
    target: model whose file is read.
    prompts: rows of ids.
    peers: other engines, which get the same settings.
    chosen: names of settings that the user chose. Others count as not given
      while their value is the default.

  Returns:
    (the config with temperature and filters of the file, the others).

  Raises:
    ValueError: a value of the file is wrong, or a peer does not know it.
  """
  usual = BenchmarkConfig()
  if config.generation_config == usual.generation_config:
    return config, Defaults()  # Nothing is taken by default.
  given = {
    name: getattr(config, name)
    for name in _SHARED
    if name in chosen or getattr(config, name) != getattr(usual, name)
  }
  if 'temperature' in given:
    given['temperature'] = max(given['temperature'])
  asked = DecodeConfig(
    generation_config=config.generation_config,
    max_new_tokens=config.max_new_tokens,
    ignore_eos=config.ignore_eos,
    **given,
  )
  rows = [('', row) for row in prompts]
  filled, taken = generation_config.apply(asked, target, rows)
  filled = token_lists.resolved(filled, target)
  if 'temperature' not in given:
    config = dataclasses.replace(config, temperature=(filled.temperature,))
  config = dataclasses.replace(config, top_k=filled.top_k, top_p=filled.top_p)
  made, own = filled.sampling(), config.sampling(0.0)
  names = [f.name for f in dataclasses.fields(made) if f.name not in _SHARED]
  fields = {name: getattr(made, name) for name in names}
  fields = {
    name: value
    for name, value in fields.items()
    if isinstance(value, np.ndarray) or value != getattr(own, name)
  }
  found = Defaults(taken.values, fields)
  _check_peers(found, peers)
  return config, found


def _check_peers(found: Defaults, peers: Sequence[str]) -> None:
  """Refuses peers that would decode by other settings."""
  others = [name for name in found.values if name not in _SHARED]
  for peer in peers:
    if others and not peers_lib.PEERS[peer].takes_settings:
      raise ValueError(
        f'The peer {peer} knows no {others[0]}, which is taken from the '
        "target's generation_config.json; leave --peer out, or "
        'generation_config at none.'
      )
  if peers and np.ndim(found.fields.get('min_new_tokens', 0)):
    raise ValueError(
      "min_length of the target's generation_config.json asks for another "
      'number of new tokens of every prompt, which a peer cannot be given; '
      'leave --peer out, or generation_config at none.'
    )
