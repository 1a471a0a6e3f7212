"""Settings of the model, the optimiser and the objective of a run."""

import dataclasses

from specjax import validation
from specjax.models.common.layers import ACTIVATIONS
from specjax.training import losses

OPTIMIZERS = ('adamw', 'adafactor', 'muon')
SCHEDULES = ('cosine', 'rsqrt', 'constant')


def kinds() -> tuple[str, ...]:
  """Values of `family`, those of families that were registered included."""
  # Families import this module.
  from specjax.training.families import registry

  return registry.kinds()


@dataclasses.dataclass
class ModelConfig:
  """Shape of a new model; ignored where weights are given.

  Attributes:
    family: kind of network. t5 is an encoder-decoder and decoder a decoder-only
      model; spec_drafter and blockwise (heads on the target's last state) draft
      for a T5 target; parallel, medusa and eagle draft for a target of either
      kind, the last two with the width of the target.
    width: model width D.
    layers: number of decoder layers, and of encoder layers unless given.
    encoder_layers: number of encoder layers of a T5; 0 takes `layers`.
    heads: number of attention heads.
    head_dim: width of an attention head.
    kv_heads: number of key-value heads of a decoder; 0 takes `heads`.
    mlp: width of the feed-forward layer.
    activation: function in the feed-forward layer; with `gated`, of its gate.
    gated: whether the feed-forward layer has two input projections, one a gate.
    tie_embeddings: whether the output projection is the embedding table.
    dropout: share of activations set to 0 in training, from 0 to 0.95.
    max_positions: most positions of a decoder, in tokens.
    output_vocab: number of tokens that a drafter's head knows, the most
      frequent of the training targets; 0 keeps all. Not for decoder.
  """

  family: str = validation.choice('t5', kinds)
  width: int = 256
  layers: int = 6
  encoder_layers: int = 0
  activation: str = validation.choice('relu', tuple(ACTIVATIONS), checked=False)
  gated: bool = False
  mlp: int = 512
  heads: int = 4
  head_dim: int = 64
  kv_heads: int = 0
  tie_embeddings: bool = True
  dropout: float = 0.0
  max_positions: int = 2048
  output_vocab: int = 0

  def validate(self) -> None:
    """Raises ValueError with one sentence for a size that makes no model."""
    validation.check_choices(self, 'model.')
    for name in ('width', 'layers', 'heads', 'head_dim', 'mlp'):
      validation.at_least(f'model.{name}', getattr(self, name), 1)
    validation.between('model.dropout', self.dropout, 0, 0.95)
    validation.at_least('model.output_vocab', self.output_vocab, 0)


@dataclasses.dataclass
class OptimizerConfig:
  """Optimiser and learning-rate schedule.

  Attributes:
    name: optimiser. muon is Muon for the matrices of linear layers and AdamW
      for the rest: tables, heads, norms and biases.
    learning_rate: learning rate at its peak.
    schedule: course of the learning rate behind the warm-up; cosine ends at 0
      with the last step, rsqrt falls with the root of the step.
    warmup_steps: number of steps of linear rise to the peak.
    weight_decay: decoupled weight decay of matrices.
    b1: AdamW's decay of the mean gradient.
    b2: AdamW's decay of the mean squared gradient.
    eps: AdamW's least denominator, above 0.
    table_rate: learning rate of embeddings, norms and biases under muon, as a
      share of `learning_rate`.
    clip: largest global norm of a gradient; 0 clips nothing.
    accumulation: number of batches summed into one step.
    ema: decay of the averaged weights, which are evaluated and exported; 0
      keeps none.
  """

  name: str = validation.choice('adamw', OPTIMIZERS)
  learning_rate: float = 1e-3
  schedule: str = validation.choice('cosine', SCHEDULES)
  warmup_steps: int = 200
  weight_decay: float = 0.0
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  table_rate: float = 0.5
  clip: float = 1.0
  accumulation: int = 1
  ema: float = 0.0

  def validate(self) -> None:
    """Raises ValueError with one sentence for a value that cannot be."""
    validation.check_choices(self, 'optimizer.')
    for name in ('learning_rate', 'eps'):
      validation.positive(f'optimizer.{name}', getattr(self, name))
    validation.at_least('optimizer.accumulation', self.accumulation, 1)
    for name in ('warmup_steps', 'weight_decay', 'clip', 'table_rate'):
      validation.at_least(f'optimizer.{name}', getattr(self, name), 0)
    for name in ('ema', 'b1', 'b2'):
      validation.between(f'optimizer.{name}', getattr(self, name), 0, 0.999999)


@dataclasses.dataclass
class ObjectiveConfig:
  """The training objective.

  Attributes:
    name: distance from the target that is minimised; cross_entropy learns
      labels alone.
    temperature: divisor of both models' logits in the soft objectives, above 0.
    beta: weight of the target in the mixture of jsd, between 0 and 1.
    label_smoothing: share of a label's mass that cross_entropy spreads over the
      vocabulary, from 0 to 0.95.
    hard_weight: share of the loss that is cross entropy on the data's tokens,
      beside a soft objective, from 0 to 1.
    chunk: number of positions scored at once; 0 scores the whole row. Logits of
      both models exist for one chunk at a time, also in the backward pass.
  """

  name: str = validation.choice('cross_entropy', losses.NAMES, checked=False)
  temperature: float = 1.0
  beta: float = 0.5
  label_smoothing: float = 0.0
  hard_weight: float = 0.0
  chunk: int = 0

  def validate(self) -> None:
    """Raises ValueError with one sentence for a value that cannot be."""
    losses.check_name(self.name)
    validation.at_least('objective.chunk', self.chunk, 0)
    for name in ('label_smoothing', 'hard_weight'):
      most = 0.95 if name == 'label_smoothing' else 1
      validation.between(f'objective.{name}', getattr(self, name), 0, most)
    validation.positive('objective.temperature', self.temperature)
    if not 0 < self.beta < 1:
      raise ValueError(
        f'objective.beta must lie strictly between 0 and 1, not {self.beta}.'
      )
