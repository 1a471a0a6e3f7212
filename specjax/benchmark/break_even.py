"""Break-even of drafting in one pass against drafting token by token.

A drafter with masks is accepted less than one that sees its own tokens, and
drafts faster. It wins if its tokens a round, over the other's, exceed what its
round costs over what the other's costs; both sides are measured. With rounds of
1.5 and 2.1 steps it needs 1.5 / 2.1 = 0.71 of the other's tokens.
"""

from collections.abc import Sequence

from specjax.benchmark import cost_model
from specjax.benchmark import table

_COLUMNS = table.columns(
  """
  parallel     one pass           {}
  sequential   token by token     {}
  num_draft    K                  {}
  temperature  T                  {:g}
  verifier     verifier           {}
  needed       cost of a round    {:.2f}
  found        tokens of a round  {:.2f}
  predicted    predicted gain     {:.2f}
  measured     measured gain      {:.2f}
  """
)


def pairs(rows: Sequence[dict]) -> list[dict]:
  """Every one-pass row beside every token-by-token row of the same setting.

  Trees are left out: they take a pass for each depth, not for each slot.

  Returns:
    Dicts with `parallel`, `sequential` (drafters), the setting, `needed` (the
    cost of a round over the other's), `found` (tokens a round over the
    other's), `predicted` (their ratio, a gain above 1) and `measured` (the
    ratio of the speeds).
  """
  same = 'num_draft temperature batch_size verifier dtype quantize'.split()
  made, chains = [], [r for r in rows if r.get('passes') and not r['tree']]
  for one in chains:
    for other in chains:
      # `one` is the drafter of one pass, `other` that of a pass a token.
      if one['passes'] > 1 or other['passes'] == 1:
        continue
      # The same K too: with other lengths the difference would be the length's.
      if any(one[name] != other[name] for name in same):
        continue
      if not all(row.get('draft_ms') for row in (one, other)):
        continue
      one_round, other_round = (
        cost_model.Round(
          row['block_efficiency'], row['block_ms'], row['draft_ms']
        )
        for row in (one, other)
      )
      made.append(
        {name: one[name] for name in same}
        | {
          'parallel': one['drafter'],
          'sequential': other['drafter'],
          'needed': one_round.cost / other_round.cost,
          'found': one_round.tokens / other_round.tokens,
          'predicted': one_round.speedup / other_round.speedup,
          'measured': one['decode_speedup'] / other['decode_speedup'],
        }
      )
  return made


def markdown(rows: Sequence[dict]) -> str:
  """A section of the report, or '' where nothing can be compared."""
  found = pairs(rows)
  if not found:
    return ''
  return '\n\n'.join(
    (
      '## One pass against token by token',
      "The first drafter pays where its tokens a round, over the other's, "
      "exceed what its round costs over the other's.",
      table.markdown(table.cells_of(found, _COLUMNS)),
    )
  )


def draft_times(rows: Sequence[dict]) -> str:
  """Milliseconds of drafting by K, a line for each drafter; '' for one K."""
  found = {}
  for row in rows:
    if row.get('draft_ms') and not row.get('tree'):
      name = table.brief(row['drafter']) + table.int8(row)
      times = found.setdefault((name, row['batch_size']), {})
      # Rows that differ in verifier or temperature draft the same; the first
      # stands.
      times.setdefault(row['num_draft'], row['draft_ms'])
  lengths = sorted({k for times in found.values() for k in times})
  if len(lengths) < 2:
    return ''
  lines = [['drafter', 'batch', *map(str, lengths)]]
  for (name, batch), times in found.items():
    cells = [f'{times[k]:.2f}' if k in times else '-' for k in lengths]
    lines.append([name, str(batch), *cells])
  return '## Milliseconds of drafting by K\n\n' + table.markdown(lines)
