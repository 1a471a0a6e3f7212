"""Config files: FILE or FILE:VARIANT, your own or a shipped one.

A file defines `get_config(name='') -> dataclass`, and optionally a table
`VARIANTS` of its variants. Files are loaded here, because ml_collections
answers a broken one with a traceback or with an object that fails later.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import difflib
import importlib.util
import pathlib
import types
import typing
from typing import Any, NamedTuple

from absl import flags

# Name of the folder of shipped files, as `--config` takes it.
FOLDER = 'configs'


class Shipped(NamedTuple):
  """A variant of a shipped file.

  Attributes:
    name: name as `--config` takes it, FILE or FILE:VARIANT.
    makes: result in a few words.
  """

  name: str
  makes: str


def load(where: str, shipped: pathlib.Path) -> Any:
  """The dataclass instance that a config file returns.

  Args:
    where: name of the file, FILE or FILE:VARIANT.
    shipped: folder in which `configs/NAME.py` is looked for when there is none
      in the current folder.

  Raises:
    flags.Error: there is no such file, or it does not return a dataclass.
  """
  name, colon, variant = where.partition(':')
  path = pathlib.Path(name)
  if not path.exists() and path.parts[:1] == (FOLDER,):
    path = shipped.joinpath(*path.parts[1:])
  if not path.is_file():
    files = [f'{FOLDER}/{file.name}' for file in _files(shipped)]
    near = difflib.get_close_matches(name, files, 1)
    hint = f'; did you mean {near[0]}?' if near else '.'
    raise flags.Error(f'There is no config file {name}{hint}')
  try:
    config = _module(path).get_config(*([variant] if colon else []))
  except Exception as error:
    raise flags.Error(
      f'The config file {name} does not load: {type(error).__name__}: {error}'
    ) from None
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise flags.Error(
      f'get_config in {name} must return a dataclass, not {config!r}.'
    )
  return config


def shipped_for(kind: type, folder: pathlib.Path) -> Iterator[Shipped]:
  """Variants of the shipped files that a command takes.

  Args:
    kind: dataclass of the command's default config. Files whose config extends
      it are taken too, unless it belongs to another command, and so to another
      package.
    folder: place of the shipped files.
  """
  for path in _files(folder):
    module = _module(path)
    returned = typing.get_type_hints(module.get_config)['return']
    if issubclass(returned, kind) and _package(returned) == _package(kind):
      for variant, makes in _table(module):
        colon = ':' if variant else ''
        yield Shipped(f'{FOLDER}/{path.name}{colon}{variant}', makes)


def _package(kind: type) -> str:
  return kind.__module__.rpartition('.')[0]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.glob('*.py') if path.stem != '__init__')


def _module(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location('specjax_config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _table(module: types.ModuleType) -> list[tuple[str, str]]:
  """(variant, its result) of a file; its first line where it has no table.

  `VARIANTS` is {variant: {'makes': words}}, or rows with `name` and `makes`.
  """
  table = getattr(module, 'VARIANTS', None)
  if not table:
    return [('', (module.__doc__ or '').strip().split('\n')[0])]
  if isinstance(table, dict):
    return [(name, row['makes']) for name, row in table.items()]
  return [(row.name, row.makes) for row in table]


def with_words(config: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
  """Takes overrides by words that stand in the place of a number.

  Args:
    config: the config.
    argv: arguments of the command.

  Returns:
    (the config with these words, the other arguments).
  """
  words = {
    f'{dashes}config.{field.name}': (field.name, field.metadata['words'])
    for field in dataclasses.fields(config)
    if 'words' in field.metadata
    for dashes in ('-', '--')
  }
  left, rest = [], list(argv)
  while rest:
    # --config.batch_size=auto, or the value as an argument of its own
    arg = rest.pop(0)
    option, equals, value = arg.partition('=')
    value = value if equals else ''.join(rest[:1])
    name, allowed = words.get(option, ('', ()))
    if value in allowed:
      config = dataclasses.replace(config, **{name: value})
      rest = rest if equals else rest[1:]
    else:
      left.append(arg)
  return config, left
