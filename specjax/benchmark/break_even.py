"""Does drafting in one pass beat drafting token by token?

A drafter with masks is accepted less than one that sees its own tokens, and
drafts faster. It wins if its tokens a round, over the other's, exceed what its
round costs over what the other's costs; both sides are measured.
"""

from typing import Any, Sequence

from specjax.benchmark import table


def passes(case: Any) -> dict[str, Any]:
  """How often a case's network runs to draft a round; {} for other drafters."""
  source = case.source
  if not case.drafts or source.model is None or source.entry.wraps:
    return {}
  return {'passes': 1 if case.assembled.plan.one_pass else case.num_draft}


def pairs(rows: Sequence[dict]) -> list[dict]:
  """Every one-pass row beside every token-by-token row of the same setting.

  Of chains: a tree is drafted in a pass for each depth, not for each slot.

  Returns:
    Dicts with `parallel`, `sequential` (drafters), the setting, `needed` (the
    cost of a round over the other's), `found` (tokens a round over the
    other's), `predicted` (their ratio, a gain above 1) and `measured` (the
    ratio of the speeds).
  """
  same = (
    'num_draft', 'temperature', 'batch_size', 'verifier', 'dtype', 'quantize',
  )  # fmt: skip
  made, chains = [], [r for r in rows if r.get('passes') and not r['tree']]
  for one in chains:
    for other in chains:
      if one['passes'] > 1 or other['passes'] == 1:
        continue
      if any(one[name] != other[name] for name in same):
        continue
      if not all(row.get('draft_ms') for row in (one, other)):
        continue
      needed, tokens = (
        (one['draft_ms'] + one['verify_ms'])
        / (other['draft_ms'] + other['verify_ms']),
        one['block_efficiency'] / other['block_efficiency'],
      )
      made.append(
        {name: one[name] for name in same}
        | {
          'parallel': one['drafter'],
          'sequential': other['drafter'],
          'needed': needed,
          'found': tokens,
          'predicted': tokens / needed,
          'measured': one['decode_speedup'] / other['decode_speedup'],
        }
      )
  return made


def markdown(rows: Sequence[dict]) -> str:
  """A section of the report, or '' where nothing can be compared."""
  found = pairs(rows)
  if not found:
    return ''
  lines = [
    '## One pass against token by token',
    '',
    "The first drafter pays where its tokens a round, over the other's, exceed "
    "what its round costs over the other's.",
    '',
    '| one pass | token by token | K | T | verify | cost ratio | token ratio '
    '| predicted gain | measured gain |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for row in found:
    names = table.brief(row['parallel']), table.brief(row['sequential'])
    numbers = [row[k] for k in ('needed', 'found', 'predicted', 'measured')]
    lines.append(
      f'| {names[0]} | {names[1]} | {row["num_draft"]} | '
      f'{row["temperature"]:g} | {row["verifier"]} | '
      + ' | '.join(f'{value:.2f}' for value in numbers)
      + ' |'
    )
  return '\n'.join(lines)


def draft_times(rows: Sequence[dict]) -> str:
  """Milliseconds of drafting by K, a line for each drafter; '' for one K."""
  found = {}
  for row in rows:
    if row.get('draft_ms') and not row.get('tree'):
      name = table.brief(row['drafter']) + table.int8(row)
      times = found.setdefault((name, row['batch_size']), {})
      times.setdefault(row['num_draft'], row['draft_ms'])
  lengths = sorted({k for times in found.values() for k in times})
  if len(lengths) < 2:
    return ''
  lines = [
    '## Milliseconds of drafting by K',
    '',
    '| drafter | batch | ' + ' | '.join(map(str, lengths)) + ' |',
    '|---|---|' + '---|' * len(lengths),
  ]
  for (name, batch), times in found.items():
    cells = [f'{times[k]:.2f}' if k in times else '-' for k in lengths]
    lines.append(f'| {name} | {batch} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)
