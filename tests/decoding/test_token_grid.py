"""Tokens in float32 depend on no width, batch, prompt width and capacity.

The logits do: XLA adds up a row in another order in other shapes. In float32
this noise is some 1e-5, and two best logits are seldom that close. In eight
bits it is multiplied by rounding, so that there the same grid must fail.
"""

import functools
import itertools
import json

import pytest

import specjax
from specjax import prompt_files
from specjax import text as text_lib
from tests.helpers import shared
from tests.helpers import token_grid

TRANSLATOR = f'{specjax.__path__[0]}/assets/demo_target'
NEW = 24


def _passages(model):
  """24 pairs of the bundled sentences."""
  sentences = prompt_files.read_lines(str(text_lib.BUNDLED_PROMPTS))[:8]
  pairs = list(itertools.permutations(sentences, 2))[:48:2]
  return [text_lib.encode(model.tokenizer, ' '.join(pair)) for pair in pairs]


@pytest.mark.slow
def test_float32_tokens_depend_on_no_shape():
  model = specjax.load(TRANSLATOR, dtype='float32')
  cells = token_grid.PAIRS
  assert len(cells) == 12
  for place, values in enumerate(
    (token_grid.WIDTHS, token_grid.BATCHES, (False, True), (False, True))
  ):
    assert {cell[place] for cell in cells} == set(values)
  assert _differing(model, _passages(model), cells, NEW) == {}


@pytest.mark.slow
def test_the_grid_has_power():
  """In eight bits tokens depend on the shapes, and the grid shows it."""
  model = specjax.load(TRANSLATOR, dtype='w8a8')
  cells = [c for c in token_grid.PAIRS if c.width == 16 and c.batch == 1]
  assert _differing(model, _passages(model), cells, NEW)


def _differing(model, rows, cells, new):
  plain = token_grid.plainly(model, rows, [c.rule for c in cells], new=new)
  return token_grid.differing(model, rows, cells, plain, new=new)


@functools.cache
def _translated(rule):
  """(translator, 96 passages of three sentences, their plain answers)."""
  model = specjax.load(TRANSLATOR, dtype='float32')
  path = shared.path('data', 'tatoeba_ende', 'test.en-de.tsv')
  lines = [line.split('\t')[0] for line in path.read_text().splitlines()]
  lines = list(dict.fromkeys(lines))[: 3 * 96]
  texts = [' '.join(lines[i : i + 3]) for i in range(0, len(lines), 3)]
  return _with_plain(model, texts, rule)


@functools.cache
def _told(rule):
  """(stories260K, the first words of 200 stories, their plain answers)."""
  model = specjax.load(shared.weights('stories260K'), dtype='float32')
  path = shared.path('data', 'tinystories_1k', 'train.jsonl')
  stories = map(json.loads, path.read_text().splitlines()[:200])
  texts = [' '.join(story['text'].split()[:12]) for story in stories]
  return _with_plain(model, texts, rule)


def _with_plain(model, texts, rule):
  rows = [text_lib.encode(model.tokenizer, text) for text in texts]
  return model, rows, token_grid.plainly(model, rows, [rule], new=48)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize('width, rule', token_grid.PIECES)
@pytest.mark.parametrize(
  'made, count',
  [
    pytest.param(_told, 200, id='stories'),
    pytest.param(_translated, 96, id='passages'),
  ],
)
def test_the_whole_grid(made, count, width, rule):
  model, rows, plain = made(rule)
  assert len(rows) == len(plain[rule]) == count
  values = (token_grid.BATCHES, (False, True), (False, True))
  cells = [
    token_grid.Cell(width, *rest, rule) for rest in itertools.product(*values)
  ]
  assert not token_grid.differing(model, rows, cells, plain, new=48)
