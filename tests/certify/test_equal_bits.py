"""Logits compared to the bit, and what a path promises of them."""

import json

import pytest

from decode import certify
from specjax.certify import equal_bits
from specjax.commands import cli
from specjax.inference import bits
from specjax.inference import paths
from tests.helpers import chains
from tests.helpers import tiny

FIELDS = 'dtype width batch prompt_width capacity equal max_abs_diff'.split()
PROMISING = paths.XLA._replace(name='native', equal_bits=True)


def _certify(path, noise=0.0):
  """Bits of a target whose logits are off by `noise` at width 9."""
  model = chains.model()
  lm = model.lm

  def extend(params, cache, tokens, *args, **kwargs):
    scored, cache = lm.extend(params, cache, tokens, *args, **kwargs)
    off = noise * (tokens.shape[1] == 9)
    return scored.replace(logits=scored.logits + off), cache

  model = model._replace(lm=lm._replace(extend=extend))
  return equal_bits.certify(
    lambda one: (model, chains.SOUND), ['float32'], path=path, whole=False
  )


def test_a_path_that_promises_bits_must_keep_them():
  made = _certify(PROMISING)
  assert made.verdict == equal_bits.EQUAL and made.status == 0
  assert made.gaps() == {'float32': 0.0}
  wrong = _certify(PROMISING, 0.25)
  assert wrong.verdict == equal_bits.DIFFERENT and wrong.status == 1
  assert {row['width'] for row in wrong.rows if not row['equal']} == {9}
  assert {row['max_abs_diff'] for row in wrong.rows} == {0.0, 0.25}
  # Two logits of 0.25 more and less may change places at half a logit.
  assert wrong.gaps() == {'float32': 0.5}
  reported = _certify(paths.XLA, 0.25)
  assert reported.verdict == equal_bits.REPORTED and reported.status == 0
  assert reported.rows == wrong.rows


def test_the_grid_holds_all_shapes():
  cells = bits.grid(chains.model().lm, chains.SOUND)
  assert len(cells) == len(set(cells)) == 5 * 4 * 2 * 2
  assert cells[0] == min(cells)
  few = bits.covering(cells)
  assert len(few) == 20 and few[0] == cells[0]
  for first, second in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]:
    wanted = {(cell[first], cell[second]) for cell in cells}
    assert {(cell[first], cell[second]) for cell in few} == wanted


@pytest.mark.slow
def test_the_command_writes_json_and_reports(tmp_path, capsys):
  precision = 'int8'
  folder, path = tiny.save(tmp_path / 'target'), tmp_path / 'bits.json'
  asked = tmp_path / 'prompts.txt'
  asked.write_text('the cat\na dog ran to the red house\n')
  flags = [f'--target={folder}', f'--input={asked}', f'--json={path}']
  flags += ['--check=bits', f'--precision={precision}']
  assert cli.call(certify.main, ['', *flags, '--config.effort=quick']) == 0
  found = json.loads(path.read_text())
  assert len(found['bits']) == 20 and list(found['bits'][0]) == FIELDS
  assert {row['dtype'] for row in found['bits']} == {precision}
  assert found['bits'][0]['equal'] and found['path'] == 'xla'
  assert found['gaps'][precision] < 1e-3
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith(found['verdict'])


@pytest.mark.parametrize('name', ['float32', 'bfloat16'])
def test_precisions_are_known_by_the_weights(name):
  params = {'norm': {'weight': chains.model().params['source'].astype(name)}}
  assert paths.precision_of(params) == name
  note = paths.XLA.note(name)
  assert bool(note) == (name != 'float32')
  if note:
    assert note == (
      'In bfloat16 tokens may depend on batch_size and num_draft; in float32 '
      'they do not.'
    )
