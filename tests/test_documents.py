"""The documents are short, lead somewhere and fit the code beside them."""

import importlib.util
import pathlib
import re
import shlex

import pytest

from specjax import variants
from specjax.commands import answer_files
from specjax.commands import cli
from specjax.commands import parsing
from specjax.decoding import stats
from specjax.inference import generate as inference
from specjax.inference import summary
from tests.helpers.source_code import ROOT

# The most bytes that a document may have.
LIMITS = {
  'README.md': 8192,
  'CONTRIBUTING.md': 4096,
  'configs/README.md': 16 * 1024,
  'decode/README.md': 12 * 1024,
  'train/README.md': 12 * 1024,
  'specjax/CHANGES.md': 32 * 1024,
  'specjax/benchmark/README.md': 6 * 1024,
  'specjax/benchmark/RESULTS.md': 90 * 1024,
  'specjax/decoding/README.md': 16 * 1024,
  'specjax/distributed/README.md': 6 * 1024,
}
CARDS = (
  'specjax/assets/demo_target/README.md',
  'specjax/assets/demo_drafter/README.md',
)
CODE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)


def tool():
  """The script that writes the generated parts."""
  path = ROOT / '.ci' / 'documents.py'
  spec = importlib.util.spec_from_file_location('documents', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


DOCUMENTS = tool()


def read(name: str) -> str:
  return (ROOT / name).read_text(encoding='utf-8')


def anchors(text: str) -> set[str]:
  """Fragments that lead to the headings of a document."""
  titles = re.findall(r'^#+ (.+)$', CODE.sub('', text), re.M)
  return {
    re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles
  }


def broken_links(folder: pathlib.Path, text: str) -> list[str]:
  """Relative links of a document that lead to no file or no heading."""
  found = []
  for link in re.findall(r'\]\(([^)\s]+)\)', CODE.sub('', text)):
    path, _, anchor = link.partition('#')
    if path.startswith('https://'):
      continue
    file = (folder / path).resolve() if path else None
    if file is not None and not (file.exists() and ROOT in file.parents):
      found.append(link)
    elif anchor:
      there = file.read_text(encoding='utf-8') if file else text
      if anchor not in anchors(there):
        found.append(link)
  return found


def commands(text: str) -> list[list[str]]:
  """The commands of the project in the shell blocks of a document."""
  found = []
  for language, code in CODE.findall(text):
    if language == 'sh':
      found += _commands_of(code)
  return found


def _commands_of(code: str) -> list[list[str]]:
  found = []
  for line in code.replace('\\\n', ' ').splitlines():
    command = None
    for word in shlex.split(line, comments=True):
      if word in DOCUMENTS.COMMANDS:
        command = [word]
        found.append(command)
      elif word in ('|', '&&', ';'):
        command = None
      elif command is not None:
        command.append(word)
      elif 'specjax-' in word:
        found += _commands_of(word)
  return found


def test_every_document_has_a_limit_and_keeps_it():
  tops = ('specjax', 'configs', 'decode', 'train')
  found = {path.name for path in ROOT.glob('*.md')}
  for top in tops:
    found |= {str(p.relative_to(ROOT)) for p in (ROOT / top).rglob('*.md')}
  assert found == {*LIMITS, *CARDS}
  sizes = {name: len(read(name).encode()) for name in LIMITS}
  assert not {n: size for n, size in sizes.items() if size > LIMITS[n]}


@pytest.mark.parametrize('name', LIMITS)
def test_links_lead_to_files_and_headings(name):
  assert broken_links((ROOT / name).parent, read(name)) == []


def test_a_broken_link_is_found():
  text = '# One\n[a](README.md#map) [b](no.md) [c](README.md#no) [d](#one)'
  assert broken_links(ROOT, text) == ['no.md', 'README.md#no']


@pytest.mark.parametrize('name', LIMITS)
def test_lines_are_short(name):
  lines = [line for line in read(name).splitlines() if line[:1] != '|']
  assert max(map(len, lines)) <= 80


def test_commands_are_the_installed_ones():
  for name in (*LIMITS, *CARDS):
    assert not re.findall(r'python -m (?:decode|train)\.\w+', read(name)), name


class Parsed(Exception):
  """Raised where a command would begin its work."""


@pytest.fixture(name='parse_only')
def parse_only_fixture(monkeypatch):
  """Commands end once their arguments are read."""

  def stopping(read_arguments):
    def stop(*args, **kwargs):
      read_arguments(*args, **kwargs)
      raise Parsed

    return stop

  for name in ('parse', 'read_flags'):
    monkeypatch.setattr(parsing, name, stopping(getattr(parsing, name)))
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)


def accepted(command: list[str]) -> None:
  """Raises what a command raises while it reads its arguments."""
  module = importlib.import_module(DOCUMENTS.COMMANDS[command[0]])
  with pytest.raises(Parsed):
    module.main(command)


@pytest.mark.parametrize('name', LIMITS)
def test_every_command_is_accepted(name, parse_only):
  for command in commands(read(name)):
    accepted(command)


def test_a_wrong_option_is_found(parse_only):
  text = """```sh
run 'cd x && specjax-decode --target=T \\
    --config.num_drafts=3'
```"""
  (command,) = commands(text)
  assert command[1:] == ['--target=T', '--config.num_drafts=3']
  with pytest.raises(Exception, match='num_drafts'):
    accepted(command)


def test_the_tool_knows_the_installed_commands():
  installed = re.findall(
    r"'(specjax-\w+)': 'specjax\.([\w.]+):run'", read('setup.py')
  )
  assert dict(installed) == DOCUMENTS.COMMANDS


def test_generated_parts_are_up_to_date():
  assert read('configs/README.md') == DOCUMENTS.configs_document()
  assert read('README.md') == DOCUMENTS.with_parts(read('README.md'))


@pytest.mark.parametrize('name', DOCUMENTS.config_files())
def test_every_variant_of_a_config_is_described(name):
  module = importlib.import_module(f'configs.{name}')
  names = [variant.name for variant in module.VARIANTS]
  assert '' in names and len(set(names)) == len(names)
  for variant in module.VARIANTS:
    module.get_config(variant.name).validate()
    assert variant.makes and '--config={config} ' in variant.command
    known = rf'\d{{4}}-\d\d-\d\d: .|{variants.NOT_MEASURED}$'
    assert re.match(known, variant.measured)
  with pytest.raises(ValueError, match="Unknown variant 'nonsense'; known are"):
    module.get_config('nonsense')


@pytest.mark.parametrize(
  'block', DOCUMENTS.blocks(read('README.md')), ids=lambda b: b.language
)
def test_the_readme_shows_what_its_code_prints(block):
  assert DOCUMENTS.run(block) == block.output


def test_the_readme_shows_one_example_of_each_kind():
  made = DOCUMENTS.blocks(read('README.md'))
  assert [block.language for block in made] == ['python', 'sh']
  assert all(block.output.strip() for block in made)
  assert len(made[0].code.splitlines()) <= 8
  results = read('README.md').split('## Results')[1].split('## ')[0]
  assert 1 <= len(re.findall(r'^\| .+ [\d.]+ \|$', results, re.M)) <= 6


def test_ci_runs_the_set_up_commands():
  (code,) = [c for _, c in CODE.findall(read('README.md')) if 'pip' in c]
  ci = read('.ci/run')
  for line in code.splitlines():
    for command in line.split(' && '):
      assert re.search(rf'^(\w+=1 )?{re.escape(command)}( |$)', ci, re.M)


def test_every_result_states_its_origin():
  sections = re.split(
    r'^##+ ', read('specjax/benchmark/RESULTS.md'), flags=re.M
  )
  measured = [section for section in sections if '|---' in section]
  assert len(measured) > 10
  origin = (
    r'\*\d{4}-\d\d-\d\d, commits? [0-9a-f]{7}[^;*]*, as committed; '
    r'(EPYC|Xeon); (float32|bfloat16)[^;*]*; batch \d[^;*]*\.\*'
  )
  for section in measured:
    assert re.search(origin, section.replace('\n', ' ')), section
    assert '```sh\nspecjax-' in section, section


def test_the_fields_of_answers_and_statistics_are_defined():
  rows = re.compile(r'^\| (`\w+`(?:, `\w+`)*) \|', re.M)
  defined = rows.findall(read('decode/README.md'))
  named = set(re.findall(r'\w+', ' '.join(defined)))
  answer = inference.Answer('', '', (), 'eos', stats.Counts(), 0)
  fields = set(answer_files.record(answer))
  fields |= set(summary.summarize([answer], 1.0, 0.0))
  # Sums stand under the name of what they add up.
  assert not {f for f in fields if not named & {f, f'num_{f}'}}
