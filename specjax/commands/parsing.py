"""The command line: flags, the config and `--help`.

Fields of the config are overridden by ml_collections. A mistyped option is
refused here, with the nearest right ones.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import types
from typing import Any

from absl import flags
import jax
from ml_collections import config_flags

import specjax
from specjax import user_files
from specjax.base import Drafter
from specjax.base import Verifier
from specjax.checkpoints.model import Model
from specjax.commands import cli
from specjax.commands import config_files
from specjax.commands import help_text
from specjax.commands import suggestions
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.drafters.entry import DrafterEntry
from specjax.decoding.drafters.entry import Source
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.decoding.verifiers.entry import VerifierEntry
from specjax.distributed import processes as processes_lib
from specjax.inference import moved
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
    ('num_processes', 'Number of processes that share the job.'),
    ('process_id', 'Number of this process, from 0.'),
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
  # What differs between processes by its nature, and the file of the config,
  # whose contents are compared in its place.
  own = ('coordinator', 'process_id', 'config')
  given = {
    f'--{name}': values[name].value
    for name in values
    if name not in own and not name.startswith('config.')
  }
  plain = dataclasses.asdict(config)
  # Once through JSON, as processes exchange them: a tuple becomes a list in
  # both.
  settings = json.loads(json.dumps(given | {'config': plain}, default=str))
  processes_lib.start(processes, settings, on_lost=cli.lost)


def command(
  define: DefineFlags,
  body: Callable[[flags.FlagValues, Any], Any],
  *,
  bare: Mapping[str, str] = types.MappingProxyType({}),
) -> Callable[[Sequence[str], str, pathlib.Path], Any]:
  """Makes the `main` of a command that has a config.

  Args:
    define: function that adds the command's own flags.
    body: function of the flags and the config that does the work; may return
      an exit status.
    bare: flags that may stand alone, as in `parse`.

  Returns:
    A function of the arguments (the program's name first), the text for --help
    and the config file used without --config.
  """

  def main(argv: Sequence[str], doc: str, config_file: pathlib.Path) -> Any:
    cli.prepare_process()
    values, config = parse(
      argv, doc=doc, define=define, default_config=config_file, bare=bare
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
  bare: Mapping[str, str] = types.MappingProxyType({}),
) -> tuple[flags.FlagValues, Any]:
  """Reads the command line and the config.

  Args:
    argv: arguments, the program's name first.
    doc: description of the command, for `--help`.
    define: function that adds the command's own flags to `FlagValues`.
    default_config: config file used without `--config`; `configs/NAME.py` is
      looked for in its folder when there is none in the current folder.
    bare: flags of text that may stand alone, as --demo, and names of their
      values, for help.

  Returns:
    (flags, the validated config).

  Raises:
    flags.Error: one sentence about the first mistake of the command line.
    SystemExit: `--help` or `--version` was answered.
  """
  _answer_version(argv[1:])
  where, rest = _take_config(argv)
  # Before the config is read, which may set options of these entries.
  _register_own(rest[1:])
  shipped = default_config.parent
  config = config_files.load(where or str(default_config), shipped)
  values = flags.FlagValues()
  define(values)
  # Before the overrides are read: help is wanted most where they are wrong.
  asked = _help_asked(rest[1:])
  if asked:
    print(help_text.about(asked, config))
    raise SystemExit(0)
  if asked is not None:
    where = where or f'{config_files.FOLDER}/{default_config.name}'
    kind = type(config_files.load(str(default_config), shipped))
    configs = config_files.shipped_for(kind, shipped)
    print(help_text.text(doc, values, config, where, bare, shipped=configs))
    raise SystemExit(0)
  alone = {dashes + name for name in bare for dashes in ('-', '--')}
  # absl would take the next argument for the value of a flag that stands alone.
  rest = [f'{arg}=' if arg in alone else arg for arg in rest]
  config, extra = _overridden(config, rest, values)
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
    argv: arguments, the program's name first.
    doc: description of the command, for --help, which ends the process.
    define: function that defines the flags.

  Raises:
    flags.Error: an unknown flag, or an argument that is none.
  """
  _answer_version(argv[1:])
  values = flags.FlagValues()
  define(values)
  if _help_asked(argv[1:]) is not None:
    print(help_text.of_flags(doc, values))
    raise SystemExit(0)
  extra = _read(values, list(argv))[1:]
  if extra:
    raise flags.Error(f'Unexpected argument {extra[0]!r}.')
  return values


def _take_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
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


def _answer_version(arguments: Sequence[str]) -> None:
  """Prints the versions and ends the process, where --version asks for it."""
  if any(argument in ('--version', '-version') for argument in arguments):
    print(f'specjax {specjax.__version__} (jax {jax.__version__})')
    raise SystemExit(0)


def _help_asked(arguments: Sequence[str]) -> str | None:
  """NAME of --help=NAME, '' of --help alone; None without either."""
  for argument in arguments:
    name, _, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and name in ('help', 'h', 'helpfull'):
      return value
  return None


def _options(values: flags.FlagValues, config: Any = None) -> list[str]:
  """All options of a command, as they are typed."""
  known = [f'--{name}' for name in values if not name.startswith('config')]
  known += ['--help', '--version']
  if config is not None:
    known.append('--config')
    every = help_text.settings(config)
    known += [f'--config.{one.path}' for one in every if not one.is_group]
  return known


def _unknown(option: str, known: Sequence[str]) -> flags.Error:
  hint = suggestions.question(option, known)
  return flags.Error(f'Unknown option {option}{hint} --help lists all of them.')


def _read(
  values: flags.FlagValues, argv: Sequence[str], config: Any = None
) -> list[str]:
  """Parses the flags; returns the arguments that are no flags."""
  try:
    return values(argv)
  except flags.IllegalFlagValueError as error:
    raise flags.Error(suggestions.plainly(str(error))) from None
  except flags.UnrecognizedFlagError as error:
    known = _options(values, config)
    raise _unknown(f'--{error.flagname}', known) from None


def _overridden(
  config: Any, argv: Sequence[str], values: flags.FlagValues
) -> tuple[Any, list[str]]:
  """(the config with its overrides, the arguments that are no options)."""
  _check_overrides(argv, config, values)
  config, argv = config_files.with_words(config, argv)
  quoted = [_with_quotes(arg, config) for arg in argv]
  try:
    config_flags.DEFINE_config_dataclass(
      'config', config, flag_values=values, sys_argv=quoted
    )
    extra = _read(values, quoted, config)[1:]
  except flags.Error:
    raise
  except Exception as error:
    raise flags.Error(f'Bad config override: {error}') from None
  # The flag holds a copy, and the overrides are in the copy.
  return values['config'].value, extra


def _check_overrides(
  argv: Sequence[str], config: Any, values: flags.FlagValues
) -> None:
  """Refuses overrides of fields that the config does not have."""
  for arg in argv[1:]:
    name = arg.lstrip('-').split('=', 1)[0]
    if not arg.startswith('-') or not name.startswith(('config.', 'noconfig.')):
      continue
    holder, path = config, name.split('.')[1:]
    _check_moved(path, config)
    for part in path:
      if part not in _fields(holder):
        raise _unknown(f'--config.{".".join(path)}', _options(values, config))
      holder = getattr(holder, part)


def _with_quotes(arg: str, config: Any) -> str:
  """Puts words of a list in quotes, which ml_collections evaluates.

  In:  '--config.verifier=match,block'
  Out: "--config.verifier=('match', 'block')"
  """
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
  new = moved.MOVED.get('.'.join(path), moved.MOVED.get(group))
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
