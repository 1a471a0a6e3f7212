"""Flags and config files of the commands.

A config file defines `get_config(arg='') -> dataclass`. Its fields are
overridden from the command line by ml_collections. The file itself is loaded
here, because ml_collections answers a broken one with a traceback or with an
object that fails later.
"""

import dataclasses
import difflib
import importlib.util
import inspect
import json
import pathlib
from typing import Any, Callable, Optional, Sequence

from absl import flags
from ml_collections import config_flags

from specjax import user_files
from specjax.base import Drafter
from specjax.base import Verifier
from specjax.checkpoints.model import Model
from specjax.commands import cli
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.distributed import processes as processes_lib
from specjax.inference import config as decode_config
from specjax.training import config as train_config

DefineFlags = Callable[[flags.FlagValues], None]


def define_processes(values: flags.FlagValues) -> None:
  """Adds the flags of a command that can run as several processes."""
  flags.DEFINE_string(
    'coordinator',
    '',
    'HOST:PORT of process 0 where several hosts share a job, or auto.',
    flag_values=values,
  )
  for name, words in (
    ('num_processes', 'How many processes share the job.'),
    ('process_id', 'Which of them this is, from 0.'),
  ):
    flags.DEFINE_integer(name, None, words, flag_values=values)


def join_processes(values: flags.FlagValues, config: Any) -> None:
  """Joins the processes of a job, see `processes.start`."""
  processes = processes_lib.Processes(
    values.coordinator, values.num_processes, values.process_id
  )
  try:
    processes.validate()
  except ValueError as error:
    raise flags.Error(str(error)) from None
  own = ('coordinator', 'process_id', 'config')
  given = {
    f'--{name}': values[name].value
    for name in values
    if name not in own and not name.startswith('config.')
  }
  plain = dataclasses.asdict(config)
  settings = json.loads(json.dumps(given | {'config': plain}, default=str))
  processes_lib.start(processes, settings, on_lost=cli.lost)


def command(
  define: DefineFlags,
  body: Callable[[flags.FlagValues, Any], Any],
  *,
  rewrite: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Callable[[Sequence[str], str, pathlib.Path], Any]:
  """Makes the `main` of a command that has a config.

  Args:
    define: adds the command's own flags.
    body: does the work with the flags and the config; may return an exit
      status.
    rewrite: changes the arguments before they are read.

  Returns:
    A function of the arguments (the program's name first), the text for --help
    and the config file used without --config.
  """

  def main(argv: Sequence[str], doc: str, config_file: pathlib.Path) -> Any:
    cli.prepare_process()
    values, config = parse(
      rewrite(argv), doc=doc, define=define, default_config=config_file
    )
    return body(values, config)

  return main


def require(values: flags.FlagValues, *names: str) -> None:
  """Raises flags.Error if one of these flags has no value."""
  for name in names:
    if not values[name].value:
      raise flags.Error(f'--{name} is needed; --help shows all options.')


def parse(
  argv: Sequence[str],
  *,
  doc: str,
  define: DefineFlags,
  default_config: pathlib.Path,
) -> tuple[flags.FlagValues, Any]:
  """Reads the command line and the config.

  Args:
    argv: arguments, the program's name first.
    doc: what the command does, for `--help`.
    define: adds the command's own flags to the given `FlagValues`.
    default_config: config file used without `--config`; its folder is where
      `configs/NAME.py` is found when there is none in the current folder.

  Returns:
    (flags, the validated config).

  Raises:
    flags.Error: for anything a user got wrong, in one sentence.
    SystemExit: after `--help`.
  """
  where, rest = _take_config(argv)
  _register_own(rest[1:])
  config = _load_config(where or str(default_config), default_config.parent)
  values = flags.FlagValues()
  define(values)
  if any(arg in ('--help', '-h', '-help', '--helpfull') for arg in rest[1:]):
    _print_help(doc, values, config)
    raise SystemExit(0)
  _check_overrides(rest, config)
  rest = [_with_quotes(arg, config) for arg in rest]
  try:
    config_flags.DEFINE_config_dataclass(
      'config', config, flag_values=values, sys_argv=rest
    )
    extra = values(rest)[1:]
    # The flag holds a copy, and the overrides are in the copy.
    config = values['config'].value
  except flags.Error:
    raise
  except Exception as error:
    raise flags.Error(f'Bad config override: {error}') from None
  if extra:
    raise flags.Error(
      f'Unexpected argument {extra[0]!r}; every option is written --name=value.'
    )
  try:
    config.validate()
  except ValueError as error:
    raise flags.ValidationError(str(error)) from None
  # Data loading workers read the global flags.
  flags.FLAGS.mark_as_parsed()
  return values, config


def read_flags(
  argv: Sequence[str], doc: str, define: Callable[[flags.FlagValues], None]
) -> flags.FlagValues:
  """Reads the flags of a command that has no config.

  Args:
    argv: the program's name first.
    doc: of the command, for --help, which ends the process.
    define: defines the flags.

  Raises:
    flags.Error: an unknown flag, or an argument that is none.
  """
  values = flags.FlagValues()
  define(values)
  if '--help' in argv[1:]:
    print(doc.strip(), '\n\nFlags:\n', values.get_help(), sep='')
    raise SystemExit(0)
  extra = values(list(argv))[1:]
  if extra:
    raise flags.Error(f'Unexpected argument {extra[0]!r}.')
  return values


def _take_config(argv: Sequence[str]) -> tuple[Optional[str], list[str]]:
  """Separates `--config=FILE` or `--config FILE` from the other arguments."""
  where, rest, skip = None, [], False
  for index, arg in enumerate(argv):
    if skip:
      skip = False
    elif arg in ('--config', '-config'):
      if index + 1 == len(argv):
        raise flags.Error('--config needs a file, as in --config=FILE.')
      where, skip = argv[index + 1], True
    elif arg.startswith(('--config=', '-config=')):
      where = arg.split('=', 1)[1]
    else:
      rest.append(arg)
  return where, rest


def _load_config(where: str, shipped: pathlib.Path) -> Any:
  """Calls `get_config` of a file, `FILE` or `FILE:argument`."""
  name, colon, argument = where.partition(':')
  path = pathlib.Path(name)
  if not path.exists() and path.parts[:1] == ('configs',):
    path = shipped.joinpath(*path.parts[1:])
  if not path.is_file():
    raise flags.Error(f'There is no config file {name}.')
  try:
    spec = importlib.util.spec_from_file_location('specjax_config', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*([argument] if colon else []))
  except Exception as error:
    raise flags.Error(
      f'The config file {name} does not load: {type(error).__name__}: {error}'
    ) from None
  if not dataclasses.is_dataclass(config) or isinstance(config, type):
    raise flags.Error(
      f'get_config in {name} must return a dataclass, not {config!r}.'
    )
  return config


def _register_own(arguments: Sequence[str]) -> None:
  """Registers entries of FILE.py:NAME, so that their options can be set."""
  for argument in arguments:
    for reference in user_files.references(argument):
      found = user_files.load(reference)
      if isinstance(found, DrafterEntry):
        drafter_registry.register(found)
      elif isinstance(found, VerifierEntry):
        verifier_registry.register(found)
      elif not isinstance(found, (Drafter, Verifier, Source, Model)):
        raise flags.Error(
          f'{reference} must be a drafter or a verification rule, not '
          f'{type(found).__name__}.'
        )


def _check_overrides(argv: Sequence[str], config: Any) -> None:
  """Refuses overrides of fields that the config does not have."""
  for arg in argv[1:]:
    name = arg.lstrip('-').split('=', 1)[0]
    if not arg.startswith('-') or not name.startswith(('config.', 'noconfig.')):
      continue
    holder, path = config, name.split('.')[1:]
    _check_moved(path, config)
    for depth, part in enumerate(path):
      known = _fields(holder)
      if part not in known:
        full = '.'.join(path[: depth + 1])
        close = difflib.get_close_matches(part, known, 1)
        hint = f'did you mean {close[0]}? ' if close else ''
        raise flags.Error(
          f'Unknown config field {full}; {hint}Known: {", ".join(known)}.'
        )
      holder = getattr(holder, part)


def _with_quotes(arg: str, config: Any) -> str:
  """Words of a list in quotes: `--config.verifier=match,FILE.py:NAME`."""
  name, equals, value = arg.partition('=')
  holder = config
  for part in name.lstrip('-').split('.')[1:]:
    holder = getattr(holder, part, None)
  is_words = isinstance(holder, tuple) and any(
    isinstance(word, str) for word in holder
  )
  if not equals or not is_words or value[:1] in '([\'"':
    return arg
  return f'{name}={tuple(value.split(","))!r}'


def _check_moved(path: Sequence[str], config: Any) -> None:
  """Refuses an option of version 0.1, naming the one of today."""
  known = _fields(config)
  group, *field = path
  new = decode_config.MOVED.get('.'.join(path), decode_config.MOVED.get(group))
  if group in train_config.MOVED:
    new = '.'.join((train_config.MOVED[group], *field))
  if new and group not in known and new.split('.')[0] in known:
    raise flags.Error(
      f'--config.{".".join(path)} has moved: give --config.{new} instead.'
    )


def _fields(holder: Any) -> list[str]:
  if not dataclasses.is_dataclass(holder):
    return []
  return [field.name for field in dataclasses.fields(holder)]


def _print_help(doc: str, values: flags.FlagValues, config: Any) -> None:
  print(doc.strip(), '\n\nFlags:')
  shown = values.get_help().splitlines()
  print('\n'.join(line for line in shown if line.startswith(' ')))
  print('\nConfig fields (--config.NAME=VALUE) and their values:')
  for field in dataclasses.fields(config):
    print(f'  {field.name} = {getattr(config, field.name)!r}')
  print('\n' + inspect.cleandoc(type(config).__doc__ or ''))
