"""The SpecDec paper's tables, statements and plots, from a benchmark's rows.

References:
  Xia et al. Speculative decoding. Findings of EMNLP 2023.
    https://arxiv.org/abs/2203.16487
"""

from collections.abc import Sequence
import itertools
from typing import Any

import jax

from specjax.benchmark import cost_model
from specjax.benchmark import plots
from specjax.benchmark import table

NAME = 'specdec.md'
SPEED = table.columns(
  """
  block_efficiency               block efficiency  {:.2f}
  draft_ms                       draft ms          {:.2f}
  block_ms                       block ms          {:.2f}
  step_ms                        step ms           {:.2f}
  over_greedy                    x greedy          {:.2f}
  over_beam                      x beam            {:.2f}
  predicted_speedup_from_counts  predicted         {:.2f}
  """
)
QUALITY = table.columns(
  """
  bleu           BLEU            {:.2f}
  relative_bleu  BLEU to target  {:.2f}
  exact_match    equal           {:.3f}
  edit_distance  edits/token     {:.3f}
  """
)
NETWORK = table.columns(
  """
  label    drafter  {}
  million  million  {:.2f}
  """
)
BATCH = table.columns(
  """
  batch_size         batch     {}
  way                decoding  {}
  latency            s/batch   {:.3f}
  tokens_per_second  tokens/s  {:.1f}
  over_greedy        x greedy  {:.2f}
  over_beam          x beam    {:.2f}
  peak_memory_bytes  peak MB
  """
)
RULE = table.columns('rule  beta, tau  {}')
TABLES = {
  'Slots': (('num_draft', 'k', '{}'), *RULE, *SPEED, QUALITY[0]),
  'Rules': (*RULE, *SPEED, *QUALITY),
  'Drafters': (*NETWORK, *RULE, *SPEED, QUALITY[0]),
  'Batches': BATCH,
  'Behaviour': (('way', 'decoding', '{}'), *QUALITY),
}


def _rule(row) -> str:
  if not row['num_draft']:
    return '-'
  exact = row['beta'] == 1
  return '1, -' if exact else f'{row["beta"]}, {row["tau"]:g}'


def prepared(results: Any, config: Any) -> dict[str, list[dict]]:
  """The rows of each table, by its title; {} of another experiment.

  Args:
    results: `runner.Results` of the run.
    config: `BenchmarkConfig`.
  """
  if results.alone is None:
    return {}
  rows, sizes = [], _sizes(results.setup)
  looks = plots.styles(results.rows)
  for row in results.rows:
    extra = {'rule': _rule(row), 'way': row['label']}
    extra['look'] = looks[plots.who(row)]
    if row['mode'] == 'plain':
      extra['way'] = 'greedy'
    elif row['num_draft']:
      extra['way'] = f'speculative, {extra["rule"]}'
    size = sizes.get(row['drafter'])
    extra['million'] = None if size is None else size / 1e6
    count = -(-row['num_prompts'] // row['batch_size'])
    extra['latency'] = row['seconds'] / count
    rows.append(dict(row) | extra)
  main = results.setup.sources[0].name
  dial = f'{config.dial[0]}, {config.dial[1]:g}'
  usual = [r for r in rows if r['rule'] in ('1, -', dial)]
  one = [r for r in rows if r['batch_size'] == 1]
  baselines = [r for r in one if not r['num_draft']]
  own = [r for r in one if r['drafter'] == main]
  at_table = [r for r in one if r['num_draft'] == config.table_draft]
  alone = {'way': 'the drafter alone', **results.alone}
  mine = [r for r in own if r['num_draft'] == config.table_draft]
  return {
    'Slots': sorted(
      [r for r in own if r in usual], key=lambda r: (r['rule'], r['num_draft'])
    ),
    'Rules': baselines + sorted(mine, key=_dial_order),
    'Drafters': [r for r in at_table if r in usual],
    'Batches': [
      r
      for r in rows
      if not r['num_draft']
      or (
        r['drafter'] == main
        and r['num_draft'] == config.table_draft
        and r in usual
      )
    ],
    'Behaviour': baselines + sorted(mine, key=_dial_order) + [alone],
  }


def _sizes(setup) -> dict[str, int]:
  """Parameters of the drafters' models by name."""
  return {
    source.name: sum(x.size for x in jax.tree.leaves(source.model.params))
    for source in setup.sources
    if source.model is not None
  }


def _dial_order(row):
  return row['beta'], row['tau']


def statements(tables: dict[str, list[dict]]) -> list[str]:
  """Conclusions from the tables, in sentences."""
  found = _crossovers(tables['Batches'])
  found += _ordering([r for r in tables['Drafters'] if r['rule'] == '1, -'])
  for row in tables['Rules']:
    if row['num_draft'] and row.get('draft_ms') is not None:
      found.append(_limits(row))
  exact = [r for r in tables['Rules'] if r['rule'] == '1, -']
  if exact:
    found.append(
      f'At beta = 1 {exact[0]["exact_match"]:.1%} of the outputs are the '
      "target's own, token for token (near ties of rounding aside); of the "
      f'drafter alone {tables["Behaviour"][-1]["exact_match"]:.1%}.'
    )
  return found


def _crossovers(rows) -> list[str]:
  found = []
  for rule in sorted({r['rule'] for r in rows if r['num_draft']}):
    own = [r for r in rows if r['rule'] == rule]
    slower = [r['batch_size'] for r in own if r['over_greedy'] < 1]
    most = max(r['batch_size'] for r in own)
    if not slower:
      found.append(
        f'With beta, tau = {rule} speculative decoding is faster than greedy '
        f'at every batch size up to {most}.'
      )
    else:
      found.append(
        f'With beta, tau = {rule} greedy decoding overtakes at batch '
        f'{min(slower)}.'
      )
  return found


def _ordering(rows) -> list[str]:
  """Whether the drafters' order is the paper's: heads, reduced, full."""
  if len(rows) < 2:
    return []
  ranked = sorted(rows, key=lambda r: r['block_efficiency'])
  ranking = ' < '.join(
    f'{r["label"]} ({r["block_efficiency"]:.2f})' for r in ranked
  )
  main = rows[0]
  heads = [r for r in rows if r['label'] == 'head-based']
  small = [r for r in rows if r['label'] not in (main['label'], 'head-based')]
  small = [r for r in small if (r['million'] or 0) < (main['million'] or 0)]
  order = heads + small[:1] + [main]
  values = [r['block_efficiency'] for r in order]
  holds = len(order) > 1 and all(a < b for a, b in itertools.pairwise(values))
  verdict = 'holds' if holds else 'does not hold'
  return [
    f'Tokens a round by drafter: {ranking}. The order of the paper (head-based '
    f'below reduced capacity below the full drafter) {verdict}.'
  ]


def _limits(row) -> str:
  """The part of a round that limits a row's speed, in a sentence."""
  step = row['step_ms']
  made = cost_model.Round(
    row['block_efficiency'], row['block_ms'] / step, row['draft_ms'] / step
  )
  parts = {'the draft': made.draft, 'the block': made.block}
  dear = max(parts, key=parts.get)
  return (
    f'beta, tau = {row["rule"]}, k = {row["num_draft"]}: a round costs '
    f'{made.cost:.2f} plain steps, most of it {dear} ({parts[dear]:.2f}), and '
    f'yields {made.tokens:.2f} tokens: predicted '
    f'{row["predicted_speedup_from_counts"]:.2f}x, measured '
    f'{row["over_greedy"]:.2f}x.'
  )


def text(results: Any, config: Any) -> str:
  """The page for a terminal; '' where there are no tables."""
  return table.wrapped(_page(results, config, (), table.aligned)).rstrip()


def markdown(results: Any, config: Any, images: Sequence[str] = ()) -> str:
  """The page as Markdown; '' where `prepared` has no tables."""

  def render(rows, columns):
    return table.markdown(table.cells_of(rows, columns))

  return _page(results, config, images, render)


def _page(results, config, images, render) -> str:
  """Title, settings, tables as `render` makes them, sentences, images."""
  where = results.environment
  tables = prepared(results, config)
  if not tables:
    return ''
  prompts = results.setup.prompts
  length = sum(len(p.tokens) for p in prompts) / len(prompts)
  parts = [
    f'# SpecDec on {table.brief(results.setup.target.name)}',
    f'Measured {where["time"]} on {where["device"]} ({where["processor"]}, '
    f'{where["cores"]} cores), {config.dtype}; {len(prompts)} sources of '
    f'{length:.0f} tokens on average, up to {config.max_new_tokens} new ones, '
    f'medians of {config.repetitions} repetitions, all ways of decoding taking '
    'turns. `x greedy` and `x beam` are ratios of seconds, prefill included; '
    '`predicted` is what the measured times of draft and block would allow '
    "over greedy; block efficiency counts the verifier's own tokens.",
  ]
  for title, columns in TABLES.items():
    parts += [f'## {title}', render(tables[title], columns)]
  parts += ['## In words', '\n'.join(f'* {s}' for s in statements(tables))]
  parts += [f'![{name}]({name})' for name in images]
  return '\n\n'.join(parts) + '\n'


def _slots(axes, tables) -> bool:
  rows = tables['Slots']
  other = axes.twinx()
  for index, rule in enumerate(sorted({r['rule'] for r in rows})):
    own = [r for r in rows if r['rule'] == rule]
    x = [r['num_draft'] for r in own]
    # One drafter, so one colour and marker; a rule has its kind of line.
    line = plots.LINES[index % len(plots.LINES)]
    style = own[0]['look'] | {'linestyle': line}
    axes.plot(x, [r['over_greedy'] for r in own], label=rule, **style)
    other.plot(x, [r['block_efficiency'] for r in own], alpha=0.4, **style)
  axes.set_title('Speed and block efficiency (pale) by slots')
  axes.set_xlabel('slots of a draft, k')
  axes.set_ylabel('times greedy decoding')
  other.set_ylabel('block efficiency')
  axes.axhline(1, color='#777777', linewidth=1)
  axes.set_xticks(sorted({r['num_draft'] for r in rows}))
  axes.grid(alpha=0.25)
  # Below the plot, where neither kind of line runs through it.
  handles, labels = axes.get_legend_handles_labels()
  axes.figure.legend(
    handles,
    labels,
    title='beta, tau',
    frameon=False,
    ncols=4,
    loc='outside lower center',
  )
  return bool(rows)


def _dial(axes, tables) -> bool:
  key: str | None = 'bleu'
  rows: list[dict[str, Any]] = tables['Rules']
  if any(r.get('bleu') is None for r in rows):
    key = 'relative_bleu'
  rows = [r for r in rows if r.get(key) is not None]
  for row in rows:
    axes.plot(row['over_greedy'], row[key], linestyle='', **row['look'])
    name = row['rule'] if row['num_draft'] else row['way']
    axes.annotate(f'  {name}', (row['over_greedy'], row[key]), fontsize=8)
  axes.set_title('Quality against speed, by beta and tau')
  axes.set_xlabel('times greedy decoding')
  axes.set_ylabel('BLEU' if key == 'bleu' else "BLEU to the target's outputs")
  axes.grid(alpha=0.25)
  axes.margins(x=0.15)
  return bool(rows)


PLOTS = {'specdec_slots.png': _slots, 'specdec_dial.png': _dial}
