#!/usr/bin/env python
"""Rewrites the generated parts of the documents.

  python .ci/documents.py

Generated are the tables of drafters and rules in README.md, all of
configs/README.md, and the printed output of README.md: a block of text right
behind a block of Python or of shell commands is what that block prints.
`tests/test_documents.py` fails where one of them is out of date.
"""

import importlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from specjax.decoding.drafters import registry as drafters  # noqa: E402
from specjax.decoding.verifiers import entry as verifier_entry  # noqa: E402
from specjax.decoding.verifiers import registry as verifiers  # noqa: E402

README = ROOT / 'README.md'
CONFIGS = ROOT / 'configs' / 'README.md'
# Modules of the commands in a checkout, where nothing may be installed.
COMMANDS = {
  'specjax-benchmark': 'decode.benchmark',
  'specjax-certify': 'decode.certify',
  'specjax-convert': 'train.convert',
  'specjax-decode': 'decode.main',
  'specjax-label': 'train.label',
  'specjax-tokenizer': 'train.tokenizer',
  'specjax-train': 'train.main',
}
_LINES = r'((?:(?!```)[^\n]*\n)*)```'
_PRINTED = re.compile(rf'^```(python|sh)\n{_LINES}\n\n```text\n{_LINES}$', re.M)


class Block(NamedTuple):
  """A block of code and the output that the document shows behind it."""

  language: str
  code: str
  output: str


def blocks(text: str) -> list[Block]:
  """The blocks of a document that show their output."""
  return [Block(*found) for found in _PRINTED.findall(text)]


def run(block: Block) -> str:
  """Standard output of a block, run at the root of the checkout.

  Raises:
    RuntimeError: the block fails.
  """
  with tempfile.TemporaryDirectory() as folder:
    for name, module in COMMANDS.items():
      command = pathlib.Path(folder, name)
      command.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
      command.chmod(0o755)
    interpreter = {
      'python': [sys.executable, '-c'],
      'sh': ['bash', '-euo', 'pipefail', '-c'],
    }[block.language]
    done = subprocess.run(
      [*interpreter, block.code],
      cwd=ROOT,
      env=os.environ
      | {
        'PATH': f'{folder}:{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
      },
      capture_output=True,
      text=True,
      check=False,
    )
  if done.returncode:
    raise RuntimeError(f'{block.code}\nfails:\n{done.stderr}')
  return done.stdout


def with_output(text: str) -> str:
  """A document with the output that its blocks print now."""

  def renewed(found: re.Match) -> str:
    block = Block(*found.groups())
    return f'```{block.language}\n{block.code}```\n\n```text\n{run(block)}```'

  return _PRINTED.sub(renewed, text)


def _table(*rows: tuple[str, ...]) -> str:
  lines = [f'| {" | ".join(row)} |' for row in rows]
  return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def drafters_table() -> str:
  """The registered drafters, as `--drafter` takes them."""
  rows = [('`--drafter=`', 'proposes', 'trained')]
  for entry in drafters.BUILT_IN:
    name = f'`{entry.name}`'
    if entry.families:
      name = f'`FOLDER` ({entry.name})'
    elif entry.takes:
      name = f'`{entry.name}:{entry.takes.replace(" ", "_")}`'
    rows.append((name, entry.summary, 'yes' if entry.needs_training else 'no'))
  return _table(*rows)


def rules_table() -> str:
  """The registered verification rules."""
  rows = [('`--config.verifier=`', 'keeps', 'exact for', 'trees')]
  for entry in verifiers.BUILT_IN:
    law = {'argmax': 'greedy decoding', 'sampling': 'sampling'}
    exact = law[entry.exact_for]
    if entry.exact_when is verifier_entry.never:
      exact = 'nothing'
    elif entry.exact_when is not verifier_entry.always:
      exact += ', with default options'
    trees = 'yes' if entry.trees else 'no'
    rows.append((f'`{entry.name}`', entry.summary, exact, trees))
  return _table(*rows)


PARTS = {'drafters': drafters_table, 'rules': rules_table}


def with_parts(text: str) -> str:
  """A document with generated tables between their markers."""
  for name, make in PARTS.items():
    begin, end = f'<!-- {name}: .ci/documents.py -->', f'<!-- {name}: end -->'
    pattern = f'{re.escape(begin)}.*?{re.escape(end)}'
    part = f'{begin}\n{make()}\n{end}'
    text, count = re.subn(pattern, lambda _, part=part: part, text, flags=re.S)
    if count != 1:
      raise ValueError(f'The document has {count} parts {name}, not one.')
  return text


_HEAD = """# Configs

`--config=configs/FILE.py:NAME` of a command takes its settings from a variant
of a file, and `--config.FIELD=VALUE` changes one field. An installed command
finds these files without a checkout; a file of your own needs a function
`get_config(name='')` that returns the settings.

<!-- Printed by .ci/documents.py from the table VARIANTS of each file. -->
"""


def config_files() -> list[str]:
  """Names of the config files, without their ending."""
  return sorted(path.stem for path in (ROOT / 'configs').glob('[a-z]*.py'))


def configs_document() -> str:
  """configs/README.md: every config file, its commands and variants."""
  sections = map(_config_section, config_files())
  return _HEAD + '\n' + '\n\n'.join(sections) + '\n'


def _config_section(name: str) -> str:
  module = importlib.import_module(f'configs.{name}')
  about = module.__doc__.split('\nReferences:')[0].strip()
  commands, rows = [], [('variant', 'makes', 'last measured')]
  seen = set()
  for variant in module.VARIANTS:
    where = f'configs/{name}.py' + f':{variant.name}' * bool(variant.name)
    if variant.command not in seen:
      seen.add(variant.command)
      commands.append(variant.command.replace('{config}', where))
    shown = f'`:{variant.name}`' if variant.name else '(none)'
    rows.append((shown, variant.makes, variant.measured))
  code = '\n\n'.join(commands)
  return f'## {name}.py\n\n{about}\n\n```sh\n{code}\n```\n\n{_table(*rows)}'


def main() -> None:
  """Rewrites what is out of date."""
  CONFIGS.write_text(configs_document(), encoding='utf-8')
  text = with_parts(README.read_text(encoding='utf-8'))
  README.write_text(with_output(text), encoding='utf-8')


if __name__ == '__main__':
  main()
