"""Shared by all commands: messages, signals and exit status.

Standard output carries results only; everything else goes to standard error. So
`specjax-decode .. > answers.txt` has answers alone, and `| head` cuts no
warning. Exit status 0 means that all of it worked, 1 a failure with one line
about it, 2 bad usage, 130 an interrupt (SIGINT), 143 SIGTERM, and 141 that the
reader of standard output closed it. No other package touches flags; `parsing`
reads them.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
from typing import Any
import warnings

from absl import flags
import jax
import tqdm

from specjax import cache
from specjax import user_files
from specjax.distributed import mesh as mesh_lib
from specjax.distributed import processes as processes_lib
from specjax.distributed import watch

# Signals that asked the running command to stop.
_arrived: list[int] = []


def note(*words: Any) -> None:
  """Prints to standard error; only the first of several processes does."""
  if processes_lib.is_first():
    # Above a progress bar; `print` would continue the bar's own line.
    tqdm.tqdm.write(' '.join(map(str, words)), file=sys.stderr)


def stderr() -> Any:
  """The stream of progress bars; of other processes than the first, none."""
  return sys.stderr if processes_lib.is_first() else open(os.devnull, 'w')


def run(main: Callable[[Sequence[str]], Any], failure: int = 0) -> None:
  """Runs a command on this process's arguments and ends the process.

  Args:
    main: function of the arguments, the program's name first; may return an
      exit status.
    failure: exit status of everything that goes wrong but for signals and
      closed pipes; 0 takes 1, or 2 for bad usage.
  """
  sys.exit(call(main, failure=failure))


def call(
  main: Callable[[Sequence[str]], Any],
  argv: Sequence[str] | None = None,
  *,
  failure: int = 0,
) -> int:
  """Runs a command and turns a failure into one line.

  Args:
    main: function of the arguments, as for `run`.
    argv: arguments; by default `sys.argv`, and an interrupt ends the process.
    failure: exit status of failures, as for `run`.

  Returns:
    The exit status.
  """
  try:
    with _interruptible(is_last=argv is None):
      return _flushed(main, list(sys.argv if argv is None else argv))
  except (flags.Error, mesh_lib.MeshError) as error:
    return _fail(error, failure or 2)
  except KeyboardInterrupt as error:
    return _interrupted(error, ends=argv is None)
  except BrokenPipeError:
    # The reader (`| head -1`) has enough, which is no failure. Python would
    # write to the closed pipe once more at its end, so the output goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return of_signal(signal.SIGPIPE)
  except (ValueError, OSError, MemoryError, ArithmeticError) as error:
    return _fail(error, failure or 1)
  except Exception as error:  # A bug, in one line all the same.
    if _arrived:
      # XLA wraps an interrupt that came inside a callback.
      return _interrupted(KeyboardInterrupt(), ends=argv is None)
    if os.environ.get('SPECJAX_TRACEBACK'):
      raise
    return _fail(_unexpected(error), failure or 1)


def _interrupted(error: KeyboardInterrupt, *, ends: bool) -> int:
  status = of_signal(_arrived[0] if _arrived else signal.SIGINT)
  _fail(error if error.args else 'interrupted.', status)
  if ends:
    # JAX may be compiling in threads that do not survive a tidy end.
    _end(status)
  return status


def of_signal(number: int) -> int:
  """The exit status of a program that a signal ended: SIGINT 2 -> 130."""
  return 128 + number


def _flushed(main: Callable[[Sequence[str]], Any], argv: list[str]) -> int:
  """Runs a command and flushes its output while a failure can be caught."""
  try:
    return main(argv) or 0
  finally:
    sys.stdout.flush()


def _unexpected(error: Exception) -> str:
  if 'RESOURCE_EXHAUSTED' in str(error):
    return (
      'the device has too little memory; lower batch_size or max_new_tokens, '
      'or use dtype=bfloat16.'
    )
  return (
    f'unexpected {type(error).__name__}: {error} (SPECJAX_TRACEBACK=1 shows '
    'where).'
  )


def _fail(error: Any, status: int) -> int:
  watch.before_failure()
  print('error:', ' '.join(str(error).split()), file=sys.stderr, flush=True)
  if not watch.is_alone():
    # JAX waits for the other processes at a tidy end; they may never come.
    _end(status)
  return status


def _end(status: int) -> None:
  """Ends this process at once, without waiting for its threads."""
  sys.stdout.flush()
  os._exit(status)


def lost(sentence: str) -> None:
  """Ends a process whose job lost another one."""
  # A progress bar may stand on the line.
  print(f'\nerror: {sentence}', file=sys.stderr, flush=True)
  _end(1)


@contextlib.contextmanager
def _interruptible(is_last: bool) -> Iterator[None]:
  """SIGTERM and SIGINT raise KeyboardInterrupt inside the block.

  Args:
    is_last: whether the process ends behind the block. Its work is done then,
      and the signals are ignored: they would cut the interpreter's own end.
  """
  _arrived.clear()
  before, hook = {}, sys.unraisablehook
  if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGTERM, signal.SIGINT):
      before[number] = signal.signal(number, _interrupt)
    sys.unraisablehook = functools.partial(_raise_again, hook)
  try:
    yield
  finally:
    # Other processes may never come to a common end, which a signal must cut.
    ignores = is_last and watch.is_alone()
    for number, handler in before.items():
      signal.signal(number, signal.SIG_IGN if ignores else handler)
    sys.unraisablehook = hook


def _interrupt(number: int, frame: Any) -> None:
  _arrived.append(number)
  raise KeyboardInterrupt


def _raise_again(hook: Callable[[Any], Any], args: Any) -> None:
  """Replaces `sys.unraisablehook`, to which Python gives what it drops.

  It drops what is raised in a destructor or a garbage collection callback, and
  JAX has such a callback. An interrupt is then raised a moment later.
  """
  if not (_arrived and issubclass(args.exc_type, KeyboardInterrupt)):
    hook(args)
    return
  number = _arrived[0]
  signal.signal(signal.SIGALRM, lambda *_: _interrupt(number, None))
  signal.setitimer(signal.ITIMER_REAL, 0.01)


def check_interrupt() -> None:
  """Raises KeyboardInterrupt if a signal came whose own exception got lost.

  Libraries may catch it; long loops therefore ask here from time to time.
  """
  if _arrived:
    raise KeyboardInterrupt


def _warn(message: Any, *where: Any, **more: Any) -> None:
  """A warning as one line, without the place in the code."""
  del where, more
  note('warning:', ' '.join(str(message).split()))


def _show_log() -> None:
  """Lines of the log on standard error, as they are."""
  handler = logging.Handler()
  handler.emit = lambda record: tqdm.tqdm.write(
    handler.format(record), file=sys.stderr
  )
  # Orbax logs while it is imported, and so makes a handler that puts the level
  # and the name of the log in front. A handler of any other kind stays.
  for old in tuple(logging.root.handlers):
    if type(old) is logging.StreamHandler:
      logging.root.removeHandler(old)
  logging.basicConfig(handlers=[handler], format='%(message)s')


def prepare_process() -> None:
  """Quiet libraries, and compiled programs kept between runs.

  The cache of compiled programs is JAX's own; it lies in
  JAX_COMPILATION_CACHE_DIR if that is set, else in the cache folder of
  `specjax.cache`, which is kept within its bounds here.
  """
  warnings.showwarning = _warn
  _show_log()
  # Orbax warns of its own defaults, and logs the errors that it also raises.
  logging.getLogger('absl').setLevel(logging.CRITICAL)
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
  os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(encoding='utf-8', errors='replace')
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    programs = cache.folder('jax')
    if programs is not None:
      jax.config.update('jax_compilation_cache_dir', str(programs))
      cache.trim()
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def check_one_drafter(name: str) -> None:
  """Refuses several drafters with commas between them.

  Args:
    name: value of --drafter.

  Raises:
    flags.Error: it names several.
  """
  parts = name.split(',')
  if len(parts) < 2 or user_files.is_reference(name) or os.path.exists(name):
    return
  raise flags.Error(
    f'--drafter={name} names {len(parts)} drafters, and this command takes '
    'one; decode.benchmark compares several.'
  )
