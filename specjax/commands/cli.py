"""What the commands share: flags, config files, messages and exit status.

Standard output carries results only; everything else goes to standard error.
Exit status 0 means that all of it worked, 1 a failure told in one line, 2 bad
usage. Only this file and the commands touch flags.

A config file defines `get_config(arg='') -> dataclass`. Its fields are
overridden from the command line by ml_collections. The file itself is loaded
here, because ml_collections answers a broken one with a traceback or with an
object that fails later.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import inspect
import json
import logging
import os
import pathlib
import signal
import sys
import threading
from typing import Any, Callable, Iterator, Optional, Sequence
import warnings

from absl import flags
import jax
from ml_collections import config_flags

from specjax.distributed import processes as processes_lib

DefineFlags = Callable[[flags.FlagValues], None]

# Signals that asked the running command to stop.
_arrived: list[int] = []


def note(*words: Any) -> None:
  """Prints to standard error; of several processes the first does."""
  if processes_lib.is_first():
    print(*words, file=sys.stderr, flush=True)


def stderr() -> Any:
  """Where progress bars go."""
  return sys.stderr if processes_lib.is_first() else open(os.devnull, 'w')


def call(main: Callable[[Sequence[str]], None], argv=None) -> int:
  """Runs a command and turns what goes wrong into one line.

  Args:
    main: takes the arguments, the program's name first.
    argv: by default `sys.argv`; then an interrupted process ends here.

  Returns:
    The exit status.
  """
  try:
    with _interruptible():
      main(list(sys.argv if argv is None else argv))
    return 0
  except flags.Error as error:
    return _fail(error, 2)
  except KeyboardInterrupt as error:
    status = _fail(error if error.args else 'interrupted.', 1)
    if argv is None:
      # JAX may be compiling in threads that do not survive a tidy end.
      sys.stdout.flush()
      os._exit(status)
    return status
  except BrokenPipeError:
    # Whoever read the output has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (ValueError, OSError, MemoryError, ArithmeticError) as error:
    return _fail(error, 1)
  except Exception as error:  # A bug, told in one line all the same.
    if os.environ.get('SPECJAX_TRACEBACK'):
      raise
    if 'RESOURCE_EXHAUSTED' in str(error):
      return _fail(
        'the device has too little memory; lower batch_size or '
        'max_new_tokens, or use dtype=bfloat16.',
        1,
      )
    return _fail(
      f'unexpected {type(error).__name__}: {error} (SPECJAX_TRACEBACK=1 shows '
      'where).',
      1,
    )


def _fail(error: Any, status: int) -> int:
  processes_lib.before_failure()
  print('error:', ' '.join(str(error).split()), file=sys.stderr, flush=True)
  processes_lib.after_failure(status)
  return status


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
  """SIGTERM and SIGINT raise KeyboardInterrupt, see `check_interrupt`."""
  _arrived.clear()

  def interrupt(number, frame):
    _arrived.append(number)
    raise KeyboardInterrupt

  before = {}
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGTERM, signal.SIGINT):
      before[number] = signal.signal(number, interrupt)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def check_interrupt() -> None:
  """Raises KeyboardInterrupt if a signal came whose own exception got lost.

  Python drops what is raised inside a garbage collection callback, and JAX has
  one; long loops therefore ask here from time to time.
  """
  if _arrived:
    raise KeyboardInterrupt


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
  processes_lib.start(
    processes, json.loads(json.dumps(given | {'config': plain}, default=str))
  )


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
  config = _load_config(where or str(default_config), default_config.parent)
  values = flags.FlagValues()
  define(values)
  if any(arg in ('--help', '-h', '-help', '--helpfull') for arg in rest[1:]):
    _print_help(doc, values, config)
    raise SystemExit(0)
  _check_overrides(rest, config)
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


def _check_overrides(argv: Sequence[str], config: Any) -> None:
  """Refuses overrides of fields that the config does not have."""
  for arg in argv[1:]:
    name = arg.lstrip('-').split('=', 1)[0]
    if not arg.startswith('-') or not name.startswith(('config.', 'noconfig.')):
      continue
    holder, path = config, name.split('.')[1:]
    for depth, part in enumerate(path):
      known = (
        [field.name for field in dataclasses.fields(holder)]
        if dataclasses.is_dataclass(holder)
        else []
      )
      if part not in known:
        full = '.'.join(path[: depth + 1])
        close = difflib.get_close_matches(part, known, 1)
        hint = f'did you mean {close[0]}? ' if close else ''
        raise flags.Error(
          f'Unknown config field {full}; {hint}Known: {", ".join(known)}.'
        )
      holder = getattr(holder, part)


def _print_help(doc: str, values: flags.FlagValues, config: Any) -> None:
  print(doc.strip(), '\n\nFlags:')
  shown = values.get_help().splitlines()
  print('\n'.join(line for line in shown if line.startswith(' ')))
  print('\nConfig fields (--config.NAME=VALUE) and their values:')
  for field in dataclasses.fields(config):
    print(f'  {field.name} = {getattr(config, field.name)!r}')
  print('\n' + inspect.cleandoc(type(config).__doc__ or ''))


def _warn(message: Any, *where: Any, **more: Any) -> None:
  """A warning as one line, without the place in the code."""
  del where, more
  note('warning:', ' '.join(str(message).split()))


def prepare_process() -> None:
  """Quiet libraries, and compiled programs kept between runs.

  The cache of compiled programs is JAX's own; it lies in
  JAX_COMPILATION_CACHE_DIR if that is set, else in SPECJAX_CACHE, else in
  `~/.cache/specjax`.
  """
  warnings.showwarning = _warn
  # Orbax warns of what nobody asked for, and logs what it raises.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(encoding='utf-8', errors='replace')
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    folder = os.environ.get('SPECJAX_CACHE', '~/.cache/specjax')
    path = pathlib.Path(folder).expanduser() / 'jax'
    with contextlib.suppress(OSError):
      path.mkdir(parents=True, exist_ok=True)
      jax.config.update('jax_compilation_cache_dir', str(path))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
