"""The record that describes how a kind of network is trained.

A training family is a file in this folder that ends in a `FAMILY` of this
type and has one line in `registry`. Settings of its own are
`--config.families.NAME.FIELD`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from specjax import base
from specjax import options as options_lib
from specjax.checkpoints import model as model_lib
from specjax.training.data import sources as sources_lib
from specjax.training.data.batches import Batches
from specjax.training.step import Objective

# Metrics of an evaluation: acceptance rate at depths 1, 2 and so on.
BY_DEPTH = 'accepted_at_'


class TrainingInputs(NamedTuple):
  """Settings, models and data that a run is built from.

  Attributes:
    config: `TrainConfig`.
    teacher: the target that a drafter learns from, or None.
    initial: the model whose weights training begins with, or None.
    tokenizer: tokenizer of the trained model.
    sources: examples that were read.
  """

  config: Any
  teacher: model_lib.Model | None
  initial: model_lib.Model | None
  tokenizer: Any
  sources: list[sources_lib.ExampleSource]

  @property
  def options(self) -> Any:
    """Settings of the training family."""
    return options_lib.of(self.config.families, self.config.family)

  @property
  def eos_id(self) -> int:
    """The tokenizer's end token."""
    return self.tokenizer.eos_token_id

  @property
  def pad_id(self) -> int:
    """The tokenizer's padding, or its end token."""
    pad_id = self.tokenizer.pad_token_id
    return self.eos_id if pad_id is None else pad_id

  def output_ids(self) -> tuple[int, ...]:
    """Tokens that a reduced head scores; () for all."""
    count = self.config.model.output_vocab
    if not count:
      return ()
    return sources_lib.frequent_ids(self.sources, count, self.eos_id)


def _unchanged(config: Any, metrics: Mapping[str, float]) -> Any:
  """The config as it is."""
  del metrics
  return config


class TrainingFamily(NamedTuple):
  """A kind of network: its construction and its objective.

  Attributes:
    name: name in `--config.families.NAME` and in messages.
    kinds: () -> values of `--config.model.family` that it trains.
    validate: (TrainConfig, options) -> None; raises ValueError in one sentence
      for settings that cannot work.
    check: (`TrainingInputs` before anything else is read) -> None; raises
      ValueError where teacher or initial weights do not fit.
    new_config: (`TrainingInputs`) -> config of the trained network, of a model
      family.
    objective: (`TrainingInputs`, config of the network, its module) ->
      `Objective`.
    initialiser: (`TrainingInputs`, config of the network) -> (key ->
      parameters).
    options: dataclass of settings of its own, with a `validate()`.
    batches: training batches -> batches with further arrays for the objective.
    measured: (config of the network, metrics) -> the config that is exported.
    summary: the networks it trains, for help.
  """

  name: str
  kinds: Callable[[], tuple[str, ...]]
  validate: Callable[[Any, Any], None]
  new_config: Callable[[TrainingInputs], Any]
  objective: Callable[[TrainingInputs, Any, Any], Objective]
  initialiser: Callable[
    [TrainingInputs, Any], Callable[[base.Array], base.PyTree]
  ]
  options: type = options_lib.NoOptions
  check: Callable[[TrainingInputs], None] = lambda given: None
  batches: Callable[[Batches], Batches] = lambda batches: batches
  measured: Callable[[Any, Mapping[str, float]], Any] = _unchanged
  summary: str = ''
