"""The explorer page, in a browser: what people write must not break it."""

import html
import re
import shutil
import subprocess
import types

import numpy as np
import pytest

from specjax.benchmark import explorer
from specjax.benchmark import prompts
from specjax.decoding import generate as generate_lib
from tests.helpers.benchmarks import config

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
TEXTS = {
  'script': 'a <b>bold</b> </script><script>document.title="no"</script> & "',
  'right to left': 'שלום world, مرحبا بك',
  'emoji': 'yes 👩🏽‍🚀 and ☃ no',
  'long': 'word\n' * 400,
  'empty': '',
}
assert len(TEXTS['long']) == 2000


class Bytes:
  """A token for each byte, so that characters are split over tokens."""

  def decode(self, tokens):
    return bytes(tokens).decode('utf-8', errors='replace')


def generation(tokens):
  """Every other token was drafted."""
  count = len(tokens)
  drafted = np.ones((1, -(-count // 2)), np.int32)
  emitted = np.full_like(drafted, 2)
  if count % 2:
    emitted[0, -1] = 1
  accepted = np.minimum(drafted, emitted - 1)
  return generate_lib.Generation(
    tokens=np.asarray([tokens], np.int32).reshape(1, count),
    prompt_length=np.asarray([0]),
    num_tokens=np.asarray([count]),
    status=np.asarray([generate_lib.LENGTH]),
    num_rounds=np.int32(drafted.shape[1]),
    rounds=generate_lib.Rounds(drafted, accepted, emitted),
  )


def page(texts):
  """A page with one run of these texts; none gives no run."""
  rows = [list(text.encode()) for text in texts]
  made = [
    prompts.EncodedPrompt((1,), f'prompt: {text[:60]}', category=text[:9])
    for text in texts
  ]
  row = {
    'drafter': 'a/<i>drafter</i>/export',
    'verifier': 'greedy',
    'num_draft': 1,
    'temperature': 0.0,
    'batch_size': 1,
    'speedup': 1.5,
    'num_rounds': 3,
    'tokens_per_second': 10.0,
    'block_efficiency': 1.5,
    'check': 'ok',
    'acceptance_rate': None,
    'acceptance_by_position': [0.5, None],
  }
  batches = [types.SimpleNamespace(rows=(i,)) for i in range(len(texts))]
  target = types.SimpleNamespace(name='x/<u>target<u>', tokenizer=Bytes())
  results = types.SimpleNamespace(
    setup=types.SimpleNamespace(target=target, prompts=made),
    environment={'device': 'cpu', 'time': '2024-11-30T00:00:00+00:00'},
    runs=[(row, batches, [generation(x) for x in rows])] if texts else [],
  )
  return explorer.page(results, config(explore=9))


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  """Gives the document as a browser has it: `(page, prompt) -> HTML`."""
  browser = next(filter(None, map(shutil.which, BROWSERS)), None)
  if browser is None:
    pytest.skip('no browser is installed: apt-get install chromium')
  folder = tmp_path_factory.mktemp('pages')

  def call(text, prompt=0):
    path = folder / 'explorer.html'
    path.write_text(text, encoding='utf-8')
    options = '--headless --no-sandbox --disable-gpu --dump-dom'.split()
    options.append(f'--user-data-dir={folder / "profile"}')
    done = subprocess.run(
      [browser, *options, f'{path.as_uri()}#0.{prompt}'],
      capture_output=True,
      timeout=120,
      check=True,
    )
    return done.stdout.decode('utf-8')

  return call


def inside(document, name):
  """HTML of the element with an id, to the end of its first closing tag."""
  found = re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)</\1>', document, re.S)
  return found.group(2)


def shown(document):
  """The generated text, from its tokens."""
  spans = re.findall(r'<span class="t \w" [^>]*>(.*?)</span>', document, re.S)
  return [html.unescape(span) for span in spans]


@pytest.mark.parametrize('place', range(4), ids=list(TEXTS)[:4])
def test_texts_are_shown_as_they_are(opened, place):
  texts = list(TEXTS.values())
  document = opened(page(texts), place)
  text = texts[place]
  found = shown(document)
  assert len(found) == len(text.encode())
  assert ''.join(found).replace(explorer.PART, '') == text
  # Titles, prompts and names are text as well.
  assert '<title>Speculative decoding, token by token</title>' in document
  assert html.unescape(inside(document, 'prompt')) == f'prompt: {text[:60]}'
  assert '&lt;u&gt;target' in document and '<u>target' not in document
  assert len(re.findall(r'<tr[^>]*tabindex', document)) == len(texts)
  # Both charts are drawn.
  assert document.count('<svg') == 2 and document.count('<rect') >= 2


def test_an_empty_answer_and_an_empty_run(opened):
  document = opened(page(list(TEXTS.values())), 4)
  assert not shown(document) and 'nothing drafted' in document
  document = opened(page([]))
  assert inside(document, 'text') == 'No run was measured.'
  assert 'on cpu' in inside(document, 'about')


def test_a_character_stands_at_its_last_token():
  tokens = list('a👩b☃'.encode())
  assert explorer.pieces(Bytes(), tokens) == (
    ['a', *explorer.PART * 3, '👩', 'b', *explorer.PART * 2, '☃']
  )
  # A byte that begins no character is shown once something follows.
  assert explorer.pieces(Bytes(), [97, 0xFF, 98]) == ['a', '·', '\ufffdb']
  text = 'é☃ and so on, ' * 40
  tokens = list(text.encode())
  made = ''.join(explorer.pieces(Bytes(), tokens)).replace(explorer.PART, '')
  assert made == text
  assert explorer.pieces(None, [7, 8]) == ['7 ', '8 ']
