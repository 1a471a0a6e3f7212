"""Lines of prompts with settings of their own, mixed in one batch."""

import json

import pytest

import specjax
from specjax import prompt_files
from tests.helpers import tiny
from tests.helpers.compilations import counted

NEW = 10
# Eight lines in batches of four: the second batch needs arrays that the first
# has no use for, and the other way round.
LINES = (
  {'prompt': 'the cat'},
  {'prompt': 'a dog ran', 'temperature': 0.9, 'seed': 5, 'top_p': 0.9},
  {'prompt': 'one two', 'temperature': 1.5, 'seed': 6, 'top_k': 20},
  {'prompt': 'once upon', 'max_new_tokens': 3, 'min_p': None},
  {'prompt': 'the dog', 'stop': ['t', 'a'], 'temperature': 2, 'seed': 7},
  {'prompt': 'three', 'logit_bias': {'7': 4.5}, 'stop_token_ids': [9, 40]},
  {
    'prompt': 'red house',
    'suppress_tokens': list(range(30, 45)),
    'bad_words': ['the', [5, 6]],
    'min_new_tokens': 4,
  },
  {
    'prompt': 'the little girl',
    'repetition_penalty': 1.5,
    'presence_penalty': 0.4,
    'frequency_penalty': 0.2,
  },
)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  return (
    specjax.load(tiny.save(folder / 'target', seed=0)),
    specjax.load(tiny.save(folder / 'drafter', seed=1)),
  )


def generate(model, prompts, **settings):
  usual = dict(max_new_tokens=NEW, batch_size=4, num_draft=2)
  return specjax.generate(model, prompts, **usual | settings)


def facts(answers):
  return [(a.tokens, a.text, a.finish_reason) for a in answers]


@pytest.fixture(scope='module')
def alone(models):
  """The answer to every line as the only prompt, by settings of the run."""
  found = []
  for line in LINES:
    settings = {k: v for k, v in line.items() if k != 'prompt'}
    found += generate(models[0], [line['prompt']], **settings)
  return facts(found)


def test_a_line_has_the_answer_of_a_run_with_its_settings(models, alone):
  with counted() as first:
    got = generate(models[0], list(LINES[:4]))
  got = facts(generate(models[0], list(LINES)))
  assert got == alone
  # The settings matter.
  bare = [line['prompt'] for line in LINES]
  usual = facts(generate(models[0], bare))
  assert all(
    one != other for one, other in zip(got[1:], usual[1:], strict=True)
  )
  # Other values, another order, another number: no new program.
  assert first
  with counted() as compiled:
    generate(models[0], list(LINES[::-1]))
    generate(models[0], [*LINES, {'prompt': 'x', 'bad_words': [[5]]}])
  assert not compiled


@pytest.mark.parametrize('rule', ['auto', 'match', 'coupled'])
def test_greedy_and_sampled_rows_share_a_rule(models, alone, rule):
  target, drafter = models
  got = generate(target, list(LINES), drafter=drafter, verifier=rule)
  cold = [i for i, line in enumerate(LINES) if 'temperature' not in line]
  assert [facts(got)[i] for i in cold] == [alone[i] for i in cold]
  if rule != 'auto':  # The sampling rule draws with noise of its own.
    assert facts(got) == alone
    return
  for i in (1, 2, 4):
    one = generate(target, [LINES[i]], drafter=drafter, verifier='sampling')
    assert facts(one) == [facts(got)[i]]


def test_a_file_and_dicts_are_the_same(models, tmp_path):
  path = tmp_path / 'prompts.jsonl'
  named = [{**line, 'id': f'n{i}'} for i, line in enumerate(LINES[:3])]
  named.append({'prompt': [5, 6, 7], 'id': 8})
  path.write_text(''.join(json.dumps(line) + '\n' for line in named))
  made = generate(models[0], prompt_files.read_prompts(str(path)))
  assert facts(made) == facts(generate(models[0], named))
  assert [a.id for a in made] == ['n0', 'n1', 'n2', 8]
  assert [a.prompt_index for a in made] == [0, 1, 2, 3]
  # Without a seed of its own a line's noise comes from its place.
  sampled = [{'prompt': 'the', 'temperature': 1.0}] * 2
  assert facts(generate(models[0], sampled)) == facts(
    generate(models[0], ['the', 'the'], temperature=1.0)
  )
  (one,) = generate(models[0], named[0])
  assert one.id == 'n0'


@pytest.mark.parametrize(
  'line, words',
  [
    ({'temperature': 'hot'}, "temperature must be 0 or more, not 'hot'"),
    ({'temperature': -1}, 'temperature must be 0 or more, not -1'),
    ({'temperature': True}, 'temperature must be 0 or more, not True'),
    ({'temperature': [1]}, 'must be one number, not [1]'),
    ({'top_p': 0}, 'top_p must be above 0 and at most 1, not 0'),
    ({'seed': 1.5}, 'seed must be a whole number, 0 or more'),
    ({'max_new_tokens': -2}, 'max_new_tokens must be a whole number, 0 or'),
    ({'stop': 5}, 'stop must be a string or a list of strings'),
    ({'stop': ['']}, 'none of them empty'),
    ({'stop_token_ids': '[5]'}, 'must be JSON without quotes'),
    ({'stop_token_ids': [96]}, 'has the token id 96, but the target has'),
    ({'logit_bias': {'x': 1}}, 'logit_bias must be a map of token ids'),
    ({'suppress_tokens': list(range(96))}, 'leave none of the 96 tokens'),
    ({'bad_words': [[]]}, 'bad_words must not hold an empty word'),
    ({'temprature': 0.5}, "has the unknown key 'temprature'; give temperature"),
    ({'Top-P': 0.5}, "has the unknown key 'Top-P'; give top_p"),
    ({'max_tokens': 5}, "the unknown key 'max_tokens'; give max_new_tokens"),
    ({'batch_size': 5}, 'batch_size holds for all prompts of a run; give'),
    ({'id': 'a'}, 'Prompt 1 and Prompt 2 have the same id'),
  ],
)
def test_a_bad_line_is_named_with_what_would_be_right(models, line, words):
  with pytest.raises(ValueError) as error:
    generate(models[0], [{'prompt': 'a', 'id': 'a'}, {'prompt': 'b', **line}])
  assert words in str(error.value)
  assert 'Prompt 2' in str(error.value) and '\n' not in str(error.value)


def test_settings_that_do_not_fit_the_run_name_the_line(models):
  lines = [{'prompt': 'a'}, {'prompt': 'b', 'temperature': 0.5}]
  with pytest.raises(ValueError, match='Prompt 2: A beam search'):
    generate(models[0], lines, num_beams=2)
  lines[1]['temperature'] = 0
  with pytest.raises(ValueError, match='Prompt 2: num_return_sequences=2'):
    generate(models[0], lines, temperature=1.0, num_return_sequences=2)


def test_other_keys_are_told_once(models):
  lines = [{'prompt': 'a', 'source': 'x', 'type': 'y', 'prompt_id': 3}] * 2
  with pytest.warns(UserWarning, match="not read: 'source', 'type', 'p"):
    generate(models[0], lines)
