"""First tries in Python work, or are answered with a name."""

import contextlib
import json
import os

import numpy as np
import pytest

import specjax
from specjax.checkpoints import convert
from specjax.commands import answer_files
from specjax.decoding import corpus as corpus_lib
from specjax.decoding.drafters import suffix
from specjax.training import config as train_config
from specjax.training import workdir
from tests.helpers import tiny

PROMPTS = ['the cat', 'a dog ran to the', 'one two three four five']


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('models')
  run = root / 'run'
  workdir.claim(str(run), train_config.TrainConfig(tokenizer='x'))
  return {
    'target': tiny.save(root / 'target', seed=0),
    'drafter': tiny.save(root / 'drafter', seed=1),
    'run': str(run),
  }


def generate(*arguments, **settings):
  return specjax.generate(*arguments, max_new_tokens=12, **settings)


def tokens(answers):
  return [answer.tokens for answer in answers]


def test_a_path_is_a_model(folders):
  expected = generate(specjax.load(folders['target']), PROMPTS)
  assert generate(folders['target'], PROMPTS) == expected
  with contextlib.chdir(os.path.dirname(folders['target'])):
    assert generate('target', PROMPTS) == expected
  with pytest.raises(FileNotFoundError, match='no folder nowhere'):
    generate('nowhere', PROMPTS)
  with pytest.raises(ValueError, match='specjax.load .*not dict'):
    generate({}, PROMPTS)


def test_names_of_drafters_work_as_in_the_commands(folders):
  target = specjax.load(folders['target'])
  plain = tokens(generate(target, PROMPTS))
  folder = folders['drafter']
  for drafter in (folder, f'hybrid:{folder}', 'suffix'):
    found = generate(target, PROMPTS, drafter=drafter)
    assert tokens(found) == plain, drafter
    assert sum(answer.counts for answer in found).num_target_calls
  drafted = generate(target, PROMPTS, drafter=folder)
  assert sum(answer.counts for answer in drafted).num_drafted


@pytest.mark.parametrize(
  'given, meant',
  [
    ('max_tokens', 'max_new_tokens'),
    ('max_length', 'max_new_tokens'),
    ('do_sample', 'temperature: 0 is greedy'),
    ('num_samples', 'num_return_sequences'),
    ('num_speculative_tokens', 'num_draft'),
    ('assistant_model', 'drafter'),
    ('temprature', 'temperature'),
    ('Top_K', 'top_k'),
    ('draftr', 'drafter'),
    ('stop_ids', 'stop_token_ids'),
    ('prompt_logprobs', 'a completion to specjax.score'),
    ('qqq', 'specjax.DecodeConfig lists'),
  ],
)
def test_a_wrong_keyword_is_answered_with_the_right_one(folders, given, meant):
  with pytest.raises(TypeError) as error:
    specjax.generate(folders['target'], PROMPTS, **{given: 1})
  words = str(error.value)
  assert f'no keyword {given}; ' in words and meant in words
  assert words.count('.') == 1 + words.count('specjax.') and '\n' not in words


def test_prompts_may_come_one_by_one(folders):
  target = specjax.load(folders['target'])
  expected = generate(target, PROMPTS)
  assert generate(target, (prompt for prompt in PROMPTS)) == expected
  assert generate(target, dict.fromkeys(PROMPTS).keys()) == expected
  assert generate(target, iter([[1, 5]])) == generate(target, [[1, 5]])
  with pytest.raises(ValueError, match='no prompt'):
    generate(target, iter(()))
  for wrong in (b'the cat', None, 3, {'role': 'user', 'content': 'hello'}):
    with pytest.raises(ValueError, match='Prompts must be text, a list'):
      generate(target, wrong)


def test_a_model_is_printed_in_one_line(folders):
  target = specjax.load(folders['target'])
  for shown in (repr(target), str(target), f'{target}'):
    assert '\n' not in shown and len(shown) < 200
    assert folders['target'] in shown and 'DecoderConfig' in shown
  own = specjax.Model.from_lm(target.lm, target.params)
  assert 'custom' in repr(own) and '\n' not in repr(own)
  about = specjax.Target(target.lm, target.config, target.params)
  assert len(repr(about)) < 200


def test_counts_and_answers_add_up(folders):
  found = generate(folders['target'], PROMPTS, drafter=folders['drafter'])
  total = sum(answer.counts for answer in found)
  assert total == found[0].counts + found[1].counts + found[2].counts
  assert total.num_tokens == sum(len(answer.tokens) for answer in found)
  with pytest.raises(TypeError):
    found[0].counts + 1
  made = specjax.summarize(found, seconds=2.0)
  assert json.loads(json.dumps(made)) == made
  assert made['acceptance_rate'] == total.acceptance_rate
  assert made['tokens_per_second'] == total.num_tokens / 2
  assert specjax.summarize([])['acceptance_rate'] is None


def test_a_beam_search_gives_scores(folders):
  target = specjax.load(folders['target'])
  found = generate(
    target, PROMPTS, num_beams=3, num_return_sequences=3, length_penalty=0.0
  )
  for place in range(0, 9, 3):
    scores = [answer.score for answer in found[place : place + 3]]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0
    assert len(set(scores)) == 3
  record = answer_files.record(found[0])
  assert record['score'] == found[0].score
  plain = generate(target, PROMPTS)
  assert {answer.score for answer in plain} == {None}
  assert 'score' not in answer_files.record(plain[0])


def test_a_score_is_the_log_probability_over_the_length(folders):
  target = specjax.load(folders['target'])
  (found,) = generate(target, PROMPTS[:1], num_beams=2, length_penalty=1.0)
  ids = [*target.tokenizer(PROMPTS[0]).input_ids, *found.tokens]
  logits = np.asarray(
    target.module.apply({'params': target.params}, np.asarray([ids])),
    np.float64,
  )[0, :, : target.vocab_size]
  rows = logits[len(ids) - len(found.tokens) - 1 : -1]
  logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
  each = logs[np.arange(len(rows)), list(found.tokens)]
  assert found.score == pytest.approx(each.mean(), abs=1e-4)


def test_a_corpus_is_a_path_or_an_object(folders, tmp_path):
  target = specjax.load(folders['target'])
  path = tmp_path / 'new' / 'answers.corpus'
  settings = dict(drafter='suffix', corpus=path)
  first = generate(target, PROMPTS, **settings)
  assert tokens(first) == tokens(generate(target, PROMPTS))
  again = generate(target, PROMPTS, **settings)
  assert tokens(again) == tokens(first)

  def accepted(answers):
    return sum(answer.counts for answer in answers).num_accepted

  assert accepted(again) > accepted(first)
  kept = specjax.Corpus.of(target.tokenizer, map(list, tokens(first)))
  saved = corpus_lib.load(path, kept.capacity, kept.fingerprint)
  sequences = [
    [row.tolist() for row in corpus_lib.sequences(one)] for one in (saved, kept)
  ]
  assert sequences[0][:3] == sequences[1]
  held = generate(target, PROMPTS, drafter='suffix', corpus=kept)
  assert held == again
  texts = specjax.Corpus.of(target.tokenizer, ['the cat sat on the mat'])
  (ids,) = corpus_lib.sequences(texts)
  assert target.tokenizer.decode(ids) == 'the cat sat on the mat'


@pytest.mark.parametrize('drafter', ['suffix', 'hybrid'])
@pytest.mark.parametrize('is_file', [False, True])
def test_an_answer_is_copied_from_at_once(folders, tmp_path, drafter, is_file):
  """However little it is beside what the run has answered before."""
  target = specjax.load(folders['target'])
  options = suffix.SuffixOptions(min_expected_accepted=0.0, max_wait=0)
  if drafter == 'hybrid':
    drafter, options = f'hybrid:{folders["drafter"]}', {'suffix': options}
  made = specjax.generate(
    target,
    [*PROMPTS, 'the red house', 'the red house'],
    drafter=drafter,
    corpus=tmp_path / 'fresh'
    if is_file
    else specjax.Corpus.of(target.tokenizer),
    drafters={drafter.split(':')[0]: options},
    temperature=1.0,
    seed=[0, 1, 2, 3, 3],
    ignore_eos=True,
    max_new_tokens=[64, 64, 64, 16, 16],
    batch_size=1,
  )
  first, second = made[3:]
  assert first.tokens == second.tokens
  assert second.counts.num_accepted >= 8 > first.counts.num_accepted


def test_a_corpus_that_cannot_be_is_refused(folders, tmp_path):
  target = specjax.load(folders['target'])
  with pytest.raises(ValueError, match='path of a file or a specjax.Corpus'):
    generate(target, PROMPTS, drafter='suffix', corpus=['the cat'])
  with pytest.raises(OSError, match='Cannot write to .*it is a folder'):
    generate(target, PROMPTS, drafter='suffix', corpus=tmp_path)
  text = tmp_path / 'prompts.txt'
  text.write_text('the cat\n')
  with pytest.raises(ValueError, match='is not a specjax corpus'):
    generate(target, PROMPTS, drafter='suffix', corpus=str(text))
  assert text.read_text() == 'the cat\n'


@pytest.mark.parametrize(
  'name, meant',
  [
    ('gpt2', 'give openai-community/gpt2'),
    ('t5-small', 'give google-t5/t5-small'),
    ('distilgpt2', 'give distilbert/distilgpt2'),
    ('nosuchmodel', 'a hub id like organisation/name.'),
  ],
)
def test_a_bare_name_is_answered_with_the_hub_id(folders, name, meant):
  with pytest.raises(FileNotFoundError) as error:
    specjax.load(name)
  assert meant in str(error.value)
  with pytest.raises(FileNotFoundError) as error:
    generate(folders['target'], PROMPTS, drafter=name)
  assert (meant in str(error.value)) == meant.startswith('give')


def test_the_folder_of_a_run_is_its_export(folders, tmp_path):
  run = folders['run']
  with pytest.raises(FileNotFoundError, match='exported no model yet'):
    specjax.load(run)
  tiny.save(os.path.join(run, 'export'), seed=0)
  expected = generate(folders['target'], PROMPTS)
  assert generate(run, PROMPTS) == expected
  assert tokens(generate(run, PROMPTS, drafter=run)) == tokens(expected)
  estimates = [
    specjax.estimate_memory(folder) for folder in (run, folders['target'])
  ]
  assert estimates[0] == estimates[1]
  convert.execute(convert.plan(convert.Conversion(run, str(tmp_path / 'new'))))
  assert generate(str(tmp_path / 'new'), PROMPTS) == expected
