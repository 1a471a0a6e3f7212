"""Errors of what is not ours name the function and the line."""

import dataclasses

import jax.numpy as jnp
import pytest

import decode.main as main_command
import specjax
from specjax import user_files
from specjax.commands import cli
from specjax.decoding import guard
from tests.helpers import own
from tests.helpers import tiny

PROMPTS = ['the cat', 'one']


@pytest.fixture(scope='module')
def target():
  return own.target()


def generate(target, **settings):
  given = dict(max_new_tokens=4, num_draft=3)
  return specjax.generate(target, PROMPTS, **given | settings)


def broken(*_, **__):
  return 1 // 0


def refused(words, function, *args, **kwargs):
  with pytest.raises(ValueError, match=words) as error:
    function(*args, **kwargs)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['init', 'propose', 'observe'])
def test_what_a_drafter_raises(target, name):
  drafter = own.successors()._replace(**{name: broken})
  refused(
    rf'^Drafter.{name} raised ZeroDivisionError \(test_guard.py, line \d+\): '
    'integer division',
    generate,
    target,
    drafter=drafter,
  )


def test_what_a_rule_raises(target):
  rule = specjax.Verifier(broken)
  words = r'^Verifier.verify raised ZeroDivisionError \(test_guard.py, line'
  refused(words, generate, target, drafter=own.successors(), verifier=rule)


@pytest.mark.parametrize('name', ['plan', 'bind', 'params'])
def test_what_an_entry_raises(target, name):
  entry = own.ECHO._replace(name='changed', **{name: broken})
  words = f'^The drafter changed: {name} raised ZeroDivisionError'
  refused(words, generate, target, drafter=entry)


def test_our_own_sentences_pass():
  def ours():
    return guard.drafter(own.successors()._replace(num_draft=0))

  refused('^Drafter.num_draft must be a whole', guard.call, 'it', ours)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'init': None}, 'Drafter.init must be a function, not NoneType'),
    ({'is_idle': 3}, 'Drafter.is_idle must be a function, not int'),
    (
      {'num_draft': '3'},
      "num_draft must be a whole number, 1 or more, not '3'",
    ),
    ({'max_path': 0}, 'max_path must be a whole number, 1 or more, not 0'),
  ],
)
def test_fields_of_a_drafter(target, changes, words):
  drafter = own.successors()._replace(**changes)
  refused(words, guard.drafter, drafter)


def test_fields_of_a_rule(target):
  drafter = own.successors()
  rule = specjax.Verifier(own.AGREE.verify, noise='loud')
  words = "Verifier.noise must be one of argmax, .*, not 'loud'"
  refused(words, generate, target, drafter=drafter, verifier=rule)
  refused(
    'Verifier.verify must be a function, not int',
    generate,
    target,
    drafter=drafter,
    verifier=specjax.Verifier(3),
  )


@pytest.mark.parametrize('name', ['my drafter', '', None, 'a-b'])
def test_names_of_entries(target, name):
  entry = own.ECHO._replace(name=name)
  words = 'The name of a drafter must be one word'
  refused(words, generate, target, drafter=entry)


@pytest.mark.parametrize('options', [dict, own.EchoOptions(), None])
def test_options_of_entries(target, options):
  entry = own.ECHO._replace(name='changed', options=options)
  words = 'The options of the drafter changed must be a dataclass, not '
  refused(words, generate, target, drafter=entry)


def _rule(options=None, make=None):
  """A rule of the user's own with options of some form."""
  make = make or (lambda sampler, max_path, static: own.AGREE)
  rule = specjax.VerifierEntry('formed', '', make, greedy_at_zero=False)
  return rule._replace(options=options) if options else rule


@dataclasses.dataclass
class _Bare:
  """Without `validate`."""

  slack: int = 0


@dataclasses.dataclass
class _Required:
  slack: int


@dataclasses.dataclass
class _Words:
  mode: str = 'a'


@dataclasses.dataclass
class _Static:
  width: int = specjax.verifiers.static(2)
  names: tuple = specjax.verifiers.static(())


def test_options_without_a_check(target):
  rule = _rule(_Bare)
  found = generate(target, drafter=own.successors(), verifier=rule)
  assert own.tokens(found) == own.tokens(generate(target))


@pytest.mark.parametrize(
  'rule, given, words',
  [
    (_rule(_Required), {}, 'option slack of the verifier formed must have a'),
    (_rule(_Words), {}, 'mode of a verification rule is no number'),
    (_rule(_Static), {'width': [1, 2]}, 'width is compiled in, so it has one'),
    (_rule(_Static), {'names': ['a']}, 'names is compiled in, so it has one'),
    (_rule(_Static), {'names': (['a'],)}, 'names is compiled in, so it has'),
    (_rule(make=lambda *_: None), {}, 'make must return a Verifier, not None'),
    (_rule(make=lambda *_: 1 // 0), {}, 'make raised ZeroDivisionError'),
  ],
)
def test_forms_of_a_rule(target, rule, given, words):
  drafter = own.successors()
  settings = dict(drafter=drafter, verifier=rule, verifiers={'formed': given})
  refused(words, generate, target, **settings)


@dataclasses.dataclass
class _Keeper:
  """A dataclass that is not frozen has no hash."""

  size: int = 1

  def __call__(self, *args, **kwargs):
    raise AssertionError


def test_what_has_no_hash(target):
  call = _Keeper()
  drafter = own.successors()._replace(observe=call)
  rule = specjax.Verifier(call)
  entry = _rule(make=call)
  words = "must be hashable.*unhashable type: '_Keeper'"
  refused(words, generate, target, drafter=drafter)
  for verifier in (rule, entry):
    given = dict(drafter=own.successors(), verifier=verifier)
    refused(words, generate, target, **given)
  lm = target.lm._replace(commit=call)
  refused(words, specjax.Model.from_lm, lm, target.params)


def test_containers_of_options(target):
  words = 'Options are given as .*, not as int'
  refused(words, generate, target, drafter='suffix', drafters=3)


def test_settings_of_custom():
  custom = specjax.drafters.custom
  refused(
    'widths must be a tuple of numbers, not 3', custom, own.table_of, widths=3
  )
  refused('needs max_path', custom, own.table_of, is_tree=True)
  words = "params of custom, at .'a'., must be a pytree of arrays and numbers"
  refused(words, custom, own.table_of, params={'a': 'text', 'b': 1.0})


def _with(**changes):
  lm = own.target().lm._replace(**changes)
  return specjax.Model.from_lm(lm, own.language(), eos_ids=(own.END,))


def _spoilt(name, change):
  inner = getattr(own.target().lm, name)

  def function(*args, **kwargs):
    return change(inner(*args, **kwargs))

  return {name: function}


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'prefill': None}, 'CachedLM.prefill must be a function, not None'),
    ({'vocab_size': 0}, 'vocab_size must be a whole number, 1 or more, not 0'),
    ({'vocab_size': 'a'}, "vocab_size must be a whole number, .* not 'a'"),
    ({'is_encoder_decoder': True, 'start_id': None}, 'start_id must be the'),
  ],
)
def test_fields_of_a_target(changes, words):
  refused(words, _with, **changes)


@pytest.mark.parametrize('ids', [[own.VOCAB], [-1], ['a'], [1.5]])
def test_end_tokens_of_a_target(ids):
  lm = own.target().lm
  words = r'eos_ids must be token ids from 0 to 95, not '
  refused(words, specjax.Model.from_lm, lm, {}, eos_ids=ids)
  assert specjax.Model.from_lm(lm, {}, eos_ids=3).eos_ids == (3,)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'vocab_size': own.VOCAB - 1}, r'Scored.logits of .* float32\[4, 4, 95\]'),
    (_spoilt('prefill', lambda _: None), 'prefill returns must be a Prefilled'),
    (_spoilt('extend', lambda _: None), 'a Scored and the cache, not NoneType'),
    (_spoilt('commit', lambda _: None), 'cache that CachedLM.commit returns'),
    (
      _spoilt(
        'extend',
        lambda found: (
          specjax.Scored(found[0].logits.astype(jnp.bfloat16)),
          found[1],
        ),
      ),
      r'float32\[4, 4, 96\] .*, not bfloat16\[4, 4, 96\]',
    ),
    ({'commit': broken}, 'CachedLM.commit raised ZeroDivisionError'),
  ],
)
def test_what_a_target_returns(changes, words):
  prompts = [[5, 6], [7]]
  model = _with(**changes)
  refused(
    words,
    specjax.generate,
    model,
    prompts,
    drafter=own.successors(),
    max_new_tokens=4,
  )


def test_what_a_file_prints_is_no_answer(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)
  (tmp_path / 'helper.py').write_text('SLOTS = 3\n')
  (tmp_path / 'mine.py').write_text(
    'import helper\nfrom tests.helpers import own\nprint("hello")\n'
    'DRAFTER = own.successors(helper.SLOTS)\n'
  )
  (tmp_path / 'prompts.txt').write_text('the cat\none\n')
  target = tiny.save(tmp_path / 'target')
  argv = ['', f'--target={target}', f'--input={tmp_path / "prompts.txt"}']
  argv += ['--config.max_new_tokens=4', '--baseline=none']
  argv += [
    '--config.explain=false',
    f'--drafter={tmp_path / "mine.py"}:DRAFTER',
  ]
  assert cli.call(main_command.main, argv) == 0
  shown = capsys.readouterr()
  assert len(shown.out.splitlines()) == 2 and 'hello' not in shown.out
  assert 'hello' in shown.err


def test_names_that_a_file_made(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'import dataclasses\nimport jax\nfrom specjax.base import Draft\n'
    'MINE = 3\ndef f():\n  pass\n'
  )
  with pytest.raises(ValueError) as error:
    user_files.load(f'{path}:OTHER')
  assert str(error.value).endswith('defines no OTHER; it defines MINE, f.')
