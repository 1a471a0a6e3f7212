"""config.json of networks that Hugging Face does not know.

It holds the fields of the config dataclass under their own names.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

# Of the running process, and not of the weights.
_NOT_STORED = ('dtype', 'remat')


def from_json(kind: type, raw: Mapping[str, Any]) -> Any:
  """Reads a config.json that `to_json` wrote.

  Args:
    kind: the config dataclass.
    raw: the parsed file.

  Raises:
    ValueError: a setting is missing or makes no sense.
  """
  given = {}
  for field in dataclasses.fields(kind):
    if field.name in raw and field.name not in _NOT_STORED:
      value = raw[field.name]
      if field.type is tuple and not isinstance(value, list):
        raise ValueError(f'{field.name} must be a list, not {value!r}.')
      given[field.name] = tuple(value) if isinstance(value, list) else value
    elif field.default is dataclasses.MISSING:
      raise ValueError(
        f'config.json of this {raw["model_type"]} lacks {field.name!r}.'
      )
  made = kind(**given)
  made.validate()
  return made


def to_json(config: Any, architecture: str) -> dict:
  """Returns the config.json of a config.

  Args:
    config: a dataclass of numbers, strings and tuples of them.
    architecture: name of the network.
  """
  made = dataclasses.asdict(config)
  for name in _NOT_STORED:
    made.pop(name, None)
  made = {k: list(v) if isinstance(v, tuple) else v for k, v in made.items()}
  return made | {'architectures': [architecture]}
