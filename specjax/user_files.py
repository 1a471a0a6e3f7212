"""Objects from a user's own file: `FILE.py:NAME`."""

import contextlib
import functools
import hashlib
import importlib.util
import pathlib
import re
import sys
import types
from typing import Any

_PREFIX = 'specjax_user_'
_PATTERN = re.compile(r'(.+\.py):(\w+)')


def is_reference(text: Any) -> bool:
  """Whether a text has the form FILE.py:NAME."""
  return isinstance(text, str) and _PATTERN.fullmatch(text) is not None


def references(argument: str) -> list[str]:
  """All references in one argument of a command.

  Args:
    argument: `--NAME=VALUE`, or a value that stands alone. A value is one
      reference, whose path may hold spaces, or a list of them such as a,b and
      "('auto', 'FILE.py:NAME')". What wraps one is left out, as in
      hybrid:FILE.py:NAME.
  """
  value = argument
  if argument.startswith('-'):
    value = argument.partition('=')[2]
  if is_reference(_inner(value)) and _split(_inner(value))[0].is_file():
    return [_inner(value)]
  words = [word.strip() for word in re.split(r'[,()\[\]\'"]+', value)]
  return [_inner(word) for word in words if is_reference(word)]


def _inner(text: str) -> str:
  """A reference without the name of a drafter that wraps it."""
  # 'hybrid:a.py:X': 'a.py:X'; 'C:a.py:X', where there is such a file: itself
  head, _, rest = text.partition(':')
  is_wrapped = head.isidentifier() and is_reference(rest)
  if is_wrapped and not _split(text)[0].is_file():
    return _inner(rest)
  return text


def load(reference: str) -> Any:
  """The object that FILE.py:NAME means; a file is run once a process.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file does not run, or has no such name.
  """
  path, name = _split(reference)
  file = reference.removesuffix(f':{name}')
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {file} (of {reference}).')
  module = _module(path.resolve())
  if not hasattr(module, name):
    own = ', '.join(n for n, value in vars(module).items() if _is_own(n, value))
    raise ValueError(
      f'{file} defines no {name}; it defines {own or "nothing"}.'
    )
  return getattr(module, name)


def _is_own(name: str, value: Any) -> bool:
  """Whether a file is likely to have made a value itself."""
  if name.startswith('_') or isinstance(value, types.ModuleType):
    return False
  is_definition = isinstance(value, (type, types.FunctionType))
  return not is_definition or value.__module__.startswith(_PREFIX)


def _split(reference: str) -> tuple[pathlib.Path, str]:
  file, name = _PATTERN.fullmatch(reference).groups()
  return pathlib.Path(file).expanduser(), name


@functools.cache
def _module(path: pathlib.Path) -> Any:
  # Two files of one name in different folders are two modules.
  place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
  name = f'{_PREFIX}{path.stem}_{place}'
  try:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its annotations up in the module of its name.
    sys.modules[name] = module
    # As of a script, its neighbours can be imported; and standard output is
    # for answers alone.
    sys.path.insert(0, str(path.parent))
    with contextlib.redirect_stdout(sys.stderr):
      spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    sys.modules.pop(name, None)
    words = ' '.join(str(error).split())
    raise ValueError(
      f'{path} does not load: {type(error).__name__}: {words}'
    ) from None
  finally:
    if str(path.parent) in sys.path:
      sys.path.remove(str(path.parent))
  return module
