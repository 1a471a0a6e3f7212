"""Certifies the bits of a target: are logits the same in shapes of any kind?

Whether they have to be is a property of the path that computes them
(`inference.paths`): XLA promises tokens in float32 and no bits, so that its
differences are reported and pass.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from specjax.certify.identity import Progress
from specjax.certify.verdict import EXIT
from specjax.certify.verdict import LOSSLESS
from specjax.certify.verdict import NOT_LOSSLESS
from specjax.checkpoints import model as model_lib
from specjax.decoding import precision
from specjax.inference import bits
from specjax.inference import paths

EQUAL, DIFFERENT, REPORTED = 'EQUAL', 'DIFFERENT', 'REPORTED'
Load = Callable[[paths.Precision], tuple[model_lib.Model, Sequence]]


class BitsReport(NamedTuple):
  """Bits of a target in some precisions.

  Attributes:
    path: path that computed.
    rows: one dict a cell: `dtype`, `width`, `batch`, `prompt_width`,
      `capacity`, `equal` and `max_abs_diff`.
  """

  path: paths.Path
  rows: list[dict[str, Any]]

  def gaps(self) -> dict[str, float]:
    """{precision: the largest distance of two logits that may turn round}."""
    most: dict[str, float] = {}
    for row in self.rows:
      known = most.get(row['dtype'], 0.0)
      most[row['dtype']] = max(known, row['max_abs_diff'])
    return {name: bits.gap(largest) for name, largest in most.items()}

  @property
  def verdict(self) -> str:
    """EQUAL; else DIFFERENT where the path promises bits, or REPORTED."""
    if all(row['equal'] for row in self.rows):
      return EQUAL
    return DIFFERENT if self.path.equal_bits else REPORTED

  @property
  def status(self) -> int:
    """Exit status of the command."""
    return EXIT[NOT_LOSSLESS if self.verdict == DIFFERENT else LOSSLESS]

  @property
  def last_line(self) -> str:
    """The verdict as the command prints it."""
    promise = 'bits in all shapes'
    if not self.path.equal_bits:
      tokens = ' and '.join(self.path.equal_tokens)
      promise = f'the same tokens in {tokens}, and no bits'
    return f'{self.verdict}: the path {self.path.name} promises {promise}'

  def as_dict(self) -> dict[str, Any]:
    """The report, JSON-able."""
    return {
      'verdict': self.verdict,
      'path': self.path.name,
      'gaps': self.gaps(),
      'bits': self.rows,
    }


def certify(
  load: Load,
  names: Sequence[str],
  *,
  path: paths.Path = paths.XLA,
  whole: bool = True,
  matmul_precision: str = precision.HIGHEST,
  progress: Progress = lambda text: None,
  report: Progress = lambda line: None,
) -> BitsReport:
  """Compares logits over block widths, batches, prompt widths and capacities.

  Args:
    load: function of a precision that returns the target and prompts' ids.
    names: names of precisions.
    path: path that computes; see `paths.Path`.
    whole: whether all cells of the grid are compared, in place of a few that
      hold every width beside every batch size.
    matmul_precision: precision of float32 products.
    progress: callback with a line before every cell.
    report: callback with a line for every precision.
  """
  rows: list[dict[str, Any]] = []
  for one in paths.PRECISIONS:
    if one.name not in names:
      continue
    target, prompts = load(one)
    prompts = [row[: bits.PROMPT_TOKENS] for row in prompts[: bits.PROMPTS]]
    cells = bits.grid(target.lm, prompts)
    lm = precision.of_lm(target.lm, matmul_precision)
    found = bits.compare(
      lm,
      target.params,
      prompts,
      cells if whole else bits.covering(cells),
      target.eos_ids,
      lambda text, name=one.name: progress(f'{name}, {text}'),
    )
    rows += [{'dtype': one.name, **row} for row in found]
    largest = max(row['max_abs_diff'] for row in found)
    report(
      f'{one.name}: equal logits in {sum(row["equal"] for row in found)} of '
      f'{len(found)} shapes; largest difference {largest:.3g}, so best logits '
      f'closer than {bits.gap(largest):.3g} may change places'
    )
  return BitsReport(path, rows)
