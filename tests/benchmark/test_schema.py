"""Rows of results: flat, of one set of names, and documented."""

import json
import re

import pytest

from specjax.benchmark import plots
from specjax.benchmark import report
from specjax.benchmark import rows as rows_lib
from specjax.benchmark import schema
from specjax.benchmark import specdec_tables
from specjax.benchmark import table
from specjax.decoding import stats
from tests.helpers.source_code import ROOT

CHANGES = (ROOT / 'specjax' / 'CHANGES.md').read_text(encoding='utf-8')
RENAMED = CHANGES.split('### Renamed quantities')[1].split('### Gone')[0]
SCALARS = (str, int, float, bool, type(None))


def row(**changes):
  counts = stats.Counts(5, 2, 2, 6, 3, 4, (2, 2, 0), (2, 1, 0), (0, 1, 1, 0))
  made = {
    'engine': 'specjax',
    'drafter': 'suffix',
    'num_draft': 3,
    'speedup': 1.5,
    'temperature': float('nan'),
    'block_ms_by_width': {'1': 1.0, '4': 2.0},
  }
  return made | rows_lib.drafting(counts) | changes


def test_rows_are_flat_and_alike():
  text = report.flat_rows([row(), row(speedup=2, num_draft=0), {}])
  found = json.loads(text)
  assert isinstance(found, list) and len(found) == 3
  for one in found:
    assert list(one) == list(found[0])
    assert all(isinstance(value, SCALARS) for value in one.values())
  assert found[0]['speedup'] == 1.5 and found[0]['acceptance_rate'] == 0.75
  # JSON knows no NaN, and a reader of tables takes null.
  assert found[0]['temperature'] is None
  assert schema.nested(row()).keys() == {
    'acceptance_by_position',
    'accepted_histogram',
    'block_ms_by_width',
  }
  with pytest.raises(KeyError, match='no field nonsense'):
    schema.flat(row(nonsense=1))


def test_every_field_has_a_meaning_and_a_place():
  for field in schema.FIELDS:
    meaning = field.metadata['meaning']
    assert meaning and meaning[-1] not in '.,', field.name
    if 'terminal' in field.metadata:
      assert field.metadata['title'], field.name
  lines = schema.explanations()
  assert len(lines) == len(schema.FIELDS)
  assert '* `speedup`: tokens_per_second over that' in '\n'.join(lines)
  titles = [title for _, title, _ in schema.COLUMNS]
  assert len(set(titles)) == len(titles)
  # Meanings name only fields that there are.
  for name in re.findall(r'\b[a-z]+(?:_[a-z]+)+\b', ' '.join(lines)):
    assert name in schema.MEANINGS or name in (
      'top_candidates',
      'estimate_memory',
    )


def test_tables_read_fields_that_there_are():
  derived = {'rule', 'way', 'million', 'latency'}
  for columns in specdec_tables.TABLES.values():
    assert {key for key, _, _ in columns} <= set(schema.MEANINGS) | derived
  assert {key for key, _, _ in plots.PARTS} <= set(schema.MEANINGS)


def test_old_names_are_gone_and_new_ones_are_there():
  pairs = re.findall(r'^\| .+ \| (.+) \| (.+) \|$', RENAMED, re.M)
  assert len(pairs) > 10
  counts = {field for field in stats.Counts().as_dict()}
  known = set(schema.MEANINGS) | counts
  benchmark = re.findall(r'^\| benchmark \| (.+) \| (.+) \|$', RENAMED, re.M)
  for old, new in benchmark:
    for name in re.findall(r'`(\w+)`', old):
      assert name not in known, name
    for name in re.findall(r'`(\w+)`', new):
      assert name in known, name
  shown = table.text([row(check='ok', verifier='greedy', batch_size=1)])
  for title in ('verifier', 'acceptance', 'speed-up'):
    assert title in shown
