"""Settings of the model, the optimiser and the objective of a run."""

import dataclasses

from specjax import validation
from specjax.training import losses

OPTIMIZERS = ('adamw', 'adafactor', 'muon')
SCHEDULES = ('cosine', 'rsqrt', 'constant')


@dataclasses.dataclass
class ModelConfig:
  """Shape of a new model; ignored where weights are given.

  Attributes:
    family: 't5' (encoder-decoder), 'decoder', or a drafter for a T5 target:
      'spec_drafter', or 'blockwise' (heads on the target's last state); or one
      for a target of either kind: 'parallel', 'medusa' or 'eagle', the width of
      the last two being the target's.
    width: D.
    layers: decoder layers (and encoder layers unless given).
    encoder_layers: of a T5; 0 takes `layers`.
    heads, head_dim: attention heads and their width.
    kv_heads: key-value heads of a decoder; 0 takes `heads`.
    mlp: width of the feed-forward layer.
    activation: of the feed-forward layer; with `gated`, of its gate.
    gated: two input projections, one of them a gate.
    tie_embeddings: the output projection is the embedding table.
    dropout: share of activations set to 0 in training.
    max_positions: of a decoder.
    output_vocab: a drafter's head knows only this many tokens, the most
      frequent of the training targets; 0 keeps all. Not of 'decoder'.
  """

  family: str = 't5'
  width: int = 256
  layers: int = 6
  encoder_layers: int = 0
  activation: str = 'relu'
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
    for name in ('width', 'layers', 'heads', 'head_dim', 'mlp'):
      validation.at_least(f'model.{name}', getattr(self, name), 1)
    validation.between('model.dropout', self.dropout, 0, 0.95)
    validation.at_least('model.output_vocab', self.output_vocab, 0)


@dataclasses.dataclass
class OptimizerConfig:
  """How parameters move.

  Attributes:
    name: 'adamw', 'adafactor', or 'muon' (Muon for the matrices inside
      layers, AdamW for the rest).
    learning_rate: at the peak.
    schedule: 'cosine' (to 0 at the last step), 'rsqrt' or 'constant', after
      `warmup_steps` of linear rise.
    weight_decay: decoupled; matrices only.
    b1, b2, eps: of AdamW.
    table_rate: of 'muon': the learning rate of embeddings, norms and biases,
      as a fraction of `learning_rate`.
    clip: largest global norm of a gradient; 0 clips nothing.
    accumulation: batches summed into one step.
    ema: decay of the averaged weights that are evaluated and exported;
      0 keeps none.
  """

  name: str = 'adamw'
  learning_rate: float = 1e-3
  schedule: str = 'cosine'
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
    validation.one_of('optimizer.name', self.name, OPTIMIZERS)
    validation.one_of('optimizer.schedule', self.schedule, SCHEDULES)
    for name in ('learning_rate', 'eps'):
      validation.positive(f'optimizer.{name}', getattr(self, name))
    validation.at_least('optimizer.accumulation', self.accumulation, 1)
    for name in ('warmup_steps', 'weight_decay', 'clip', 'table_rate'):
      validation.at_least(f'optimizer.{name}', getattr(self, name), 0)
    for name in ('ema', 'b1', 'b2'):
      validation.between(f'optimizer.{name}', getattr(self, name), 0, 0.999999)


@dataclasses.dataclass
class ObjectiveConfig:
  """What is minimised.

  Attributes:
    name: one of `losses.NAMES`.
    temperature: of both distributions in the soft objectives.
    beta: of 'jsd'.
    label_smoothing: of 'cross_entropy'.
    hard_weight: share of the loss that is cross entropy on the data's tokens,
      beside a soft objective.
    chunk: positions scored at once; 0 scores the whole row. Logits of both
      models exist for one chunk at a time, also in the backward pass.
  """

  name: str = 'cross_entropy'
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
