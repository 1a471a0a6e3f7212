"""One static page: the generated text, token by token, and a table to sort."""

import json
import pathlib
from typing import Any, Sequence

from specjax.benchmark import check as check_lib
from specjax.benchmark import table

ACCEPTED, CORRECTED, BONUS, PLAIN = 'accepted', 'corrected', 'bonus', 'plain'
PAGE = pathlib.Path(__file__).with_name('explorer_page.html')
BIN = 16  # tokens of generated text a point of the second chart stands for


def page(results: Any, config: Any) -> str:
  """The page as text; it needs no network.

  Args:
    results: `runner.Results`.
    config: `BenchmarkConfig`; `explore` prompts of each case are shown.
  """
  data = {
    'target': results.setup.target.name,
    'device': results.environment['device'],
    'time': results.environment['time'],
    'runs': [
      _run(row, batches, generations, results.setup, config.explore)
      for row, batches, generations in results.runs
      if 'num_rounds' in row  # Of other engines no rounds are known.
    ],
  }
  text = json.dumps(data, ensure_ascii=False, separators=(',', ':'))
  # Nothing in the data may end the script it stands in.
  text = text.replace('<', '\\u003c')
  return PAGE.read_text(encoding='utf-8').replace('/*DATA*/null', text)


def _run(row, batches, generations, setup, most: int) -> dict:
  prompts, place = [], {}
  for batch, generation in zip(batches, generations):
    for index, number in enumerate(batch.rows):
      if number in place or len(prompts) >= most:
        continue
      place[number] = len(prompts)
      prompts.append(_prompt(setup, number, generation, index))
  keys = (
    'drafter', 'verifier', 'num_draft', 'temperature', 'batch_size', 'speedup',
    'tokens_per_second', 'block_efficiency', 'acceptance_rate', 'check',
  )  # fmt: skip
  return {
    **{key: row.get(key) for key in keys},
    'drafter': row['drafter'] + table.int8(row),
    'positions': row.get('acceptance_by_position') or [],
    'prompts': prompts,
  }


def _prompt(setup, number: int, generation, index: int) -> dict:
  prompt = setup.prompts[number]
  tokens = check_lib.new_tokens(generation, index)
  kinds, rounds = origins(
    generation.rounds.drafted[index],
    generation.rounds.accepted[index],
    generation.rounds.emitted[index],
    len(tokens),
  )
  texts = pieces(setup.target.tokenizer, tokens)
  counted = [k for k in kinds if k == ACCEPTED]
  calls = rounds[-1] + 1 if rounds else 0
  return {
    'number': number + 1,
    'category': prompt.category + (' (2nd turn)' if prompt.turn else ''),
    'prompt': prompt.text or ' '.join(map(str, prompt.tokens)),
    'pieces': [[t, k[0], r] for t, k, r in zip(texts, kinds, rounds)],
    'tokens': len(tokens),
    'calls': calls,
    'efficiency': len(tokens) / calls if calls else None,
    'accepted': len(counted) / len(tokens) if tokens else None,
    'bins': [
      sum(k == ACCEPTED for k in kinds[i : i + BIN]) / len(kinds[i : i + BIN])
      for i in range(0, len(kinds), BIN)
    ],
  }


def origins(
  drafted: Sequence[int],
  accepted: Sequence[int],
  emitted: Sequence[int],
  count: int,
) -> tuple[list[str], list[int]]:
  """Where each new token came from.

  Args:
    drafted: int [R], a row of `generate.Rounds`; likewise
    accepted: int [R] and
    emitted: int [R].
    count: new tokens of the row.

  Returns:
    For each token one of ACCEPTED (drafted), CORRECTED (put in place of a
    refused one), BONUS (behind a fully accepted draft) or PLAIN (no draft), and
    the number of its round.
  """
  kinds, rounds = [], []
  number = 0
  for d, a, e in zip(drafted, accepted, emitted):
    if len(kinds) >= count:
      break
    if e <= 0:
      continue
    last = PLAIN if d == 0 else (CORRECTED if a < d else BONUS)
    kinds += [ACCEPTED] * int(min(a, e)) + [last] * int(e - min(a, e))
    rounds += [number] * int(e)
    number += 1
  return kinds[:count], rounds[:count]


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
  """The text that each token adds; ids where there is no tokenizer."""
  if tokenizer is None:
    return [f'{token} ' for token in tokens]
  texts, before, start = [], '', 0
  for end in range(1, len(tokens) + 1):
    # A window, so that the cost does not grow with the square of the length.
    text = tokenizer.decode(list(tokens[start:end]))
    if text.startswith(before) and '\ufffd' not in text[len(before) :]:
      texts.append(text[len(before) :])
    else:
      texts.append('\u00b7')  # part of a character, or a rewritten end
    before = text
    if end - start > 32 and not text.endswith('\ufffd'):
      start = end - 8
      before = tokenizer.decode(list(tokens[start:end]))
  return texts
