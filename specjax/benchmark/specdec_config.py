"""Settings of SpecDec's experiment."""

import dataclasses

from specjax import validation
from specjax.benchmark.config import BenchmarkConfig


@dataclasses.dataclass
class SpecDecConfig(BenchmarkConfig):
  """As `BenchmarkConfig`, in four tables; the first drafter is the main one.

  At batch 1: the main drafter with each of `num_draft`; each (beta, tau) with
  `table_draft` slots; each drafter with `table_draft`. Then the main drafter,
  plain decoding and beam search at each of `batch_size`. `verifier` and
  `temperature` keep their defaults.

  Attributes:
    relaxed: pairs (beta, tau) of the rule `top_candidates`; (1, 0) is exact.
    dial: the pair used outside the table of pairs, beside the exact rule.
    table_draft: slots in the tables that do not vary them.
    num_beams: of the beam search; 0 leaves it out.
    join: so many sentence pairs of a .tsv file make a passage; 1 joins none.
  """

  relaxed: tuple = ((1, 0.0), (3, 1.0), (5, 3.0), (5, 5.0))
  dial: tuple = (3, 1.0)
  table_draft: int = 10
  num_beams: int = 5
  join: int = 1

  def validate(self) -> None:
    super().validate()
    for field, lowest in (('table_draft', 1), ('num_beams', 0), ('join', 1)):
      validation.whole(field, getattr(self, field), lowest)
    named = [('relaxed holds pairs', pair) for pair in self.relaxed]
    for what, pair in (*named, ('dial is one pair', self.dial)):
      if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f'{what} (beta, tau), not {pair!r}.')
      validation.whole('beta', pair[0], 1)
      if not validation.is_number(pair[1]) or not pair[1] >= 0:
        raise ValueError(f'tau must be 0 or more, not {pair[1]}.')
    if self.temperature != (0.0,):
      raise ValueError(
        'This experiment decodes greedily; leave temperature at (0.0,).'
      )
    if self.verifier != ('auto',):
      raise ValueError(
        "This experiment sets the rules itself; leave verifier at ('auto',) "
        'and change relaxed and dial.'
      )
