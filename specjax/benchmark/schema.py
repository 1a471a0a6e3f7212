"""Fields of a benchmark's row: names, titles, units and meanings.

One dataclass from which the fields of results.json, the titles of tables and
the explanations in report.md come.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

Column = tuple[str, str, str | None]


def _field(
  meaning: str, title: str = '', form: str | None = '{}', **more: Any
) -> Any:
  """A field of `ResultRow`.

  Args:
    meaning: meaning of the value, with its unit.
    title: title of the column; '' for a field of no table.
    form: format of a shown value; None for bytes shown as megabytes.
    **more: further metadata: `terminal`, the column's rank on a terminal, 1
      being kept longest; `nested=True` for a value that is no plain number,
      text or truth value.
  """
  about = {'meaning': meaning, 'title': title, 'form': form} | more
  return dataclasses.field(default=None, metadata=about)


@dataclasses.dataclass
class ResultRow:
  """Measurements of one way to decode; None where a value is not known."""

  engine: str = _field('specjax, or the peer', 'engine', terminal=5)
  mode: str = _field('plain, speculative or beam')
  target: str = _field('as given')
  drafter: str = _field(
    'as given; none for plain decoding', 'drafter', terminal=1
  )
  verifier: str = _field(
    'the rule that decided; own for a peer', 'verifier', terminal=4
  )
  verifier_used: str = _field(
    'the same, also where a drafter exchanges the rule asked for'
  )
  num_draft: int = _field(
    'K, drafted tokens a round; 0 for plain decoding', 'K', terminal=2
  )
  tree: str = _field(
    'of the drafts, as given; empty for chains', 'tree', terminal=4
  )
  temperature: float = _field('0 is greedy', 'T', '{:g}', terminal=8)
  quantize: str = _field(
    'whose matrices are kept in int8: none, target, drafter or both',
    'quantize',
    terminal=4,
  )
  batch_size: int = _field('rows decoded together', 'batch', terminal=7)
  refill: bool = _field(
    'whether prompts took the places of finished rows, all in one go'
  )
  tokens_per_second: float = _field(
    'num_tokens / seconds', 'tokens/s', '{:.1f}', terminal=3
  )
  ms_per_token: float = _field(
    '1000 seconds / num_tokens', 'ms/token', '{:.2f}'
  )
  speedup: float = _field(
    'tokens_per_second over that of our plain decoding',
    'speed-up',
    '{:.2f}',
    terminal=1,
  )
  speedup_spec_bench: float = _field(
    'mean over samples (batches; at batch 1 the turns of a chat together) of '
    'their tokens a second, over the same mean of plain decoding',
    '(Spec-Bench)',
    '{:.2f}',
  )
  speedup_mean_of_ratios: float = _field('mean over samples of their speed-ups')
  decode_speedup: float = _field('as speedup, prefill left out')
  cost_ratio: float = _field(
    'c, draft_ms / num_draft / step_ms', 'cost ratio', '{:.3f}'
  )
  block_cost: float = _field('block_ms / step_ms', 'block cost', '{:.2f}')
  predicted_speedup_theorem: float = _field(
    'Leviathan 2023, theorem 3.8, of acceptance_rate and cost_ratio',
    'theorem 3.8',
    '{:.2f}',
  )
  predicted_speedup: float = _field(
    'the same with the block costing block_cost, and a round without a draft '
    'yielding one token',
    'predicted',
    '{:.2f}',
    terminal=6,
  )
  predicted_speedup_from_counts: float = _field(
    'the same with the measured tokens a round'
  )
  measured_over_predicted: float = _field(
    'decode_speedup / predicted_speedup', 'measured/predicted', '{:.2f}'
  )
  loop_efficiency: float = _field(
    '(draft_ms + block_ms) / round_ms', 'loop efficiency', '{:.2f}'
  )
  best_num_draft: int = _field(
    'K of the largest predicted speed-up by these costs; 0 for plain decoding, '
    'absent for trees',
    'best K',
    terminal=12,
  )
  best_predicted_speedup: float = _field('the predicted speed-up of that K')
  drafting_share: float = _field('share of rounds with something drafted')
  operations_factor: float = _field(
    'arithmetic a token over that of plain decoding, theorem 3.11',
    'operations',
    '{:.2f}',
  )
  generation_config: str = _field(
    "what was taken of the target's generation_config.json: safe, model, none"
  )
  from_generation_config: str = _field(
    'the values taken, as JSON; empty where there are none'
  )
  num_prompts: int = _field('prompts decoded')
  timed_prompts: int = _field(
    'prompts of the speed: those whose plain answer ends in no loop (a period '
    'of at most 8 tokens, 4 times or more)',
    'prompts',
    terminal=3,
  )
  timing_note: str = _field(
    'with loops: fewer than 3 prompts end in no loop, so that all are timed',
    'timed',
    terminal=2,
  )
  loop_share: float = _field(
    'tokens of such loops over all tokens, of all prompts', 'loops', '{:.2f}'
  )
  num_tokens: int = _field('new tokens of a pass over all batches')
  num_rounds: int = _field('target calls of the batches, prefill not counted')
  rows_busy: float = _field(
    'rows that ran in a round, of all rows of a batch',
    'rows busy',
    '{:.2f}',
    terminal=10,
  )
  num_target_calls: int = _field(
    'target calls of the rows while they were live'
  )
  num_drafted: int = _field('proposed tokens')
  num_accepted: int = _field('emitted tokens that were drafted')
  num_tested: int = _field('accepted ones and first refusals')
  block_efficiency: float = _field(
    'num_tokens / num_target_calls', 'block efficiency', '{:.2f}', terminal=9
  )
  acceptance_rate: float = _field(
    'num_accepted / num_tested of all prompts, in the rounds before the second '
    'period of a loop; in all rounds for random weights, simulated drafts and '
    'ignored end tokens',
    'acceptance',
    '{:.3f}',
    terminal=5,
  )
  acceptance_rate_with_loops: float = _field(
    'the same in all rounds', 'with loops', '{:.3f}'
  )
  draft_acceptance_rate: float = _field(
    'num_accepted / num_drafted', 'draft acceptance', '{:.3f}'
  )
  mean_acceptance_length: float = _field(
    '1 + accepted tokens a drafting round (vLLM)'
  )
  acceptance_by_position: list = _field(
    'accepted / tested for each draft slot, in the rounds of acceptance_rate',
    nested=True,
  )
  accepted_histogram: list = _field(
    'drafting rounds by number of accepted tokens', nested=True
  )
  step_ms: float = _field('the target alone over one token a row, milliseconds')
  draft_ms: float = _field('proposing once, milliseconds', 'draft ms', '{:.2f}')
  block_ms: float = _field(
    'the target alone over the blocks that were run, milliseconds',
    'block ms',
    '{:.2f}',
  )
  overhead_ms: float = _field(
    'round_ms - draft_ms - block_ms', 'overhead ms', '{:.2f}'
  )
  round_ms: float = _field('decode_seconds a round, milliseconds')
  block_ms_by_width: dict = _field(
    'the target alone by tokens in the block, milliseconds', nested=True
  )
  passes: int = _field('of a drafter network a round: one, or K')
  exact: bool = _field('whether the rule keeps the law of the target')
  beta: int = _field('candidates of the lossy rule top_candidates, with')
  tau: float = _field('the largest gap of log probabilities')
  dtype: str = _field('of weights and computing')
  seconds: float = _field(
    'sum over batches of the median seconds, prefill included'
  )
  prefill_seconds: float = _field('part of it before the first round')
  decode_seconds: float = _field('part of it in the loop')
  compile_seconds: float = _field(
    'spent before timing: compiling, or loading a peer', 'compile s', '{:.1f}'
  )
  num_repetitions: int = _field(
    'timed passes so far; fewer than asked for where a run was ended early'
  )
  repetition_seconds: list = _field('seconds of each repetition', nested=True)
  peak_memory_bytes: int = _field('most memory in use', 'peak MB', None)
  peak_memory_kind: str = _field('device, process, or process, ever')
  program_bytes: int = _field('temporary memory of the compiled loop')
  program_total_bytes: int = _field(
    'of a device: parameters, and results and temporaries of the program that '
    'needs most'
  )
  estimated_bytes: int = _field('what specjax.estimate_memory foresees of that')
  estimate_over_memory: float = _field(
    "the estimate over the device's own peak, else over program_total_bytes"
  )
  step_bytes: int = _field('weights and caches that a device reads for a step')
  bytes_per_second: float = _field('measured: reading a large array')
  bandwidth_ms: float = _field(
    '1000 step_bytes / bytes_per_second, the least for a step'
  )
  over_bandwidth: float = _field('step_ms / bandwidth_ms')
  label: str = _field('what the drafter is')
  over_greedy: float = _field(
    "plain decoding's seconds over these, prefill included"
  )
  over_beam: float = _field("the beam search's seconds over these")
  bleu: float = _field('corpus BLEU against the references (sacrebleu)')
  relative_bleu: float = _field("the same against the target's greedy outputs")
  exact_match: float = _field("share of outputs that equal the target's greedy")
  edit_distance: float = _field("edits a token of the target's greedy outputs")
  by_category: dict = _field(
    'speed-up and counts for each Spec-Bench category', nested=True
  )
  check: str = _field(
    'ok, FAILED, INCONCLUSIVE, lossy, of a peer ok or differs; null where '
    'nothing is checked',
    'check',
    terminal=1,
  )
  check_note: str = _field('why')
  time: str = _field('when the run began, UTC')
  device: str = _field('kind of the devices')
  platform: str = _field('cpu, gpu or tpu')
  num_devices: int = _field('devices there are')
  processor: str = _field('model of the processor')
  cores: int = _field('processor cores that this process may use')
  jax_version: str = _field('of JAX')


FIELDS = dataclasses.fields(ResultRow)
MEANINGS = {field.name: field.metadata['meaning'] for field in FIELDS}
NESTED = tuple(field.name for field in FIELDS if field.metadata.get('nested'))


def _column(field: dataclasses.Field) -> Column:
  about = field.metadata
  return field.name, about['title'], about['form']


# (key, title, how a value is shown) of the table of a report.
COLUMNS = tuple(_column(x) for x in FIELDS if x.metadata['title'])
# Those of a terminal, and the rank of each.
TERMINAL = tuple(_column(x) for x in FIELDS if 'terminal' in x.metadata)
RANKS = {
  field.name: field.metadata['terminal']
  for field in FIELDS
  if 'terminal' in field.metadata
}


def columns(*names: str, **titles: str) -> tuple[Column, ...]:
  """Columns of another table, with the titles and forms of the fields.

  Args:
    *names: names of fields that have a title.
    **titles: titles by field, in the place of the fields' own.
  """
  found = {key: (key, title, form) for key, title, form in COLUMNS}
  return tuple(
    (name, titles.get(name, found[name][1]), found[name][2]) for name in names
  )


def flat(row: dict) -> dict[str, Any]:
  """The plain values of a row, in the order of the dataclass.

  Args:
    row: row from `runner`.

  Raises:
    KeyError: the row has a field that is not in `ResultRow`.
  """
  unknown = set(row) - set(MEANINGS)
  if unknown:
    raise KeyError(f'ResultRow has no field {sorted(unknown)[0]}.')
  return {name: row.get(name) for name in MEANINGS if name not in NESTED}


def nested(row: dict) -> dict[str, Any]:
  """The lists and tables of a row."""
  return {name: row[name] for name in NESTED if row.get(name) is not None}


def explanations(names: Sequence[str] = tuple(MEANINGS)) -> list[str]:
  """Lines of Markdown: the meaning of each field."""
  return [f'* `{name}`: {MEANINGS[name]}' for name in names]
