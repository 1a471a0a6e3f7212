"""batch_size=auto takes the rows that memory has room for."""

import pytest

import specjax
from specjax.commands import config_files
from specjax.inference import auto_rows
from specjax.inference.config import DecodeConfig
from tests.helpers import tiny

LONGEST = 20


def rows(count, free, monkeypatch, **settings):
  monkeypatch.setattr(auto_rows, 'free_bytes', lambda: free)
  config = DecodeConfig(batch_size='auto', max_new_tokens=8, **settings)
  found = auto_rows.settled(
    config, tiny.DECODER, prompt_tokens=LONGEST, count=count
  )
  assert found.batch_size == found.rows_known
  return found.batch_size


def test_half_of_the_free_memory_is_filled(monkeypatch):
  needed = specjax.estimate_memory(
    tiny.DECODER,
    decode=DecodeConfig(batch_size=8, max_new_tokens=8),
    prompt_tokens=LONGEST,
  ).total
  assert rows(1000, 2 * needed, monkeypatch) == 8
  assert rows(1000, 2 * needed - 1, monkeypatch) == 4
  assert rows(1000, 0, monkeypatch) == 1
  # No more rows than there are answers, and no more than 64.
  assert rows(3, 1e12, monkeypatch) == 4
  assert rows(1000, 1e12, monkeypatch) == 64


def test_the_word_is_an_override_of_the_number():
  config, others = DecodeConfig(), ['decode.main', '--config.seed=1']
  for given in (
    ['--config.batch_size=auto'],
    ['--config.batch_size', 'auto'],
    ['-config.batch_size=auto'],
  ):
    found, rest = config_files.with_words(config, [*others, *given])
    assert found.batch_size == 'auto' and found.rows_known == 8
    assert rest == others
    found.validate()
  # Neither is an option of ours, and another part refuses them.
  for given in ('--batch_size=auto', 'batch_size=auto'):
    argv = [*others, given]
    assert config_files.with_words(config, argv) == (config, argv)
  with pytest.raises(ValueError, match='batch_size must be a whole number'):
    DecodeConfig(batch_size='many').validate()


def test_generate_takes_it(monkeypatch, tmp_path):
  monkeypatch.setattr(auto_rows, 'free_bytes', lambda: 1e12)
  model = specjax.load(tiny.save(tmp_path))
  settings = dict(max_new_tokens=5, batch_size='auto')
  (answer,) = specjax.generate(model, 'the cat', **settings)
  (plain,) = specjax.generate(model, 'the cat', max_new_tokens=5, batch_size=1)
  assert answer.tokens == plain.tokens
  assert auto_rows.free_bytes() > 0
