"""One static page: the generated text, token by token, and a table to sort."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from specjax.benchmark import table
from specjax.inference import decode_batch

ACCEPTED, CORRECTED, BONUS, PLAIN = 'accepted', 'corrected', 'bonus', 'plain'
PAGE = pathlib.Path(__file__).with_name('explorer_page.html')
BIN = 16  # tokens of generated text a point of the second chart stands for
PART = '\u00b7'  # of a character whose other tokens come later


def page(results: Any, config: Any) -> str:
  """The page as text; it needs no network.

  Args:
    results: `runner.Results` of the run.
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
  for batch, generation in zip(batches, generations, strict=True):
    for index, number in enumerate(batch.rows):
      if number in place or len(prompts) >= most:
        continue
      place[number] = len(prompts)
      prompts.append(_prompt(setup, number, generation, index))
  keys = (
    'drafter verifier num_draft temperature batch_size speedup '
    'tokens_per_second block_efficiency acceptance_rate check'
  ).split()
  return {
    **{key: row.get(key) for key in keys},
    'drafter': row['drafter'] + table.int8(row),
    'acceptance_by_position': row.get('acceptance_by_position') or [],
    'prompts': prompts,
  }


def _prompt(setup, number: int, generation, index: int) -> dict:
  prompt = setup.prompts[number]
  tokens = decode_batch.new_tokens(generation, index)
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
    'pieces': [
      [t, k[0], r] for t, k, r in zip(texts, kinds, rounds, strict=True)
    ],
    'num_tokens': len(tokens),
    'num_target_calls': calls,
    'block_efficiency': len(tokens) / calls if calls else None,
    'drafted_share': len(counted) / len(tokens) if tokens else None,
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
  """Origin of each new token.

  Args:
    drafted: tokens drafted in each round, int [R], a row of `generate.Rounds`.
    accepted: tokens accepted in each round, int [R].
    emitted: tokens emitted in each round, int [R].
    count: number of new tokens of the row.

  Returns:
    For each token one of ACCEPTED (drafted), CORRECTED (put in place of a
    refused one), BONUS (behind a fully accepted draft) or PLAIN (no draft), and
    the number of its round.
  """
  # drafted [3, 3, 0], accepted [1, 3, 0], emitted [2, 4, 1]: round 0 gives
  # accepted corrected, round 1 accepted accepted accepted bonus, round 2 plain;
  # the rounds of the tokens are [0, 0, 1, 1, 1, 1, 2].
  kinds, rounds = [], []
  number = 0
  for d, a, e in zip(drafted, accepted, emitted, strict=True):
    if len(kinds) >= count:
      break
    if e <= 0:  # The row had ended before its batch did.
      continue
    last = PLAIN if d == 0 else (CORRECTED if a < d else BONUS)
    kinds += [ACCEPTED] * int(min(a, e)) + [last] * int(e - min(a, e))
    rounds += [number] * int(e)
    number += 1
  return kinds[:count], rounds[:count]


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
  """The text that each token adds; ids where there is no tokenizer.

  A character of several tokens stands at its last one, and PART at the others:
  the bytes of an emoji in three tokens give PART, PART and the emoji.
  """
  if tokenizer is None:
    return [f'{token} ' for token in tokens]
  texts, whole, start = [], '', 0
  for end in range(1, len(tokens) + 1):
    # A window, so that the cost does not grow with the square of the length.
    text = tokenizer.decode(list(tokens[start:end]))
    new = text[len(whole) :]
    if not text.startswith(whole):  # The end was rewritten.
      texts.append(PART)
      whole = text
    elif new.endswith('\ufffd'):  # The rest of the character may come yet.
      texts.append(PART)
    else:
      texts.append(new)
      whole = text
    if end - start > 32 and whole == text:
      start = end - 8
      whole = tokenizer.decode(list(tokens[start:end]))
  return texts
