"""Prompts of a benchmark: what is read, cut, refused and left out."""

import json

import pytest

from specjax import models
from specjax import prompt_files
from specjax import text as text_lib
from specjax.benchmark import prompts
from specjax.benchmark import request
from tests.helpers import fakes
from tests.helpers import tiny
from tests.helpers.benchmarks import CharacterTokenizer
from tests.helpers.benchmarks import config
from tests.helpers.benchmarks import markov
from tests.helpers.benchmarks import VOCAB

SPEC_BENCH = (
  ('writing', 2),
  ('translation', 1),
  ('summarization', 1),
  ('qa', 1),
  ('math_reasoning', 1),
  ('rag', 1),
  ('coding', 2),
)


def test_spec_bench_has_six_categories_and_two_turns(tmp_path):
  path = tmp_path / 'question.jsonl'
  path.write_text(
    '\n'.join(
      json.dumps(
        {'question_id': i, 'category': name, 'turns': ['first', 'second'][:n]}
      )
      for i, (name, n) in enumerate(SPEC_BENCH)
    )
  )
  target = markov('folder', 0)._replace(tokenizer=CharacterTokenizer())
  asked = []

  def answer(firsts):
    asked.extend(firsts)
    return [[1, 2]] * len(firsts)

  made = prompts.collect(target, str(path), config(num_prompts=0), answer)
  assert len({p.category for p in made}) == 6
  assert [p.turn for p in made] == [0] * 7 + [1] * 2
  assert [p.question for p in made] == [*range(7), 0, 6]
  assert len(asked) == 2
  # The second turn stands behind the first and the target's own reply.
  text = 'first\n\nbc\n\nsecond'
  assert made[-1].tokens == tuple(ord(c) % VOCAB for c in text)
  # Where the first turn does not fit there is no reply, and no second turn.
  short = target._replace(lm=target.lm._replace(max_positions=24))
  asked.clear()
  settings = config(num_prompts=0, max_new_tokens=20)
  made = prompts.collect(short, str(path), settings, answer)
  assert not asked and [p.turn for p in made] == [0] * 7
  questions = prompts.read_spec_bench(str(path))
  few = prompts.balanced(questions, 6)
  assert len({q.category for q in few}) == 6
  # A larger count goes on behind a smaller one, up to the last question.
  assert prompts.balanced(questions, 7)[:6] == few
  assert prompts.balanced(questions, 9) == prompts.balanced(questions, 7)


@pytest.mark.parametrize('turns', ([], ['first', ' '], 'first', [1]))
def test_turns_that_are_none(tmp_path, turns):
  path = tmp_path / 'question.jsonl'
  good = {'category': 'qa', 'turns': ['what']}
  path.write_text('\n'.join(map(json.dumps, (good, good | {'turns': turns}))))
  with pytest.raises(ValueError, match='line 2: "turns" must be a list'):
    prompts.read_spec_bench(str(path))


@pytest.mark.parametrize(
  'line', ('{"turns": ["cut o', '{"prompt": "what"}', '3')
)
def test_a_line_that_is_no_question_is_named(tmp_path, line):
  path = tmp_path / 'question.jsonl'
  path.write_text(f'{{"turns": ["what"]}}\n\n{line}\n')
  with pytest.raises(ValueError, match='line 3 is no question of Spec-Bench'):
    prompts.read_spec_bench(str(path))


def test_questions_as_editors_write_them(tmp_path):
  path = tmp_path / 'question.jsonl'
  rows = [
    {'category': None, 'turns': ['a\u2028b\x85c']},
    {'category': 'writing', 'turns': ['d', 'e']},
  ]
  text = '\r\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
  path.write_bytes(f'\ufeff{text}\r\n'.encode())
  assert prompts.read_spec_bench(str(path)) == [
    prompts.Question('', ('a\u2028b\x85c',)),
    prompts.Question('mt_bench', ('d', 'e')),
  ]


def test_sources_that_a_drafter_does_not_know():
  target = markov('m', 0)
  short, long = (
    prompts.EncodedPrompt((1,) * 6),
    prompts.EncodedPrompt((1,) * 12),
  )

  def network(most):
    return target._replace(
      config=models.SpecDrafterConfig(
        VOCAB, 16, 8, 16, 1, 1, 2, max_source_positions=most
      )
    )

  networks = [target, network(99), network(8)]
  kept = prompts.fitting([short, long], target, config(), networks)
  assert kept == [short]
  with pytest.raises(ValueError, match='longer than the drafters .*8 tokens'):
    prompts.fitting([long], target, config(), networks)


def test_prompts_that_do_not_fit():
  lm = fakes.markov_lm(VOCAB)._replace(max_positions=28)
  target = markov('m', 0)._replace(lm=lm)
  short, long = (
    prompts.EncodedPrompt((1,) * 6),
    prompts.EncodedPrompt((1,) * 12),
  )
  assert prompts.fitting([short, long], target, config()) == [short]
  with pytest.raises(ValueError, match='No prompt fits'):
    prompts.fitting([long], target, config())


def test_bundled_prompts_where_none_are_named(tmp_path):
  told = []
  made = request.prepare(
    request.BenchmarkRequest(
      target=tiny.save(tmp_path / 'target'),
      drafters=('prompt_lookup',),
      source='',
      peers=(),
      config=config(num_prompts=2, max_new_tokens=4),
    ),
    told.append,
  )
  first = prompt_files.read_lines(str(text_lib.BUNDLED_PROMPTS))[:2]
  assert [prompt.text for prompt in made.prompts] == first
  assert told.count('no --input: taking the bundled English sentences') == 1


def test_named_prompts_and_random_ones():
  told = []
  bare, reads = markov('m', 0), CharacterTokenizer()
  assert not request.named_or_bundled(bare, '', told.append)
  reading = bare._replace(tokenizer=reads)
  assert request.named_or_bundled(reading, 'own.txt', told.append) == 'own.txt'
  assert not told
