"""Objects from a user's own file: `FILE.py:NAME`."""

import functools
import importlib.util
import pathlib
import re
from typing import Any

_PATTERN = re.compile(r'(.+\.py):(\w+)')


def is_reference(text: Any) -> bool:
  """Whether a text has the form FILE.py:NAME."""
  return isinstance(text, str) and _PATTERN.fullmatch(text) is not None


def references(text: str) -> list[str]:
  """All of them in a list like "('auto', 'FILE.py:NAME')" or a,b."""
  words = re.split(r'[=\s,()\[\]\'"]+', text)
  return [word for word in words if is_reference(word)]


def load(reference: str) -> Any:
  """The object that FILE.py:NAME means; a file is run once a process.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file does not run, or has no such name.
  """
  file, name = _PATTERN.fullmatch(reference).groups()
  path = pathlib.Path(file).expanduser()
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {file} (of {reference}).')
  module = _module(path.resolve())
  if not hasattr(module, name):
    own = [n for n in vars(module) if not n.startswith('_')]
    raise ValueError(f'{file} defines no {name}; it defines {", ".join(own)}.')
  return getattr(module, name)


@functools.lru_cache(maxsize=None)
def _module(path: pathlib.Path) -> Any:
  try:
    spec = importlib.util.spec_from_file_location(
      f'specjax_user_{path.stem}', path
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    words = ' '.join(str(error).split())
    raise ValueError(
      f'{path.name} does not load: {type(error).__name__}: {words}'
    ) from None
  return module
