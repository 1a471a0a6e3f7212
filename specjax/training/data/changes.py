"""Whether a run's files are those that it began with."""

from collections.abc import Sequence
import hashlib
import os


def digests(paths: Sequence[str]) -> dict[str, list]:
  """{path: [size in bytes, SHA-256]} of files."""
  found = {}
  for path in paths:
    with open(path, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    found[path] = [os.path.getsize(path), digest]
  return found


def between(before: dict, now: dict, step: int) -> list[str]:
  """A sentence for each file that is another than at a checkpoint.

  Args:
    before: result of `digests` when the checkpoint was written.
    now: result of `digests`.
    step: step of the checkpoint.
  """
  notes = []
  for path, (size, digest) in now.items():
    was = before.get(path, [size, digest])
    if list(was) != [size, digest]:
      notes.append(
        f'Note: {path} has changed since checkpoint {step} ({was[0]} bytes '
        f'then, {size} now), so the run is not what it would have been without '
        'the stop.'
      )
  return notes
