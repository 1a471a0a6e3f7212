"""A signal while a command of ours still imports its libraries.

JAX takes about a second to import. An interrupt in that time would be shown as
a trace out of somebody's module, and SIGTERM would end without a word. This
module is imported before all others and knows the standard library alone. Once
a command runs, `specjax.commands.cli` handles signals.
"""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

# `python -m decode.main` runs a module of these packages.
_LEAVES = ('decode', 'train', 'specjax.decode', 'specjax.train')
_SCRIPT = 'specjax-'
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def is_command(argv: list[str], whole: list[str]) -> bool:
  """Whether a process is one of our commands.

  Others that import specjax keep their own handling of signals.

  Args:
    argv: `sys.argv`.
    whole: `sys.orig_argv`, the arguments of the interpreter too.
  """
  # bin/specjax-decode x:      argv [bin/specjax-decode x], whole [python
  #   bin/specjax-decode x]
  # python -m decode.main x:   argv [decode/main.py x], or [-m x] while the
  #   module is looked for, whole [python -m decode.main x]
  # a worker process of ours:  argv of its parent, whole [python -c ..]
  place = len(whole) - len(argv)
  if not argv or place < 1 or whole[place + 1 :] != argv[1:]:
    return False
  program = whole[place]
  if whole[place - 1] == '-m':
    return program.rpartition('.')[0] in _LEAVES
  return program == argv[0] and os.path.basename(program).startswith(_SCRIPT)


def _end(number: int, frame: Any) -> NoReturn:
  """Ends the process with one line; libraries are half imported."""
  del frame
  os.write(2, b'error: interrupted.\n')
  os._exit(128 + number)


if threading.current_thread() is threading.main_thread() and is_command(
  sys.argv, sys.orig_argv
):
  for _number in _SIGNALS:
    # One that the caller ignores, as nohup and `&` in a script do, stays so.
    if signal.getsignal(_number) is not signal.SIG_IGN:
      signal.signal(_number, _end)
