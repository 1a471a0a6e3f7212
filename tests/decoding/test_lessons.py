"""The lessons of `specjax/decoding/README.md` run, and its tour is true."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / 'specjax' / 'decoding' / 'README.md'
TEXT = README.read_text(encoding='utf-8')
LESSONS = {'Your own drafter': 2, 'Your own verifier': 1, 'Your own model': 1}
MOST_LINES, MOST_STEPS, MOST_BYTES = 45, 15, 16 * 1024
TOUR = "A drafter's way from `decode.main` to the loop"


def section(title: str) -> str:
  """Returns the text below a heading of the second level."""
  (found,) = re.findall(
    rf'^## {re.escape(title)}$(.*?)(?=^## |\Z)', TEXT, re.M | re.S
  )
  return found


def blocks(title: str) -> list[str]:
  """The Python blocks under a heading."""
  return re.findall(r'^```python\n(.*?)^```$', section(title), re.M | re.S)


def run(folder, *argv: str) -> subprocess.CompletedProcess:
  """Runs Python in a folder, with the repository on its path alone."""
  return subprocess.run(
    [sys.executable, *argv],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )


def test_a_reader_finds_every_lesson_and_little_else():
  assert {title: len(blocks(title)) for title in LESSONS} == LESSONS
  assert len(re.findall('^```python$', TEXT, re.M)) == sum(LESSONS.values())
  for block in blocks('Your own drafter'):
    assert len(block.splitlines()) <= MOST_LINES
  assert len(TEXT.encode()) <= MOST_BYTES
  lines = [line for line in TEXT.splitlines() if not line.startswith('|')]
  assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
  'title, index', [(t, i) for t, count in LESSONS.items() for i in range(count)]
)
def test_a_lesson_runs_in_an_empty_folder(tmp_path, title, index):
  done = run(tmp_path, '-c', blocks(title)[index])
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip()
  assert not list(tmp_path.iterdir())


def test_the_drafters_are_no_shipped_ones():
  one, two = blocks('Your own drafter')
  assert 'log_probs' not in one and 'has_log_probs=True' in two
  for block in (one, two):
    made = {
      node.name
      for node in ast.walk(ast.parse(block))
      if isinstance(node, ast.FunctionDef)
    }
    assert made >= {'init', 'propose', 'observe'}
    assert 'specjax.decoding' not in block


def steps() -> list[list[tuple[pathlib.Path, str]]]:
  """(file, function) pairs of every step of the tour."""
  numbered = re.split(r'^(\d+)\. ', section(TOUR), flags=re.M)[1:]
  assert [int(n) for n in numbered[::2]] == [*range(1, len(numbered) // 2 + 1)]
  found = []
  for text in numbered[1::2]:
    named = re.findall(r'`([\w/]+\.py):(\w+)`', text)
    paths = [(ROOT / file, ROOT / 'specjax' / file) for file, _ in named]
    found.append(
      [
        (here if here.exists() else below, function)
        for (here, below), (_, function) in zip(paths, named, strict=True)
      ]
    )
  return found


def test_the_tour_names_functions_that_there_are():
  tour = steps()
  assert 10 <= len(tour) <= MOST_STEPS
  for step in tour:
    assert step
    for file, function in step:
      tree = ast.parse(file.read_text(encoding='utf-8'))
      names = [n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
      assert function in names, (file, function)


_DRAFTER = """
import jax.numpy as jnp
import specjax

def init(params, prompt, prefilled, *, capacity):
  return prefilled.last_token

def propose(params, last, view):
  return specjax.Draft(jnp.stack([last, last], axis=1)), last

def observe(params, last, observation):
  return observation.tokens[:, 0]

ECHO = specjax.Drafter(init, propose, observe, 2, 2)
"""

_FOLLOW = """
import json, sys
from decode import main
from specjax.inference import assemble

# The estimate of memory has bound the drafter before the run asks for it.
assemble._bound = assemble._bound.__wrapped__
wanted, calls = json.loads(sys.argv[1]), []

def note(frame, event, argument):
  call = [frame.f_code.co_filename, frame.f_code.co_name]
  if event == 'call' and call in wanted:
    calls.append(call)

sys.setprofile(note)
main.main(['decode.main', *sys.argv[2:]])
sys.setprofile(None)
with open('calls.json', 'w') as file:
  json.dump(calls, file)
"""


def test_the_tour_is_the_way_that_a_run_takes(tmp_path):
  target = tiny.save(tmp_path / 'target', seed=0)
  (tmp_path / 'echo.py').write_text(_DRAFTER)
  (tmp_path / 'prompts.txt').write_text('the cat\n')
  tour = [[str(file), function] for step in steps() for file, function in step]
  done = run(
    tmp_path,
    '-c',
    _FOLLOW,
    json.dumps(tour),
    f'--target={target}',
    '--drafter=echo.py:ECHO',
    '--input=prompts.txt',
    '--config.max_new_tokens=5',
    '--baseline=none',
    '--config.explain=false',
  )
  assert done.returncode == 0, done.stderr
  calls = iter(json.loads((tmp_path / 'calls.json').read_text()))
  for place in tour:
    assert place in calls, f'{place} is not called after the step before it'
