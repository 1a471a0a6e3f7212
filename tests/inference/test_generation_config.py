"""Settings that a model's generation_config.json gives, and who goes first."""

import json
import pathlib
import warnings

import pytest

import specjax
from specjax.benchmark.config import BenchmarkConfig
from specjax.certify.config import CertifyConfig
from specjax.commands import decode_file
from specjax.commands import parsing
from specjax.inference import planning
from tests.helpers import tiny
from tests.helpers.folders import change

PROMPTS = ['the cat sat on', 'a dog ran to the red house and']
NEW = 24
PENALTIES = {
  'repetition_penalty': 1.3,
  'no_repeat_ngram_size': 2,
  'suppress_tokens': [7, 11],
  'bad_words_ids': [[20, 21], [9]],
}
DRAWING = {'do_sample': True, 'temperature': 0.6, 'top_p': 0.9, 'top_k': 20}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  return {
    'decoder': tiny.save(tmp_path_factory.mktemp('decoder'), seed=0),
    't5': tiny.save(tmp_path_factory.mktemp('t5'), tiny.T5, seed=2),
  }


def with_file(folder, **fields):
  """The loaded model, with other contents of the file."""
  model = specjax.load(folder)
  return model._replace(generation_config=model.generation_config | fields)


def settings(model, **given):
  """(the config in force, notes)."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    job = planning.plan(model, PROMPTS, max_new_tokens=8, **given)
  return job, [str(w.message) for w in caught]


@pytest.mark.filterwarnings('ignore:generation_config.json')
@pytest.mark.parametrize('kind', ['decoder', 't5'])
def test_safe_settings_are_those_of_transformers(saved, kind, torch, tmp_path):
  """Greedy answers with a file's settings, and the file's own `generate`."""
  import transformers

  kinds = {
    'decoder': transformers.AutoModelForCausalLM,
    't5': transformers.AutoModelForSeq2SeqLM,
  }
  theirs = kinds[kind].from_pretrained(saved[kind]).eval()
  for fields in (
    PENALTIES,
    {'min_new_tokens': 6, 'min_length': 40},
    {'min_length': 14, 'repetition_penalty': 1.1},
  ):
    model = with_file(saved[kind], **fields)
    got = specjax.generate(model, PROMPTS, max_new_tokens=NEW)
    for prompt, answer in zip(PROMPTS, got, strict=True):
      ids = torch.tensor([model.tokenizer(prompt).input_ids])
      wanted = theirs.generate(
        ids,
        generation_config=transformers.GenerationConfig(
          **model.generation_config | {'max_new_tokens': NEW}
        ),
      )
      start = 1 if kind == 't5' else ids.shape[1]
      assert list(answer.tokens) == wanted[0, start:].tolist(), fields


def test_safe_is_the_default_and_leaves_drawing_to_the_user(saved):
  model = with_file(saved['decoder'], **PENALTIES, **DRAWING)
  job, told = settings(model)
  assert job.config.repetition_penalty == 1.3
  assert job.config.no_repeat_ngram_size == 2
  assert (job.config.temperature, job.config.top_p) == (0.0, 1.0)
  assert job.from_generation_config['bad_words_ids'] == ((20, 21), (9,))
  (line,) = told
  assert line.startswith(
    f'generation_config.json of {saved["decoder"]}: repetition_penalty=1.3, '
    'no_repeat_ngram_size=2, suppress_tokens (2) and bad_words_ids (2) are '
    'applied; do_sample, temperature, top_k and top_p are ignored ('
  )
  assert not settings(with_file(saved['decoder'], repetition_penalty=1.0))[1]


def test_what_the_user_sets_goes_first(saved):
  model = with_file(saved['decoder'], **PENALTIES, min_length=30)
  # A default that is written out is set too.
  given = dict(repetition_penalty=1.0, suppress_tokens='', min_new_tokens=0)
  job, _ = settings(model, **given)
  assert set(job.from_generation_config) == {
    'no_repeat_ngram_size',
    'bad_words_ids',
  }
  assert job.config.repetition_penalty == 1.0
  assert job.config.min_new_tokens == 0
  job, told = settings(model, generation_config='none')
  assert (job.from_generation_config, told) == ({}, [])
  assert job.config.no_repeat_ngram_size == 0
  job, told = settings(model, num_beams=2)
  assert job.from_generation_config == {}
  assert 'and min_length are ignored' in told[0] and 'applied' not in told[0]


def test_the_model_s_own_drawing(saved):
  def taken(file, **given):
    model = with_file(saved['decoder'], **file)
    config = settings(model, generation_config='model', **given)[0].config
    return config.temperature, config.top_k, config.top_p

  assert taken(DRAWING) == (0.6, 20, 0.9)
  assert taken({'do_sample': True}) == (1.0, 0, 1.0)
  assert taken(DRAWING | {'do_sample': False}) == (0.0, 0, 1.0)
  assert taken({'temperature': 0.6}) == (0.0, 0, 1.0)
  assert taken(DRAWING, temperature=0.3, top_k=0) == (0.3, 0, 0.9)
  assert taken(DRAWING, temperature=0.0) == (0.0, 0, 1.0)
  # Whether samples would be equal depends on the file.
  config = specjax.DecodeConfig(
    generation_config='model', num_return_sequences=2
  )
  config.validate()
  assert taken(DRAWING, num_return_sequences=2) == (0.6, 20, 0.9)
  with pytest.raises(ValueError, match='at temperature 0'):
    taken({}, num_return_sequences=2)


@pytest.mark.parametrize(
  'fields, mode',
  [
    ({'repetition_penalty': -1.0}, 'safe'),
    ({'repetition_penalty': '1.2'}, 'safe'),
    ({'repetition_penalty': [1.2, 1.3]}, 'safe'),
    ({'repetition_penalty': float('inf')}, 'safe'),
    ({'no_repeat_ngram_size': 2.5}, 'safe'),
    ({'no_repeat_ngram_size': True}, 'safe'),
    ({'suppress_tokens': 'abc'}, 'safe'),
    ({'suppress_tokens': [-1]}, 'safe'),
    ({'suppress_tokens': {'1': 2}}, 'safe'),
    ({'bad_words_ids': [5]}, 'safe'),
    ({'bad_words_ids': [[]]}, 'safe'),
    ({'bad_words_ids': ['word']}, 'safe'),
    ({'min_new_tokens': [1, 2]}, 'safe'),
    ({'min_length': 10**20}, 'safe'),
    ({'min_length': 'long'}, 'safe'),
    ({'do_sample': 'yes'}, 'model'),
    ({'do_sample': True, 'top_p': 2.0}, 'model'),
    ({'do_sample': True, 'temperature': None, 'top_k': -1}, 'model'),
  ],
)
def test_a_strange_value_is_one_sentence(saved, fields, mode):
  model = with_file(saved['decoder'], **fields)
  with pytest.raises(ValueError) as caught:
    settings(model, generation_config=mode)
  text = str(caught.value)
  assert text.startswith(f'generation_config.json of {model.name}: ')
  assert list(fields)[-1] in text and '\n' not in text and text.endswith('.')
  # Nobody asks for what is not taken.
  job, _ = settings(model, generation_config='none')
  assert job.from_generation_config == {}


def test_ids_beyond_the_vocabulary_are_never_generated_anyway(saved):
  file = {
    'suppress_tokens': [5, 10_000],
    'bad_words_ids': [[10_000, 5], [6, 7]],
  }
  job, _ = settings(with_file(saved['decoder'], **file))
  assert job.config.suppress_tokens == (5,)
  assert job.config.bad_words == ((6, 7),)


def test_other_settings_of_transformers_are_named(saved):
  file = {'num_beams': 4, 'typical_p': 1.0, 'forced_bos_token_id': 3}
  _, (line,) = settings(with_file(saved['decoder'], **file))
  assert ': forced_bos_token_id and num_beams are ignored (' in line


def test_a_command_line_gives_some_and_shows_all(capsys):
  line = ['decode', '--config.top_k=0', '--config.suppress_tokens=[5]']
  file = pathlib.Path('configs/decode.py').resolve()
  given = dict(doc='', define=lambda values: None, default_config=file)
  _, config = parsing.parse(
    [*line, '--config.temperature=0.5', '--config.min_new_tokens=2'], **given
  )
  found = [config.temperature, config.top_k, config.min_new_tokens]
  assert found == [0.5, 0, 2] and config.suppress_tokens == '[5]'
  assert config.top_p is None and config.bad_words is None
  with pytest.raises(SystemExit):
    parsing.parse(['decode', '--help'], **given)
  shown = capsys.readouterr().out
  for default in ('temperature=0.0', 'top_k=0', 'top_p=1.0', "bad_words=''"):
    assert f'--config.{default}\n' in shown or f'  {default}\n' in shown
  assert 'generation_config=safe' in shown


def test_defaults_of_commands():
  assert specjax.DecodeConfig().generation_config == 'safe'
  assert CertifyConfig().generation_config == 'safe'
  assert specjax.DecodeConfig().repetition_penalty is None
  assert specjax.DecodeConfig().in_force('repetition_penalty') == 1.0
  assert CertifyConfig().filled().temperature == 1.0
  assert BenchmarkConfig().sampling(0.0).repetition_penalty == 1.0


def test_statistics_and_standard_error(saved, tmp_path, capfd):
  folder = tmp_path / 'model'
  tiny.save(folder, seed=0)
  change(folder, 'generation_config.json', **PENALTIES, temperature=0.7)
  source = tmp_path / 'prompts.txt'
  source.write_text('\n'.join(PROMPTS) + '\n')
  request = decode_file.DecodeRequest(
    target=str(folder),
    drafter='none',
    source=str(source),
    output=str(tmp_path / 'out.jsonl'),
    stats=str(tmp_path / 'stats.json'),
    resume=False,
    baseline='first',
    config=specjax.DecodeConfig(max_new_tokens=8),
    corpus='',
  )
  with pytest.warns(UserWarning, match='are applied; temperature is ignored'):
    decode_file.decode_file(request)
  found = json.loads((tmp_path / 'stats.json').read_text())
  assert found['from_generation_config'] == PENALTIES
