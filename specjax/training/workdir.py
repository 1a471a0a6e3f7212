"""The folder of a run belongs to its settings."""

import contextlib
import json
import os

from specjax import files
from specjax import locks
from specjax.distributed import processes
from specjax.training import config as config_lib

CONFIG_FILE = 'config.json'


def _plain(config):
  # Through JSON, so that both sides hold lists and not tuples.
  return json.loads(json.dumps(config_lib.to_dict(config)))


def held(workdir: str, note: locks.Note) -> contextlib.AbstractContextManager:
  """A block in which no other run may write a folder.

  The first of several processes holds it. One that is a file is left to
  `check`.

  Args:
    workdir: folder of the run; made if it is missing, and removed at the end if
      it is empty.
    note: callback with a line where the file system knows no locks.
  """
  if os.path.isfile(workdir) or not processes.is_first():
    return contextlib.nullcontext()
  return locks.folder(workdir, note)


def check(workdir: str, config: config_lib.TrainConfig) -> None:
  """Checks that a folder is new or belongs to this run; writes nothing.

  Raises:
    NotADirectoryError: it is a file.
    ValueError: it holds a run of other settings, and the first field that
      differs is named; or settings that cannot be read.
  """
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise NotADirectoryError(f'{workdir} is a file; --workdir names a folder.')
  path = os.path.join(workdir, CONFIG_FILE)
  if not os.path.exists(path):
    return
  try:
    with open(path, encoding='utf-8') as f:
      old = files.parse_json(f.read())
    if not isinstance(old, dict):
      raise ValueError
  except ValueError:
    raise ValueError(
      f'{path} does not hold the settings of a run; take another --workdir.'
    ) from None
  found = config_lib.difference(old, _plain(config))
  if found:
    raise ValueError(
      f'{workdir} holds a run of another config: {found}; take another '
      '--workdir or the same settings.'
    )


def steps_before(workdir: str) -> int:
  """Steps of the run that a folder holds; 0 where there is none.

  Args:
    workdir: folder that `check` accepts.
  """
  path = os.path.join(workdir, CONFIG_FILE)
  if not os.path.exists(path):
    return 0
  with open(path, encoding='utf-8') as f:
    return json.load(f)['steps']


def claim(workdir: str, config: config_lib.TrainConfig) -> None:
  """Makes a run's folder and writes its settings.

  Args:
    workdir: folder that `check` accepts.
    config: settings of the run.

  Raises:
    OSError: it cannot be written.
  """
  os.makedirs(workdir, exist_ok=True)
  files.write_text(
    os.path.join(workdir, CONFIG_FILE),
    json.dumps(_plain(config), indent=2) + '\n',
  )
