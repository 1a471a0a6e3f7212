"""Runs a script as if some packages were not installed."""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys

import specjax

_HIDE = """
import importlib, sys

class Hide:
  def __init__(self, finder):
    self.finder = finder

  def __getattr__(self, name):
    return getattr(self.finder, name)

  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in sys.argv[1].split(','):
      return None
    return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
"""


def run(script: str, packages: Sequence[str], *arguments: str):
  """Runs Python code in a process of its own, at the project's root.

  Args:
    script: the code; `sys` and `importlib` are there, and sys.argv[2:] are the
      arguments.
    packages: top-level names that cannot be imported.
    *arguments: arguments of the script.

  Returns:
    `subprocess.CompletedProcess`, with text.
  """
  return subprocess.run(
    [sys.executable, '-c', _HIDE + script, ','.join(packages), *arguments],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(specjax.__file__).resolve().parents[1],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    check=False,
  )
