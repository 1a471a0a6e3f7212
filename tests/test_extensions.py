"""Everything that can be registered works in every command."""

import json

import jax
import numpy as np
import pytest

import decode.benchmark as benchmark_command
import decode.certify as certify_command
import decode.main as main_command
import specjax
from specjax.checkpoints import hf
from specjax.commands import cli
from specjax.decoding.drafters import registry as drafter_registry
from specjax.decoding.verifiers import registry as verifier_registry
from specjax.distributed import mesh as mesh_lib
from specjax.models import registry as model_registry
from specjax.training.families import registry as training_registry
from tests.helpers import tiny
from tests.helpers.extensions import decay
from tests.helpers.extensions import pairs
from tests.helpers.extensions import strategies
import train.convert as convert_command
import train.main as train_command

PROMPTS = ['the cat sat', 'a dog ran to the red house', 'one two']
SIZES = ('--config.max_new_tokens=12', '--config.batch_size=3')


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  """The dummies are known while a test runs."""
  for module, name in (
    (drafter_registry, '_entries'),
    (verifier_registry, '_entries'),
    (model_registry, '_BY_NAME'),
    (training_registry, '_BY_NAME'),
  ):
    monkeypatch.setattr(module, name, dict(getattr(module, name)))
  decay.register()
  pairs.register()
  strategies.register()
  monkeypatch.setattr(cli, 'prepare_process', lambda: None)


@pytest.fixture(name='ours', scope='module')
def ours_fixture(tmp_path_factory):
  """A target of a shipped family."""
  return tiny.save(tmp_path_factory.mktemp('ours') / 'target', seed=0)


@pytest.fixture(name='theirs')
def theirs_fixture(tmp_path):
  """A target of the dummy family, saved as any other."""
  config = decay.DecayConfig(96)
  params = specjax.models.init_params(config, jax.random.key(3))
  tokenizer = tiny.tokenizer()
  tokenizer.save_pretrained(tmp_path / 'theirs')
  hf.save_hf(str(tmp_path / 'theirs'), params, config)
  return str(tmp_path / 'theirs')


@pytest.fixture(name='prompts')
def prompts_fixture(tmp_path):
  path = tmp_path / 'prompts.txt'
  path.write_text('\n'.join(PROMPTS) + '\n')
  return str(path)


def run(command, *arguments):
  return cli.call(command.main, ['', *arguments])


def everywhere(capsys, target, prompts, *arguments, certify=()):
  """Decodes, measures and certifies with the same options."""
  common = (f'--target={target}', f'--input={prompts}', *arguments)
  assert run(main_command, *common, *SIZES, '--config.explain=false') == 0
  assert len(capsys.readouterr().out.splitlines()) == len(PROMPTS)
  quick = (
    '--config.num_draft=2',
    '--config.repetitions=1',
    '--config.max_new_tokens=8',
    '--config.parts=false',
  )
  status = run(benchmark_command, *common, *quick)
  out = capsys.readouterr()
  assert status == 0, out
  assert len(out.out.splitlines()) > 2
  # As much as `quick` tests, without its deadline: a slow machine needs it.
  quick = (
    '--config.samples=2048',
    '--config.law_prompts=1',
    '--config.num_prompts=4',
    '--config.max_new_tokens=16',
    '--config.num_draft=2',
  )
  status = run(certify_command, *common, *quick, *certify)
  out = capsys.readouterr()
  assert out.out.splitlines()[-1] == 'LOSSLESS', out
  assert status == 0


def test_a_drafter_of_an_entry(ours, prompts, capsys):
  model = specjax.load(ours)
  plain = specjax.generate(model, PROMPTS, max_new_tokens=12)
  echoed = specjax.generate(
    model,
    PROMPTS,
    drafter='echo',
    max_new_tokens=12,
    drafters={'echo': {'back': 3}},
  )
  assert [a.tokens for a in echoed] == [a.tokens for a in plain]
  assert sum(a.counts.num_drafted for a in echoed) > 0
  everywhere(
    capsys, ours, prompts, '--drafter=echo', '--config.drafters.echo.back=1'
  )
  given = (f'--target={ours}', f'--input={prompts}', '--drafter=echo')
  assert run(main_command, *given, '--config.drafters.echo.back=0') == 2
  assert 'drafters.echo.back must be 1 or more' in capsys.readouterr().err


def test_a_rule_with_a_dial(ours, prompts, capsys):
  model = specjax.load(ours)
  plain = specjax.generate(model, PROMPTS, max_new_tokens=12)

  def tokens(gap):
    made = specjax.generate(
      model,
      PROMPTS,
      drafter='echo',
      verifier='gap',
      max_new_tokens=12,
      verifiers={'gap': {'gap': gap}},
    )
    calls = sum(answer.counts.num_target_calls for answer in made)
    return [answer.tokens for answer in made], calls

  neutral, many = tokens(0.0)
  assert neutral == [answer.tokens for answer in plain]
  # One value a prompt: only the row with another value differs.
  mixed, fewer = tokens([0.0, 99.0, 0.0])
  assert mixed[0] == neutral[0] and mixed[2] == neutral[2]
  assert mixed[1] != neutral[1] and fewer < many
  flags = ('--drafter=echo', '--config.verifier=gap')
  zero = ('--config.temperature=0',)
  everywhere(capsys, ours, prompts, *flags, certify=zero)
  status = run(
    main_command,
    f'--target={ours}',
    f'--input={prompts}',
    *flags,
    '--config.verifiers.gap.gap=9',
    *SIZES,
  )
  assert status == 0 and 'lossy' in capsys.readouterr().err


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_an_architecture(theirs, dtype):
  model = specjax.load(theirs, dtype=dtype)
  assert model.params['table'].dtype == dtype
  plain = specjax.generate(model, PROMPTS, max_new_tokens=12)
  assert len({tuple(answer.tokens) for answer in plain}) == 3
  for drafter, options in (
    ('suffix', {}),
    ('token_recycling', {'token_recycling': {'tree': 2}}),
    (model, {}),
  ):
    made = specjax.generate(
      model, PROMPTS, drafter=drafter, drafters=options, max_new_tokens=12
    )
    assert [a.tokens for a in made] == [a.tokens for a in plain], drafter
  # Its own copy is always right.
  assert sum(a.counts.num_accepted for a in made) > 15
  beams = specjax.generate(model, PROMPTS, num_beams=2, max_new_tokens=4)
  assert len(beams) == 3


def test_an_architecture_in_the_commands(theirs, prompts, tmp_path, capsys):
  everywhere(capsys, theirs, prompts, '--drafter=echo')
  for source, to in ((theirs, 'orbax'), (tmp_path / 'orbax', 'safetensors')):
    flags = (f'--input={source}', f'--output={tmp_path / to}', f'--to={to}')
    assert run(convert_command, *flags) == 0, capsys.readouterr().err
  before = specjax.load(theirs)
  after = specjax.load(tmp_path / 'safetensors')
  assert before.config == after.config
  jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_an_architecture_on_a_mesh(theirs):
  plain = specjax.generate(
    specjax.load(theirs), PROMPTS, drafter='suffix', max_new_tokens=12
  )
  layout = mesh_lib.make_layout(mesh_lib.MeshConfig(shape=(2, 4)))
  model = specjax.load(theirs, layout=layout)
  assert len(model.params['table'].sharding.device_set) == 8
  made = specjax.generate(model, PROMPTS, drafter='suffix', max_new_tokens=12)
  assert [a.tokens for a in made] == [a.tokens for a in plain]


@pytest.mark.parametrize('kind', ['ours', 'theirs'])
def test_a_drafter_network_is_trained_and_decodes(
  kind, request, prompts, tmp_path, capsys
):
  target = request.getfixturevalue(kind)
  text = tmp_path / 'text.txt'
  text.write_text('\n\n'.join(tiny.CORPUS * 8))
  flags = (
    '--config=configs/text_drafter.py:quick',
    f'--workdir={tmp_path / "run"}',
    f'--config.teacher={target}',
    '--config.model.family=pairs',
    '--config.families.pairs.ahead=3',
    f'--config.data.train={text}',
    f'--config.data.valid={text}',
    '--config.data.labelled=',
    '--config.data.labelled_fraction=0',
    '--config.data.target_length=16',
    '--config.data.batch_rows=2',
    '--config.eval_new_tokens=8',
    '--config.eval_prompts=2',
    '--config.steps=2',
  )
  assert run(train_command, *flags) == 0, capsys.readouterr().err
  folder = str(tmp_path / 'run' / 'export')
  made = json.loads((tmp_path / 'run' / 'export' / 'config.json').read_text())
  assert made['model_type'] == 'toy_pairs' and made['ahead'] == 3
  drafter, model = specjax.load(folder), specjax.load(target)
  plain = specjax.generate(model, PROMPTS, max_new_tokens=12)
  answers = specjax.generate(
    model, PROMPTS, drafter=drafter, num_draft=3, max_new_tokens=12
  )
  assert [a.tokens for a in answers] == [a.tokens for a in plain]
  assert sum(a.counts.num_drafted for a in answers) > 0
  everywhere(capsys, target, prompts, f'--drafter={folder}')


def test_what_is_taken_is_refused():
  taken = strategies.ECHO._replace(name='suffix')
  with pytest.raises(ValueError, match="drafter 'suffix' already"):
    drafter_registry.register(taken)
  with pytest.raises(ValueError, match="verifier 'match' already"):
    verifier_registry.register(strategies.GAP._replace(name='match'))
  with pytest.raises(ValueError, match="too much like 't5'"):
    model_registry.register(decay.FAMILY._replace(name='t5'))
  wrong = pairs.TRAINING._replace(name='new', kinds=lambda: ('eagle',))
  with pytest.raises(ValueError, match='must be its own'):
    training_registry.register(wrong)


def _training(target, folder, family):
  text = folder / 'text.txt'
  text.write_text('\n\n'.join(tiny.CORPUS * 8))
  return (
    '--config=configs/text_drafter.py:quick',
    f'--workdir={folder / "run"}',
    f'--config.teacher={target}',
    f'--config.model.family={family}',
    f'--config.data.train={text}',
    f'--config.data.valid={text}',
    '--config.data.labelled=',
    '--config.data.labelled_fraction=0',
    '--config.steps=1',
  )


@pytest.mark.parametrize('family', ['eagle', 'medusa'])
def test_no_shared_drafter_for_a_network_without_tables(
  theirs, tmp_path, capsys, family
):
  """It would use the target's embeddings and head by our names for them."""
  assert run(train_command, *_training(theirs, tmp_path, family)) in (1, 2)
  lines = capsys.readouterr().err.splitlines()
  assert 'embeddings and the head' in lines[-1], lines
  assert lines[-1].startswith('error: ')


def test_no_shared_drafter_for_a_target_of_functions(ours, tmp_path):
  model = specjax.load(ours)
  config = model_registry.named('speculator').config(
    model.config, model.config.hidden_size, 1, kind='eagle', feature='fuse'
  )
  params = specjax.models.init_params(config, jax.random.key(0))
  hf.save_hf(str(tmp_path / 'eagle'), params, config)
  tiny.tokenizer().save_pretrained(tmp_path / 'eagle')
  drafter = specjax.load(tmp_path / 'eagle')
  assert specjax.generate(model, PROMPTS, drafter=drafter, max_new_tokens=2)
  bare = specjax.Model.from_lm(model.lm, model.params, model.tokenizer)
  with pytest.raises(ValueError, match='custom is a target of functions alone'):
    specjax.generate(bare, PROMPTS, drafter=drafter)
  other = model.params | {'table': model.params['embed']}
  del other['embed']
  with pytest.raises(ValueError, match='embeddings and the head of its target'):
    specjax.generate(model._replace(params=other), PROMPTS, drafter=drafter)
