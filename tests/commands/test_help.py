"""`--help` shows every setting, with the sentence of its dataclass."""

import dataclasses
import re
import types

import jax
import pytest

from decode import benchmark
from decode import certify
from decode import main as decode
import specjax
from specjax import validation
from specjax.commands import cli
from specjax.commands import config_files
from specjax.commands import help_text
from specjax.decoding.drafters import registry as drafters
from specjax.decoding.verifiers import registry as verifiers
from specjax.training.families import registry as families
from tests.helpers import source_code
from train import convert
from train import label
from train import main as train
from train import tokenizer

FOLDER = source_code.ROOT / 'configs'
WITH_CONFIG = {
  'decode.main': decode,
  'decode.benchmark': benchmark,
  'decode.certify': certify,
  'train.main': train,
  'train.label': label,
}
WITHOUT = {'train.convert': convert, 'train.tokenizer': tokenizer}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)


def shown(capsys, module: types.ModuleType, *arguments: str) -> str:
  """Standard output of a command that ends after its help, on one line."""
  with pytest.raises(SystemExit) as leaving:
    module.main([module.__name__, *arguments])
  assert leaving.value.code == 0
  return ' '.join(capsys.readouterr().out.split())


def default(module: types.ModuleType):
  return config_files.load(str(module.CONFIG), FOLDER)


def configs() -> list[str]:
  """All variants of all shipped files."""
  kinds = {type(default(module)) for module in WITH_CONFIG.values()}
  return [
    one.name for kind in kinds for one in config_files.shipped_for(kind, FOLDER)
  ]


@pytest.mark.parametrize('name', WITH_CONFIG)
def test_every_setting_is_described(name, capsys):
  module = WITH_CONFIG[name]
  text = shown(capsys, module, '--help')
  every = list(help_text.settings(default(module)))
  assert len(every) > 30
  for one in every:
    assert one.sentence, one.path
    head = f' {one.path}.* ' if one.is_group else f' {one.path}='
    sentence = ' '.join(one.sentence[1:].rstrip('.').split())
    behind = text.split(head)[1]
    assert sentence in behind[: len(sentence) + 100], one.path
    if one.words:
      assert f'One of: {", ".join(one.words)}.' in text, one.path


@pytest.mark.parametrize('name', WITH_CONFIG)
def test_every_shipped_config_is_listed(name, capsys):
  module = WITH_CONFIG[name]
  text = shown(capsys, module, '--help')
  text = text.split('Configs that are shipped:')[1]
  listed = set(re.findall(r' configs/(\w+\.py)(?::\w+)? ', text))
  kind = type(default(module))
  files = {
    path.name
    for path in FOLDER.glob('[!_]*.py')
    if isinstance(config_files.load(str(path), FOLDER), kind)
  }
  if kind is type(default(decode)):
    files.remove('certify.py')
  assert listed == files


def test_the_settings_of_every_config_have_sentences():
  for name in configs():
    for one in help_text.settings(config_files.load(name, FOLDER)):
      assert one.sentence, (name, one.path)


def test_sentences_begin_with_a_noun_and_end():
  for module in WITH_CONFIG.values():
    for one in help_text.settings(default(module)):
      first = one.sentence.split()[0].lower()
      assert first not in ('of', 'what', 'how', 'if', 'see', 'as', 'is'), one
      assert not re.search(r'\b(tell|tells|say|says)\b', one.sentence), one


@pytest.mark.parametrize('name', WITH_CONFIG)
def test_flags_have_sentences(name, capsys):
  text = shown(capsys, WITH_CONFIG[name], '--help')
  assert 'repeat this option' not in text
  flags = re.findall(r' --(\w+)(?:\[?=\S+)? ([A-Z])', text)
  assert {'config', 'help'} < {flag for flag, _ in flags}


def test_demo_may_stand_alone(capsys):
  assert ' --demo[=SENTENCE] ' in shown(capsys, decode, '-h')


@pytest.mark.parametrize('name', WITH_CONFIG | WITHOUT)
def test_every_command_has_its_version(name, capsys):
  module = (WITH_CONFIG | WITHOUT)[name]
  wanted = f'specjax {specjax.__version__} (jax {jax.__version__})'
  assert shown(capsys, module, '--version') == wanted
  # As for help, whatever else is wrong with the line.
  assert shown(capsys, module, '--no_such=1', '--version') == wanted
  assert ' --version Prints the versions' in shown(capsys, module, '--help')


@pytest.mark.parametrize('name', WITHOUT)
def test_commands_without_a_config(name, capsys):
  module = WITHOUT[name]
  text = shown(capsys, module, '--help')
  assert module.__doc__.split('\n')[0] in text
  assert ' --input=VALUE ' in text
  assert (' One of: safetensors,' if module is convert else '=unigram ') in text
  assert '<' not in text.split('Flags:')[1].replace('</s>', '')


def test_one_drafter_rule_or_family_alone(capsys):
  entries = [(decode, entry) for entry in drafters.entries()]
  entries += [(decode, entry) for entry in verifiers.entries()]
  entries += [(train, family) for family in families.families()]
  for module, entry in entries:
    text = shown(capsys, module, f'--help={entry.name}')
    for field in dataclasses.fields(entry.options):
      assert f'.{entry.name}.{field.name}' in text, entry.name
    if not dataclasses.fields(entry.options):
      assert 'It has no settings.' in text


@pytest.mark.parametrize(
  'module, name, words',
  [
    (train, 'medusa', 'families.speculator.feature=auto'),
    (decode, 'eagle', 'drafters.speculator.tree='),
    (train, 't5', '--config.model.family=t5|decoder'),
    (train, 'data', 'data.joined_fraction=0.12'),
    (decode, 'mesh', 'mesh.shape=()'),
    (decode, 'hybrid', '--drafter=hybrid:DRAFT_MODEL'),
    (decode, 'suffix', '--drafter=suffix'),
    (certify, 'lenient', '--config.verifier=lenient'),
  ],
)
def test_a_part_is_found_by_its_name(module, name, words, capsys):
  assert words in shown(capsys, module, f'--help={name}')


def test_a_part_that_does_not_exist(capsys):
  assert cli.call(decode.main, ['x', '--help=sufix']) == 2
  assert 'did you mean suffix?' in capsys.readouterr().err


def test_the_defaults_are_those_of_the_config(capsys):
  text = shown(capsys, decode, '--config=configs/decode.py:sample', '--help')
  assert ' temperature=1.0 ' in text and 'configs/decode.py:sample. ' in text


def test_help_shows_the_words_that_are_checked():
  checked = 0
  for name in configs():
    for holder, prefix in _groups(config_files.load(name, FOLDER)):
      for field in dataclasses.fields(holder):
        words = validation.choices_of(field)
        if not field.metadata.get('checked'):
          continue
        checked += 1
        several = isinstance(getattr(holder, field.name), tuple)
        for word in words:
          setattr(holder, field.name, (word,) if several else word)
          validation.check_choices(holder)
        setattr(holder, field.name, ('?',) if several else '?')
        with pytest.raises(ValueError, match=f'^{prefix}{field.name} must be'):
          validation.check_choices(holder, prefix)
        setattr(holder, field.name, (words[0],) if several else words[0])
  assert checked > 50


def _groups(config, prefix=''):
  yield config, prefix
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      yield from _groups(value, f'{prefix}{field.name}.')


@dataclasses.dataclass
class _Base:
  """Bounds.

  Attributes:
    low, high: bounds, of
      which: two.

  More about them.
    other: none of them.
  """

  low: int = 0
  high: int = 1


@dataclasses.dataclass
class _Extended(_Base):
  """More.

  Attributes:
    high: upper bound.
    bare_: last.
  """

  bare_: int = 2
  other: int = 3


def test_attributes_are_read():
  assert help_text.sentences(_Base) == dict.fromkeys(
    ('low', 'high'), 'bounds, of which: two.'
  )
  found = {one.path: one.sentence for one in help_text.settings(_Extended())}
  assert found == {
    'low': 'bounds, of which: two.',
    'high': 'upper bound.',
    'bare_': 'last.',
    'other': '',
  }


_FILE = '''"""First line.

{more}
"""
import types

from specjax.inference.config import DecodeConfig

VARIANTS = {table}


def get_config(name: str = '') -> DecodeConfig:
  return DecodeConfig()
'''


@pytest.mark.parametrize(
  'table, listed',
  [
    ('None', {'configs/own.py': 'First line.'}),
    (
      "{'': {'makes': 'answers'}, 'quick': {'makes': 'fewer answers'}}",
      {'configs/own.py': 'answers', 'configs/own.py:quick': 'fewer answers'},
    ),
    (
      "(types.SimpleNamespace(name='quick', makes='few'),)",
      {'configs/own.py:quick': 'few'},
    ),
  ],
)
def test_variants_of_a_file(table, listed, tmp_path):
  text = _FILE.replace('{table}', table)
  (tmp_path / 'own.py').write_text(text, encoding='utf-8')
  kind = type(default(decode))
  assert dict(config_files.shipped_for(kind, tmp_path)) == listed
