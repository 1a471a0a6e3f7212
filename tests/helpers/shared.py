"""Where the shared real checkpoints and data are, if they are here at all."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[3] / 'shared'


def path(*parts: str) -> pathlib.Path:
  """Returns a path under the shared folder; skips the test if it is absent."""
  made = SHARED.joinpath(*parts)
  if not made.exists():
    pytest.skip(f'shared/{"/".join(parts)} is not beside the repository.')
  return made


def weights(name: str) -> str:
  """Returns the folder of a real checkpoint, such as 'stories260K'."""
  return str(path('weights', name))
